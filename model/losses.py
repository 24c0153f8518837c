"""The loss of the paper: K = K_PM + μ₁·K_FN + μ₂·K_RE, equations (10) to (16), for labels that may be shares.

A label is the share of positive among those who judged a picture, in [0, 1]. Of labels 0 and 1 every loss is exactly
the paper's; K_RE is with a `regression_tolerance` of 0. Shapes: B pictures; the two columns of every B×2 are negative,
positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from model.network import NEGATIVE, POSITIVE, PolarityOutput


@dataclass(frozen=True)
class LossWeights:
    """What each part of equation (10) counts for."""

    perception: float = 1.0
    """The weight of K_PM; 1 in the paper."""
    regression: float = 1.0
    """μ₂, the weight of K_RE."""
    fusion: float = 1.0
    """μ₁, the weight of K_FN."""
    smoothing: float = 0.1
    """ε of equation (16): how much of the target comes from the branches."""
    uniform: bool = False
    """Ordinary label smoothing: ε is dealt evenly, not by the branches."""
    regression_scale: float = 1.0
    """What the difference of intensities in equation (15) is multiplied by; 1 in the paper, which thereby asks for
    a difference of 1, that no two intensities have."""
    regression_tolerance: float = 0.4
    """How far the two tanh of equation (15) may lie apart at no loss; 0 in the paper, which drives both intensities to
    their ends. 0.4 leaves a difference of 0.38 alone where the label is 0 or 1. docs/model.md has the measurements."""

    def __post_init__(self) -> None:
        if min(self.perception, self.regression, self.fusion) < 0 or not 0 <= self.smoothing < 1:
            raise ValueError(f"expected weights of at least 0 and smoothing in [0, 1), found {self}")
        if not self.regression_scale > 0 or self.regression_tolerance < 0:
            raise ValueError(f"expected regression_scale above 0 and regression_tolerance of at least 0, found {self}")


class Losses(NamedTuple):
    """Scalars, float32 (float64 where the network is)."""

    total: Tensor
    """K, equation (10)."""
    perception: Tensor
    """K_PM, equation (11)."""
    fusion: Tensor
    """K_FN, equation (16)."""
    regression: Tensor
    """K_RE, equation (15)."""


def polarity_loss(
    output: PolarityOutput, labels: Tensor, weights: LossWeights, sample_weight: Tensor | None = None
) -> Losses:
    """Equation (10) over a batch.

    Args:
        output: of B pictures, in any float type; half types are widened, because tanh and the logarithm
            of a bfloat16 lose the last digits that training lives on.
        labels: B, in any type, in [0, 1]: 0 negative, 1 positive, a share between them a soft target.
        weights: μ₁, μ₂ and ε.
        sample_weight: B, at least 0. A picture of weight 2 counts like two of weight 1, one of weight 0
            not at all; the scale cancels.
    """
    logits, intensities, scores = (_widened(t) for t in (output.logits, output.intensities, output.branch_scores))
    shares = labels.to(scores.dtype)
    onehot = torch.stack([1 - shares, shares], dim=1)
    smoothing = torch.full_like(scores, 0.5) if weights.uniform else scores.detach().softmax(dim=1)
    target = (1 - weights.smoothing) * onehot + weights.smoothing * smoothing
    perception = _mean(_cross_entropy(onehot, scores), sample_weight)
    fusion = _mean(_cross_entropy(target, logits), sample_weight)
    regression = _mean(_intensity_error(intensities, shares, weights), sample_weight)
    total = weights.perception * perception + weights.fusion * fusion + weights.regression * regression
    return Losses(total, perception, fusion, regression)


def _cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    """B: −Σ_j target_j · log softmax(logits)_j, equations (11) and (16)."""
    return -(target * logits.log_softmax(dim=1)).sum(dim=1)


def _intensity_error(intensities: Tensor, shares: Tensor, weights: LossWeights) -> Tensor:
    """B: |tanh(s) − tanh(y_t − y_m)|, s = 2·share − 1, equation (15), scaled and less what is tolerated."""
    difference = weights.regression_scale * (intensities[:, POSITIVE] - intensities[:, NEGATIVE])
    error = ((2 * shares.to(difference.dtype) - 1).tanh() - difference.tanh()).abs()
    return (error - weights.regression_tolerance).clamp_min(0)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _mean(losses: Tensor, sample_weight: Tensor | None) -> Tensor:
    if sample_weight is None:
        return losses.mean()
    weight = sample_weight.to(losses.dtype)
    smallest = torch.finfo(losses.dtype).tiny  # a batch in which every weight is 0 has loss 0, not NaN
    return (losses * weight).sum() / weight.sum().clamp_min(smallest)
