"""What a picture looks like, as one vector: a frozen trunk's maps, pooled; the picture's colours; perhaps a projection.

It knows nothing of feelings: the embedding of a picture is the same for as long as the same look model serves.

Shapes: B pictures; S the side of `Preprocessing.image_size`; C channels of the trunk; h×w positions of its maps; F
colour features; R = C + F; E the size of the embedding: R, or the projection's dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.backbones.registry import find_backbone
from model.colour_histogram import ColourConfig, ColourFeatures
from model.preprocessing import Preprocessing

Pooling = Literal["mean", "gem"]

GEM_POWER = 3.0
DEFAULT_BACKBONE = "efficientnet-lite0"  # its weights come with the installation


@dataclass(frozen=True)
class LookConfig:
    """How an embedding is made; travels with the weights."""

    backbone: str = DEFAULT_BACKBONE
    """A name in `model.backbones.registry`."""
    pooling: Pooling = "gem"
    """Over positions: `mean`, or `gem`, the root of the mean power, which lets strong responses count for more."""
    colour: ColourConfig | None = field(default_factory=ColourConfig)
    """The colour part beside the trunk's; None: none."""
    dimensions: int | None = None
    """Of the projection; None: the embedding is not projected."""

    def __post_init__(self) -> None:
        find_backbone(self.backbone)
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"pooling: expected one of {', '.join(get_args(Pooling))}, found {self.pooling!r}")
        if self.dimensions is not None and not 1 <= self.dimensions <= self.described:
            raise ValueError(f"dimensions: expected 1 to {self.described}, found {self.dimensions}")

    @property
    def described(self) -> int:
        """R, the numbers that describe a picture before the projection."""
        return find_backbone(self.backbone).channels + (0 if self.colour is None else self.colour.features)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, for a manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> LookConfig:
        """The inverse of `to_dict`.

        Raises:
            TypeError: a key is unknown.
        """
        colour = fields.get("colour")
        return cls(**fields if colour is None else {**fields, "colour": ColourConfig.from_dict(colour)})


class Projection(nn.Module):
    """An affine map of descriptions. Until `set` it keeps the first of their numbers as they are."""

    mean: Tensor
    matrix: Tensor

    def __init__(self, described: int, dimensions: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(described))
        self.register_buffer("matrix", torch.eye(described, dimensions))

    def set(self, mean: Tensor, matrix: Tensor) -> None:
        """Takes what `model.look_training` fitted: R and R×E.

        Raises:
            ValueError: another shape.
        """
        if mean.shape != self.mean.shape or matrix.shape != self.matrix.shape:
            raise ValueError(
                f"projection: expected {tuple(self.mean.shape)} and {tuple(self.matrix.shape)}, "
                f"found {tuple(mean.shape)} and {tuple(matrix.shape)}"
            )
        self.mean.copy_(mean)
        self.matrix.copy_(matrix)

    def forward(self, descriptions: Tensor) -> Tensor:
        """B×R → B×E."""
        return (descriptions - self.mean) @ self.matrix


class LookNetwork(nn.Module):
    """From pixels to embeddings. The trunk is frozen and stays in evaluation mode."""

    def __init__(self, config: LookConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone_spec = find_backbone(config.backbone)
        self.backbone = self.backbone_spec.build().requires_grad_(False).eval()
        self.colour = None if config.colour is None else ColourFeatures(config.colour)
        self.projection = None if config.dimensions is None else Projection(config.described, config.dimensions)
        self.embedding_size: int = config.dimensions or config.described

    def train(self, mode: bool = True) -> LookNetwork:
        """As `nn.Module.train`, but the trunk's statistics stay as they are."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
        """Uint8 B×3×S×S → B×E, in one pass of the trunk."""
        maps: Tensor = self.backbone(preprocessing.normalise(pixels))
        return self.embed(maps, pixels)

    def embed(self, maps: Tensor, pixels: Tensor) -> Tensor:
        """The trunk's maps B×C×h×w, in any float, and the uint8 pixels B×3×S×S → B×E float32 of unit norm."""
        return self.embed_described(self.describe(maps, pixels))

    def embed_described(self, descriptions: Tensor) -> Tensor:
        """What `describe` made, B×R → B×E float32 of unit norm."""
        if self.projection is not None:
            descriptions = self.projection(descriptions)
        return F.normalize(descriptions, dim=1)

    def describe(self, maps: Tensor, pixels: Tensor) -> Tensor:
        """What `embed` projects, B×R float32 of one length: what `model.look_training` fits a projection to."""
        shapes = F.normalize(pool_maps(maps.float(), self.config.pooling), dim=1)
        if self.colour is None or self.config.colour is None:
            return shapes
        return torch.cat([shapes, self.config.colour.weight**0.5 * self.colour(pixels)], dim=1)


def pool_maps(maps: Tensor, pooling: Pooling) -> Tensor:
    """B×C×h×w → B×C."""
    if pooling == "mean":
        return maps.mean(dim=(2, 3))
    return (maps.clamp_min(0) ** GEM_POWER).mean(dim=(2, 3)) ** (1 / GEM_POWER)
