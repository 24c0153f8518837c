"""Where a picture's subject lies: the object before a plain background, or the whole frame. Knows pixels only.

Shapes: H×W the picture's.

A plain background is known by the picture's border: most of it has one colour, or a colour that changes evenly from
side to side. The subject's place and size are the mean and the spread of what stands out from that. Unlike the edges
of a box they are hardly moved by a thin tip, a corner's watermark or the rounding of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BORDER = 0.015
"""Of the shorter side; the border's width."""
PLAIN_SHARE = 0.6
"""Of the border's pixels that must fit the background: an object may touch a side, and a bit more."""
PLAIN_CONTRAST = 12
"""Of 255: how far a pixel of the background may lie from it, for noise and JPEG."""
LEAST_CONTRAST = 8
"""Of 255: a picture in which nothing stands out by that much shows nothing."""
FAINT, FULL = 0.1, 0.8
"""Contrasts, as parts of the picture's greatest, that count nothing and fully; between them, by the square. So a pale
watermark beside a dark object counts little, and a pale object on white still counts."""
SAMPLE = 2000
"""Pixels whose colour is looked at."""
INSIDE, OUTSIDE, LOOKS = 2.0, 3.5, 4
"""The spread is measured so often: what lies more than so many spreads from the mean counts less, then nothing."""
RECTANGLE = 0.9
"""Of the outline of what stands out that must stand out itself: then it is a picture in a margin, corners and all."""
LEAST_RECTANGLE = 0.5
"""Of the frame's sides; the edges of a smaller one are too coarse in pixels, its spread is not."""
HALF = float(np.sqrt(3))
"""Spreads from the middle of an even rectangle to its edges."""

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Subject:
    """What a picture shows. Lengths in pixels; (y, x)."""

    centre: tuple[float, float]
    spread: tuple[float, float]  # standard deviations; HALF of them reach the edges of an even rectangle
    background: Pixels | None  # a colour or H×W×3; None where the picture fills its frame
    contrast: Pixels | None  # H×W from the background; None where there is none
    colour: Floats  # RGB of most of the subject
    variety: float  # how far its colours range about that, of 255, the outer quarters left out
    blank: bool = False  # nothing stands out from a plain background


