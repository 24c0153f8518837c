"""How a decoded picture becomes the network's input. Travels with the weights in a model's manifest.

Shapes: a picture is uint8 H×W×3; S is `image_size`, the side of the network's square input, in pixels.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:  # workers that only decode need no torch
    from torch import Tensor

Interpolation = Literal["bicubic", "bilinear"]
CropMode = Literal["squash", "center"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Size, crop and normalisation; a network is only itself with the ones it was trained with."""

    image_size: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Of red, green, blue on a scale of 0 to 1."""
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: Interpolation = "bicubic"
    crop_mode: CropMode = "squash"
    """`squash` brings the whole picture to a square, whatever its sides: the edge of a product, or the
    damage there, stays in view. `center` keeps proportions and cuts off what lies outside the largest
    centred square."""

    def __post_init__(self) -> None:
        if self.image_size < 32:
            raise ValueError(f"image_size: expected at least 32 pixels, found {self.image_size}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"expected three means and three stds above 0, found {self.mean}, {self.std}")
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(f"interpolation: expected {get_args(Interpolation)}, found {self.interpolation}")
        if self.crop_mode not in get_args(CropMode):
            raise ValueError(f"crop_mode: expected {get_args(CropMode)}, found {self.crop_mode}")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, for a manifest."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`.

        Raises:
            TypeError: a key is unknown. A setting that this version would silently ignore changes scores.
        """
        tuples = {name: tuple(fields[name]) for name in ("mean", "std") if name in fields}
        return cls(**{**fields, **tuples})

    def resize(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """H×W×3 → 3×S×S, antialiased: each output pixel averages all that it covers."""
        height, width = rgb.shape[:2]
        size = (self.image_size, self.image_size)
        filter_ = Image.Resampling[self.interpolation.upper()]
        resized = Image.fromarray(rgb).resize(size, filter_, box=self._box(width, height))
        return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))

    def normalise(self, batch: "Tensor") -> "Tensor":
        """B×3×S×S of 0 to 255, uint8 or float, on any device → float32 there. The input is unchanged."""
        pixels = batch.float()
        scale = pixels.new_tensor(self.std).mul_(255).view(3, 1, 1)
        shift = pixels.new_tensor(self.mean).mul_(255).view(3, 1, 1)
        return (pixels - shift).div_(scale)

    def _box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the part of the picture that is used, in its pixels."""
        if self.crop_mode == "squash":
            return (0, 0, width, height)
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return (left, top, left + side, top + side)
