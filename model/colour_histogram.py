"""How much of each colour a picture shows, with torch on any device; what stands at the frame's border counts less.

Shapes: B pictures; S their side in pixels; P the pixels that are looked at; K = lightnesses × hues² bins; F features.
Colours are Oklab's (https://bottosson.github.io/posts/oklab/): a lightness L in [0, 1] and two axes a and b around
grey, in which equal steps look about equally large.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 4  # every fourth pixel of a row and of a column: 3 136 of a picture of 224 × 224
AXIS_REACH = 0.2  # of a and b: photographs' colours seldom go further, and count in the last bin where they do
BORDER = 0.04  # of the side
SMALLEST_WEIGHT = 1e-3  # of a pixel that looks like the border: a picture of one colour has a histogram too
SEED = 0  # of the frequencies

# From linear red, green and blue to the eye's cones, and from their cube roots to L, a and b.
CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
OKLAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


@dataclass(frozen=True)
class ColourConfig:
    """The colour part of a look's embedding. The defaults were measured: docs/model.md, "Look"."""

    weight: float = 0.15
    """How much the similarity of colours counts beside the trunk's, which counts 1."""
    sharpness: float = 10.0
    """How fast the similarity falls as colours differ: e^(−sharpness · (1 − the histograms' cosine))."""
    features: int = 256
    """F, the numbers that the embedding spends on colour; even."""
    lightnesses: int = 4
    """Bins of the lightness."""
    hues: int = 9
    """Bins of each of the two axes around grey; odd, so that grey is the middle of one."""
    background: float = 0.1
    """How far from the border's colour, in Oklab, a pixel counts by two thirds; 0: every pixel counts alike."""

    def __post_init__(self) -> None:
        if not (self.weight > 0 and self.sharpness > 0 and self.background >= 0):
            raise ValueError(
                "colour: expected a weight and a sharpness above 0 (None leaves colour out) and a background from 0, "
                f"found {self.weight}, {self.sharpness} and {self.background}"
            )
        if self.lightnesses < 2 or self.hues < 3 or self.hues % 2 == 0:
            raise ValueError(
                f"colour: expected 2 lightnesses or more and an odd number of hues from 3, found {self.lightnesses} "
                f"and {self.hues}"
            )
        if self.features % 2 or not 2 <= self.features <= 2 * self.bins:
            raise ValueError(
                f"colour features: expected an even number from 2 to {2 * self.bins}, found {self.features}"
            )

    @property
    def bins(self) -> int:
        """K, the numbers of a histogram."""
        return self.lightnesses * self.hues**2

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, for a manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ColourConfig:
        """The inverse of `to_dict`.

        Raises:
            TypeError: a key is unknown.
        """
        return cls(**fields)


class ColourHistogram(nn.Module):
    """The square roots of a soft-binned histogram, whose cosines are Bhattacharyya's coefficients."""

    cones: Tensor
    oklab: Tensor

    def __init__(self, config: ColourConfig) -> None:
        super().__init__()
        self.config = config
        # Kept on the device: constants made anew for each batch would wait for the batches before it.
        self.register_buffer("cones", torch.tensor(CONES), persistent=False)
        self.register_buffer("oklab", torch.tensor(OKLAB), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Uint8 B×3×S×S → B×K float32 of unit norm."""
        colours = self._to_oklab(pixels[:, :, ::STRIDE, ::STRIDE])
        lightness, *axes = colours.flatten(2).unbind(1)
        along_a, along_b = (_shares(axis, -AXIS_REACH, AXIS_REACH, self.config.hues) for axis in axes)
        light = _shares(lightness, 0, 1, self.config.lightnesses) * self._foreground(colours).flatten(1).unsqueeze(1)
        planes = (along_a.unsqueeze(2) * light.unsqueeze(1)).flatten(1, 2)
        # A product of matrices, and no scattering into bins, whose order of adding up a GPU does not keep.
        counts = planes @ along_b.transpose(1, 2)
        return F.normalize(counts.flatten(1).sqrt(), dim=1)

    def _to_oklab(self, pixels: Tensor) -> Tensor:
        """Uint8 B×3×h×w → float32 L, a, b."""
        encoded = pixels.float() / 255
        linear = torch.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
        cones = torch.einsum("ij,bjhw->bihw", self.cones, linear) ** (1 / 3)
        return torch.einsum("ij,bjhw->bihw", self.oklab, cones)

    def _foreground(self, colours: Tensor) -> Tensor:
        """B×h×w: near 0 where a pixel has the border's median colour, near 1 where it has quite another."""
        if not self.config.background:
            return torch.ones_like(colours[:, 0])
        rim = max(1, round(BORDER * colours.shape[-1]))
        sides = (colours[..., :rim, :], colours[..., -rim:, :], colours[..., :rim], colours[..., -rim:])
        border = torch.cat([side.flatten(2) for side in sides], dim=2).sort(dim=2).values
        median = border[:, :, border.shape[2] // 2, None, None]
        return 1 + SMALLEST_WEIGHT - torch.exp(-((colours - median) ** 2).sum(1) / self.config.background**2)


class ColourFeatures(nn.Module):
    """Numbers whose dot products are the histograms' Gaussian kernel, e^(−sharpness · (1 − cosine)), nearly.

    A plain cosine of histograms gives much to colours that are merely related, and draws pictures of other things near.
    Random Fourier features (Rahimi and Recht, NIPS 2007) with orthogonal frequencies (Yu and others, NIPS 2016).
    """

    frequencies: Tensor

    def __init__(self, config: ColourConfig) -> None:
        super().__init__()
        self.config = config
        self.histogram = ColourHistogram(config)
        # Saved with the weights: another version of torch may draw others.
        self.register_buffer("frequencies", _frequencies(config))

    def forward(self, pixels: Tensor) -> Tensor:
        """Uint8 B×3×S×S → B×F float32 of unit norm."""
        phases: Tensor = self.histogram(pixels) @ self.frequencies
        return torch.cat([phases.cos(), phases.sin()], dim=1) / math.sqrt(self.config.features / 2)


def _frequencies(config: ColourConfig) -> Tensor:
    """K×F/2, at right angles to one another and as long as Gaussian ones would be."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (config.bins, config.features // 2)
    directions, _ = torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64))
    lengths = torch.linalg.vector_norm(torch.randn(shape, generator=generator, dtype=torch.float64), dim=0)
    frequencies: Tensor = directions * lengths * config.sharpness**0.5
    return frequencies.float()


def _shares(values: Tensor, low: float, high: float, bins: int) -> Tensor:
    """B×P → B×bins×P: each value is shared between the two nearest of the evenly spaced bins."""
    places = ((values - low) / (high - low)).clamp(0, 1) * (bins - 1)
    centres = torch.arange(bins, device=values.device, dtype=values.dtype).view(-1, 1)
    distances: Tensor = (places.unsqueeze(1) - centres).abs()
    return (1 - distances).clamp_min(0)
