"""The loss of the paper: K = K_PM + μ₁·K_FN + μ₂·K_RE, equations (10) to (16).

Shapes: B pictures; the two columns of every B×2 are negative, positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
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

    def __post_init__(self) -> None:
        if min(self.perception, self.regression, self.fusion) < 0 or not 0 <= self.smoothing < 1:
            raise ValueError(f"expected weights of at least 0 and smoothing in [0, 1), found {self}")


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
        labels: int64 B, 0 negative and 1 positive.
        weights: μ₁, μ₂ and ε.
        sample_weight: B, at least 0. A picture of weight 2 counts like two of weight 1, one of weight 0
            not at all; the scale cancels.
    """
    logits, intensities, scores = (_widened(t) for t in (output.logits, output.intensities, output.branch_scores))
    target = _smoothed_target(torch.zeros_like(scores) if weights.uniform else scores, labels, weights.smoothing)
    perception = _mean(F.cross_entropy(scores, labels, reduction="none"), sample_weight)
    fusion = _mean(-(target * logits.log_softmax(dim=1)).sum(dim=1), sample_weight)
    regression = _mean(_intensity_error(intensities, labels), sample_weight)
    total = weights.perception * perception + weights.fusion * fusion + weights.regression * regression
    return Losses(total, perception, fusion, regression)


def _smoothed_target(scores: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """B×2: T = (1−ε)·onehot(label) + ε·stopgrad(u), u = softmax(scores), equations (14) and (16)."""
    onehot = F.one_hot(labels, num_classes=2).to(scores.dtype)
    return (1 - smoothing) * onehot + smoothing * scores.detach().softmax(dim=1)


def _intensity_error(intensities: Tensor, labels: Tensor) -> Tensor:
    """B: |tanh(s) − tanh(y_t − y_m)|, s = ±1 the label, equation (15)."""
    sign = (2 * labels - 1).to(intensities.dtype)
    difference = intensities[:, POSITIVE] - intensities[:, NEGATIVE]
    return (sign.tanh() - difference.tanh()).abs()


def _widened(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _mean(losses: Tensor, sample_weight: Tensor | None) -> Tensor:
    if sample_weight is None:
        return losses.mean()
    weight = sample_weight.to(losses.dtype)
    smallest = torch.finfo(losses.dtype).tiny  # a batch in which every weight is 0 has loss 0, not NaN
    return (losses * weight).sum() / weight.sum().clamp_min(smallest)
