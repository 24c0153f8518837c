"""The polarity network: a backbone's features, two emotion branches, and their fusion.

Equation numbers are those of docs/model.md, which also lists every departure from the print.

Shapes: B pictures; C channels of the backbone; n channels of a branch; h×w positions of its maps; E = C, the
size of the embedding. Of the two polarities, index 0 is
negative and index 1 is positive, everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.backbones.names import DEFAULT
from model.backbones.registry import find_backbone

NEGATIVE, POSITIVE = 0, 1
CLASSES = ("negative", "positive")  # the order of the network's two outputs


@dataclass(frozen=True)
class NetworkConfig:
    """The architecture; travels with the weights."""

    backbone: str = DEFAULT
    """A name that `model.backbones.registry.find_backbone` knows."""
    channels: int = 512
    """n: channels of each branch after its 1×1 convolution."""
    reduction: int = 16
    """r: how much narrower than n the bottlenecks of equations (2) and (5) are."""
    channel_attention: bool = True
    """Without it X_p of equation (3) is 1: N_p is the plain sum of the branch's channels."""
    spatial_attention: bool = True
    """Without it the gate of equation (8) is the constant ½ that it starts from."""
    intensities_in_logits: bool = True
    """Without it equation (9) is z = FC(GAP(G_o))."""

    def __post_init__(self) -> None:
        if not 1 <= self.reduction <= self.channels:
            raise ValueError(f"reduction: expected 1 to {self.channels} (channels), found {self.reduction}")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, for a manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> NetworkConfig:
        """The inverse of `to_dict`.

        Raises:
            TypeError: a key is unknown.
        """
        return cls(**fields)


class BranchOutput(NamedTuple):
    """What one branch says of B pictures."""

    score: Tensor
    """B: u_p before the softmax, equations (12) and (13)."""
    intensity: Tensor
    """B: y_p before the sigmoid, equations (5) and (6)."""
    attention: Tensor
    """B×1×h×w: N_p, equation (4)."""


class PolarityOutput(NamedTuple):
    """What the network says of B pictures; the two columns are negative, positive."""

    logits: Tensor
    """B×2: z, equation (9) before its softmax."""
    intensities: Tensor
    """B×2: y, equation (7), each in (0, 1)."""
    branch_scores: Tensor
    """B×2: u before the softmax of equation (14)."""
    embedding: Tensor
    """B×E: L2(GAP(G_o)), of unit norm."""
    attention: Tensor
    """B×2×h×w: N_m, N_t."""


def probabilities(output: PolarityOutput) -> Tensor:
    """B×2: B' = softmax(z), equation (9)."""
    return output.logits.float().softmax(dim=1)


def pool(maps: Tensor) -> Tensor:
    """B×c×h×w → B×c: GAP, the mean over positions, equation (1)."""
    return maps.mean(dim=(2, 3))


class PolarityIntensityPerception(nn.Module):
    """One branch: where a picture shows one polarity, and how strongly. Equations (1) to (6), (12), (13).

    The network has two of them, which share nothing.
    """

    def __init__(self, in_channels: int, channels: int, reduction: int, *, channel_attention: bool = True) -> None:
        super().__init__()
        narrow = max(1, channels // reduction)
        self.weighs_channels = channel_attention
        self.adjust = nn.Conv2d(in_channels, channels, kernel_size=1)
        self.channel_attention = nn.Sequential(
            nn.Linear(channels, narrow), nn.ReLU(), nn.Linear(narrow, channels), nn.Sigmoid()
        )
        self.attention_norm = nn.BatchNorm2d(1)
        # At zero the gate of equation (8) is the constant 1/2: docs/model.md. `start_attention` sets it to 1.
        nn.init.zeros_(self.attention_norm.weight)
        self.intensity = nn.Sequential(nn.Linear(channels, narrow), nn.ReLU(), nn.Linear(narrow, 1))

    def forward(self, features: Tensor) -> BranchOutput:
        """B×C×h×w, the backbone's maps G."""
        adjusted: Tensor = self.adjust(features)
        pooled = pool(adjusted)
        weights: Tensor = self.channel_attention(pooled) if self.weighs_channels else torch.ones_like(pooled)
        summed = torch.einsum("bc,bchw->bhw", weights, adjusted).unsqueeze(1)
        return BranchOutput(
            score=adjusted.amax(dim=(2, 3)).mean(dim=1),
            intensity=self.intensity(pooled).squeeze(1),
            attention=self.attention_norm(summed),
        )


class EmotionFeatureFusion(nn.Module):
    """What both branches saw, laid over the backbone's maps and classified. Equations (8) and (9)."""

    def __init__(self, in_channels: int, *, spatial_attention: bool = True, intensities_in_logits: bool = True) -> None:
        super().__init__()
        self.spatial_attention, self.intensities_in_logits = spatial_attention, intensities_in_logits
        self.classify = nn.Linear(in_channels, 2)

    def fuse(self, features: Tensor, attention: Tensor) -> Tensor:
        """G_o = G + σ(N_m + N_t) ⊗ G, equation (8): B×C×h×w from itself and B×2×h×w."""
        gate = attention.sum(dim=1, keepdim=True).sigmoid() if self.spatial_attention else 0.5
        return features + gate * features

    def forward(self, features: Tensor, attention: Tensor, intensities: Tensor) -> tuple[Tensor, Tensor]:
        """Logits B×2 of equation (9) and the embedding B×E of equations (17) and (18)."""
        pooled = pool(self.fuse(features, attention))
        logits: Tensor = self.classify(pooled)
        if self.intensities_in_logits:
            logits = logits + intensities
        # In bfloat16 a "unit" vector would miss norm 1 by up to half a percent.
        return logits, F.normalize(pooled.to(torch.promote_types(pooled.dtype, torch.float32)), dim=1)


class PolarityNetwork(nn.Module):
    """The whole model. Any picture goes in that is large enough for the backbone.

    Raises:
        ModelError: there is no backbone of the configuration's name.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone_spec = find_backbone(config.backbone)
        self.backbone = self.backbone_spec.build()
        self.embedding_size = self.backbone_spec.channels
        branch = (self.embedding_size, config.channels, config.reduction)
        self.negative, self.positive = (
            PolarityIntensityPerception(*branch, channel_attention=config.channel_attention) for _ in range(2)
        )
        self.fusion = EmotionFeatureFusion(
            self.embedding_size,
            spatial_attention=config.spatial_attention,
            intensities_in_logits=config.intensities_in_logits,
        )

    def forward(self, pictures: Tensor) -> PolarityOutput:
        """B×3×H×W float, normalised.

        Raises:
            UnfitPicture: the backbone has no maps of pictures of this size.
        """
        self.backbone_spec.check_sides(*pictures.shape[-2:])
        return self.head(self.backbone(pictures))

    def head(self, features: Tensor) -> PolarityOutput:
        """What the branches and their fusion say of the backbone's maps, B×C×h×w."""
        branches: tuple[BranchOutput, BranchOutput] = (self.negative(features), self.positive(features))
        intensities = torch.stack([b.intensity for b in branches], dim=1).sigmoid()
        attention = torch.cat([b.attention for b in branches], dim=1)
        logits, embedding = self.fusion(features, attention, intensities)
        scores = torch.stack([b.score for b in branches], dim=1)
        return PolarityOutput(logits, intensities, scores, embedding, attention)


def start_attention(network: PolarityNetwork, scale: float = 1.0) -> None:
    """Sets ρ's scale, equation (4). A network about to be trained starts at 1: from 0 its maps would hardly move."""
    for branch in (network.negative, network.positive):
        nn.init.constant_(branch.attention_norm.weight, scale)
