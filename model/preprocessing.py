"""How a decoded picture becomes the network's input. Travels with the weights in a model's manifest.

Shapes: a picture is uint8 H×W×3; S is `image_size`, the side of the network's square input, in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # workers that only decode need no torch
    from torch import Tensor

Interpolation = Literal["bicubic", "bilinear"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Size, interpolation and normalisation; a network is only itself with the ones it was trained with.

    The whole picture is brought to a square, whatever its sides: the edge of a product, or the damage there, stays in
    view.
    """

    image_size: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Means of red, green and blue on a scale of 0 to 1; `std` likewise."""
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        if self.image_size < 32:
            raise ValueError(f"image_size: expected at least 32 pixels, found {self.image_size}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"expected three means and three stds above 0, found {self.mean}, {self.std}")
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(f"interpolation: expected {get_args(Interpolation)}, found {self.interpolation}")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, for a manifest."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`.

        Raises:
            TypeError: a key is unknown. A setting that this version would silently ignore changes scores.
        """
        tuples = {name: tuple(fields[name]) for name in ("mean", "std") if name in fields}
        return cls(**{**fields, **tuples})

    def resize(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """H×W×3 → 3×S×S, antialiased: each output pixel averages all that it covers."""
        return np.ascontiguousarray(self.resized(rgb).numpy())

    def resized(self, rgb: NDArray[np.uint8]) -> Tensor:
        """What `resize` gives, as a tensor whose channels lie together: 3×S×S.

        What Pillow gives within 2 of 255, five times as fast, and other threads run meanwhile.
        """
        from torch import inference_mode
        from torch.nn.functional import interpolate

        with inference_mode():
            batch = to_tensor(rgb).permute(2, 0, 1).unsqueeze(0)
            size = (self.image_size, self.image_size)
            return interpolate(batch, size, mode=self.interpolation, antialias=True).squeeze(0)

    def normalise(self, batch: Tensor) -> Tensor:
        """B×3×S×S of 0 to 255, uint8 or float, on any device → float32 there. The input is unchanged."""
        pixels = batch.float()
        scale = pixels.new_tensor(self.std).mul_(255).view(3, 1, 1)
        shift = pixels.new_tensor(self.mean).mul_(255).view(3, 1, 1)
        return (pixels - shift).div_(scale)


def to_tensor(array: NDArray[np.uint8]) -> Tensor:
    """The same numbers as a tensor, in the same memory where it may be written to."""
    from torch import from_numpy

    # torch warns about arrays it may not write to, such as views of bytes.
    return from_numpy(array if array.flags.writeable else array.copy())