def find_subject(rgb: Pixels) -> Subject:
    """The subject of a picture (H×W×3)."""
    background = _background(rgb)
    if background is None:
        return _whole(rgb)
    contrast = _contrast(rgb, background)
    counts = np.bincount(contrast.ravel(), minlength=256)
    # The contrast that 0.05% of the pixels exceed: no single pixel's noise.
    greatest = 255 - int(np.searchsorted(np.cumsum(counts[::-1]), max(1, contrast.size // 2000)))
    if greatest < LEAST_CONTRAST:
        return _whole(rgb, background, contrast, blank=True)
    rectangle = _rectangle(contrast > max(PLAIN_CONTRAST, FAINT * greatest))
    faint, full = max(4.0, FAINT * greatest), FULL * greatest
    weights = np.clip((np.arange(256, dtype=np.float32) - faint) / (full - faint), 0, 1) ** 2
    weight = weights.take(contrast)
    colour, variety = _colour(rgb, contrast, FULL * greatest)
    if rectangle is not None:
        (top, bottom), (left, right) = rectangle
        centre, size = ((top + bottom) / 2, (left + right) / 2), (bottom - top, right - left)
        return Subject(centre, (size[0] / 2 / HALF, size[1] / 2 / HALF), background, contrast, colour, variety)
    return Subject(*_moments(weight), background, contrast, colour, variety)


def _whole(
    rgb: Pixels, background: Pixels | None = None, contrast: Pixels | None = None, *, blank: bool = False
) -> Subject:
    height, width = rgb.shape[:2]
    spread = (height / 2 / HALF, width / 2 / HALF)
    colour = np.asarray(Image.fromarray(rgb).reduce((width, height)), dtype=np.float32)[0, 0]
    return Subject((height / 2, width / 2), spread, background, contrast, colour, 0.0, blank)


def _colour(rgb: Pixels, contrast: Pixels, least: float) -> tuple[Floats, float]:
    """The mean and the range of each channel's middle half where the contrast is that high: no edges, no glare."""
    rows = np.flatnonzero(contrast.ravel() >= least)
    some = np.sort(rgb.reshape(-1, 3)[rows[:: 1 + len(rows) // SAMPLE]], axis=0)
    middle = some[len(some) // 4 : len(some) - len(some) // 4]
    return middle.mean(axis=0, dtype=np.float32), float(np.ptp(middle, axis=0).max())


def _contrast(rgb: Pixels, background: Pixels) -> Pixels:
    """H×W: the greatest difference of the three channels from the background."""
    height, width = rgb.shape[:2]
    # Whole lines at once: numpy is slow over a last axis of three.
    lines = rgb.reshape(height, 3 * width)
    behind = background.reshape(height, 3 * width) if background.ndim == 3 else np.tile(background, width)
    channels = (np.maximum(lines, behind) - np.minimum(lines, behind)).reshape(rgb.shape)
    greatest: Pixels = np.maximum(np.maximum(channels[..., 0], channels[..., 1]), channels[..., 2])
    return greatest


def _background(rgb: Pixels) -> Pixels | None:
    """The colour, or H×W×3 where it changes, of a plain background."""
    height, width = rgb.shape[:2]
    wide = max(1, round(BORDER * min(height, width)))
    if min(height, width) < 8 * wide:
        return None
    y, x = _border(height, width, wide)
    border = rgb[y, x].astype(np.float32)
    middle = np.median(border, axis=0)
    if (np.abs(border - middle).max(axis=1) <= PLAIN_CONTRAST).mean() >= PLAIN_SHARE:
        return middle.round().astype(np.uint8)
    return _slope(border, y / height, x / width, height, width)


def _border(height: int, width: int, wide: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The (y, x) of some hundred places along each side, up to `wide` pixels from the edge."""
    places = []
    for depth in range(0, wide, 2):
        rows, columns = np.arange(depth, height, 3), np.arange(depth, width, 3)
        places += [np.stack([np.full(len(columns), line), columns]) for line in (depth, height - 1 - depth)]
        places += [np.stack([rows, np.full(len(rows), line)]) for line in (depth, width - 1 - depth)]
    y, x = np.concatenate(places, axis=1)
    return y, x


def _slope(border: Floats, y: NDArray[np.float64], x: NDArray[np.float64], height: int, width: int) -> Pixels | None:
    """H×W×3 of a background whose colour changes evenly across the picture."""
    terms = np.stack([np.ones_like(y), y, x], axis=1)
    fits = np.ones(len(y), dtype=np.bool_)
    for _ in range(4):  # what fits worst is perhaps an object at the border
        plane = np.linalg.lstsq(terms[fits], border[fits], rcond=None)[0]
        off = np.abs(border - terms @ plane).max(axis=1)
        fits = off <= np.quantile(off, 0.7)
    if (off <= PLAIN_CONTRAST).mean() < PLAIN_SHARE:
        return None
    down, across = np.arange(height)[:, None, None] / height, np.arange(width)[None, :, None] / width
    colours = plane[0] + down * plane[1] + across * plane[2]
    evenly: Pixels = colours.clip(0, 255).round().astype(np.uint8)
    return evenly


def _rectangle(stands_out: NDArray[np.bool_]) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The edges (top, bottom), (left, right) of what stands out, if it has straight ones."""
    rows, columns = (np.flatnonzero(stands_out.mean(axis=axis) > 0.01) for axis in (1, 0))
    height, width = stands_out.shape
    if not len(rows) or not len(columns):
        return None
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    if bottom - top < LEAST_RECTANGLE * height or right - left < LEAST_RECTANGLE * width:
        return None
    inner = stands_out[top + 1 : bottom - 1, left + 1 : right - 1]
    outline = np.concatenate([inner[0], inner[-1], inner[:, 0], inner[:, -1]])
    return ((top, bottom), (left, right)) if outline.mean() >= RECTANGLE else None


def _moments(weight: Floats) -> tuple[tuple[float, float], tuple[float, float]]:
    """The mean (y, x) and spread of the weight (H×W), without what lies far off."""
    places = [np.arange(side, dtype=np.float32) + 0.5 for side in weight.shape]
    windows = [np.ones(side, dtype=np.float32) for side in weight.shape]
    for _ in range(LOOKS):
        profiles = ((weight @ windows[1]) * windows[0], (windows[0] @ weight) * windows[1])
        means = [float(profile @ place / profile.sum()) for profile, place in zip(profiles, places, strict=True)]
        spreads = [
            # A pixel's own width counts: a line of one pixel has a spread too.
            float(np.sqrt(profile @ (place - mean) ** 2 / profile.sum() + 1 / 12))
            for profile, place, mean in zip(profiles, places, means, strict=True)
        ]
        windows = [
            np.clip((OUTSIDE - np.abs(place - mean) / spread) / (OUTSIDE - INSIDE), 0, 1)
            for place, mean, spread in zip(places, means, spreads, strict=True)
        ]
    return (means[0], means[1]), (spreads[0], spreads[1])
