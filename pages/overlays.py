"""Lays an attention map over a picture, as a small JPEG. Knows arrays and bytes; no network, no page."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Ramp = tuple[tuple[int, int, int], ...]

SHORT_SIDE = 200  # pixels: sharp at the size of a phone's thumbnail, about 10 KB
LONGEST_SIDE = 400  # a banner would otherwise weigh as much as twenty pictures
JPEG_QUALITY = 80
PICTURE_SHARE = 0.4  # of the picture's own grey values, so that white leaves room for the heat
STEEPNESS = 1.6  # above 1, so that the middling is dim and the peak stands out
HEAT_SHARE = 0.85  # of the heat's colours, so that the picture shows through the peak

# From dark to light, so that the peak is the brightest place in print and to every eye.
NEGATIVE_HEAT: Ramp = ((0, 0, 0), (140, 45, 5), (240, 130, 30), (255, 235, 180))
POSITIVE_HEAT: Ramp = ((0, 0, 0), (10, 60, 140), (50, 150, 240), (205, 240, 255))


def thumbnail(jpeg: bytes) -> Image.Image:
    """The picture in RGB, its short side at most SHORT_SIDE pixels, its long side at most LONGEST_SIDE.

    Raises:
        OSError: the bytes are not a picture.
    """
    with Image.open(io.BytesIO(jpeg)) as image:
        picture = image.convert("RGB")
    share = min(1.0, SHORT_SIDE / min(picture.size), LONGEST_SIDE / max(picture.size))
    size = (max(1, round(picture.width * share)), max(1, round(picture.height * share)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def lay_over(picture: Image.Image, attention: NDArray[np.floating], ramp: Ramp) -> Image.Image:
    """The picture in dim grey under the heat of its h×w map, whose lowest cell is cold and highest hot.

    Args:
        picture: RGB.
        attention: h×w; one that is the same everywhere, or not finite, lays no heat.
        ramp: the heat's colours from cold to hot.
    """
    heat = _spread(attention, picture.size)
    grey = np.asarray(picture.convert("L"), np.float32)[:, :, None] * PICTURE_SHARE
    steps = np.linspace(0, 1, len(ramp))
    colours = np.stack([np.interp(heat**STEEPNESS, steps, channel) for channel in zip(*ramp, strict=True)], axis=-1)
    # Light on light ("screen") only ever brightens: a blend would ring each peak with a shadow on white.
    lit = 255 - (255 - grey) * (255 - HEAT_SHARE * colours) / 255
    return Image.fromarray(np.rint(lit).astype(np.uint8))


def encode_jpeg(picture: Image.Image) -> bytes:
    """Small enough for a page, large enough to see."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def _spread(attention: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.float32]:
    """The map on the picture's pixels, from 0 to 1."""
    low, high = float(attention.min()), float(attention.max())
    if not np.isfinite([low, high]).all() or low == high:
        return np.zeros((size[1], size[0]), np.float32)
    cells = Image.fromarray(((attention - low) / (high - low)).astype(np.float32))
    heat: NDArray[np.float32] = np.clip(np.asarray(cells.resize(size, Image.Resampling.BILINEAR)), 0, 1)
    return heat
