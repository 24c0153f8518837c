"""Trained networks made ready to answer only: one trunk, folded and in a smaller float, and the heads that stand on it.

From pixels to what is kept. Equal to the networks themselves but for rounding; tests/test_folding.py holds the
tolerances. Shapes: B pictures; S the side of `Preprocessing.image_size`; E the size of the embedding.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from model.look import LookNetwork
from model.network import NEGATIVE, POSITIVE, PolarityNetwork, PolarityOutput
from model.preprocessing import Preprocessing

Network = TypeVar("Network", PolarityNetwork, LookNetwork)

RAW_SCORES = ("logit", "negative_intensity", "positive_intensity")  # columns: what a network says, uncalibrated


class Computed(nn.Module):
    """A backbone that computes in another float and answers in float32.

    What stands on it stays in float32: it is a fiftieth of the work, and the polarity is a small difference.
    """

    def __init__(self, backbone: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.backbone = backbone.to(dtype)
        self.dtype = dtype

    def forward(self, pictures: Tensor) -> Tensor:
        """B×3×H×W float32 → B×C×h×w float32."""
        features: Tensor = self.backbone(pictures.to(self.dtype))
        return features.float()


class ScoringNetwork(nn.Module):
    """A copy that only answers: one trunk, and a look, a polarity network's head, or both upon its maps."""

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        polarity: PolarityNetwork | None,
        look: LookNetwork | None,
        preprocessing: Preprocessing,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        whole = look or polarity
        if whole is None:
            raise ValueError("expected a look, a polarity network or both, found neither")
        trunk = whole.backbone_spec.fold(copy.deepcopy(whole.backbone).eval().requires_grad_(False))
        self.trunk = trunk if dtype == torch.float32 else Computed(trunk, dtype)
        self.polarity, self.look = _head_of(polarity), _head_of(look)
        # Kept on the device: a constant made anew for each batch would wait for the batches before it.
        self.register_buffer("shift", torch.tensor(preprocessing.mean).mul_(255).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor(preprocessing.std).mul_(255).view(3, 1, 1))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Uint8 B×3×S×S → the raw scores B×3 (B×0 without a polarity network) and the embedding B×E, float32."""
        pictures = torch.sub(pixels, self.shift).div_(self.scale).contiguous(memory_format=torch.channels_last)
        return answers(self.trunk(pictures), pixels, self.polarity, self.look)


def answers(
    maps: Tensor, pixels: Tensor, polarity: PolarityNetwork | None, look: LookNetwork | None
) -> tuple[Tensor, Tensor]:
    """What is kept of the trunk's maps: the raw scores, B×3 or B×0, and the embedding, B×E.

    The embedding is the look's; without one it is the polarity network's own.
    """
    scores, embedding = maps.new_zeros(len(maps), 0), maps.new_zeros(len(maps), 0)
    if polarity is not None:
        output = polarity.head(maps)
        scores, embedding = raw_scores_of(output), output.embedding
    return scores, embedding if look is None else look.embed(maps, pixels)


def raw_scores_of(output: PolarityOutput) -> Tensor:
    """B×3 in the order of `RAW_SCORES`: the log-odds of positive, and both intensities."""
    logits, intensities = output.logits.float(), output.intensities
    scores = [logits[:, POSITIVE] - logits[:, NEGATIVE], intensities[:, NEGATIVE], intensities[:, POSITIVE]]
    return torch.stack(scores, dim=1)


def _head_of(network: Network | None) -> Network | None:
    """A copy without the backbone, whose maps it is given."""
    if network is None:
        return None
    backbone, network.backbone = network.backbone, nn.Identity()
    try:
        return copy.deepcopy(network).eval().requires_grad_(False)
    finally:
        network.backbone = backbone
