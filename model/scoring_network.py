"""A trained network made ready to answer only: folded, its backbone in a smaller float, from pixels to what is kept.

Equal to the trained network but for rounding; tests/test_folding.py holds the tolerances.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from model.network import NEGATIVE, POSITIVE, PolarityNetwork, PolarityOutput, probabilities
from model.preprocessing import Preprocessing


class Computed(nn.Module):
    """A backbone that computes in another float and answers in float32.

    The branches and their fusion stay in float32: they are a fiftieth of the work, and the polarity is their
    small difference.
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
    """A copy of a trained network that only answers: from uint8 pixels to the four things that are kept."""

    shift: Tensor
    scale: Tensor

    def __init__(self, network: PolarityNetwork, preprocessing: Preprocessing, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        fold = network.backbone_spec.fold
        backbone = self.network.backbone if fold is None else fold(self.network.backbone)
        self.network.backbone = backbone if dtype == torch.float32 else Computed(backbone, dtype)
        # Kept on the device: a constant made anew for each batch would wait for the batches before it.
        self.register_buffer("shift", torch.tensor(preprocessing.mean).mul_(255).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor(preprocessing.std).mul_(255).view(3, 1, 1))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Uint8 B×3×S×S → B×3 (polarity, negative and positive intensity) and B×E, float32."""
        pictures = torch.sub(pixels, self.shift).div_(self.scale).contiguous(memory_format=torch.channels_last)
        return answers_in(self.network(pictures))


def answers_in(output: PolarityOutput) -> tuple[Tensor, Tensor]:
    """What is kept of an output: B×3 (polarity, negative and positive intensity) and B×E."""
    intensities = output.intensities
    scores = [probabilities(output)[:, POSITIVE], intensities[:, NEGATIVE], intensities[:, POSITIVE]]
    return torch.stack(scores, dim=1), output.embedding
