"""The pen that draws a product: parts laid over one another, with their relief, so that a view can light them.

A product is drawn once, lying in a square of 100 × 100 units that it stands on at y = 90 (`FLOOR`). The pen knows
nothing about the kinds of products, scenes or emotions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vitrine.demo.drawing.shapes import WHITE, Colour, Point, hsv, oval_points

Bulge = Literal["flat", "tube", "roll", "ball"]

SUPERSAMPLING = 3  # of products, once each
FLOOR = 90.0  # the y that every product stands on


@dataclass(frozen=True)
class Look:
    """What makes one product itself: its colours, its pattern and six proportions in [0, 1]."""

    body: Colour
    trim: Colour
    accent: Colour
    dark: Colour
    pattern: str
    knobs: tuple[float, ...]


@dataclass(frozen=True)
class Sprite:
    """A drawn product: `colour` is RGBA; `relief` holds the normal's x and y (128 = 0) and the gloss."""

    colour: Image.Image
    relief: Image.Image


def choose_look(rng: np.random.Generator) -> Look:
    """A body colour anywhere on the wheel, the others in harmony with it."""
    hue = float(rng.random())
    step = float(rng.choice([0.08, 0.33, 0.5, 0.58]) * rng.choice([-1, 1]))
    trim = WHITE if rng.random() < 0.4 else _paint(rng, hue + step, (0.25, 0.6), (0.65, 0.95))
    return Look(
        body=_paint(rng, hue, (0.3, 0.75), (0.5, 0.92)),
        trim=trim,
        accent=_paint(rng, hue + 2 * step, (0.4, 0.75), (0.65, 0.92)),
        dark=_paint(rng, hue, (0.2, 0.5), (0.18, 0.34)),
        pattern=str(rng.choice(sorted(PATTERNS))),
        knobs=tuple(float(knob) for knob in rng.random(6)),
    )


def _paint(rng: np.random.Generator, hue: float, saturation: Point, value: Point) -> Colour:
    # full green and magenta look like plastic on a screen; no dye of a real product reaches them
    neon = max(0.0, math.cos((hue - 0.36) * 2 * math.tau)) * 0.35
    return hsv(hue, float(rng.uniform(*saturation)) * (1 - neon), float(rng.uniform(*value)) * (1 - neon / 3))


# Patterns: where the trim colour shows, on a grid of u, v in units; `period` is their coarseness ---------

Grid = NDArray[np.float32]
Mask = NDArray[np.bool_]

PATTERNS: dict[str, Callable[[Grid, Grid, float], Mask]] = {
    "plain": lambda u, v, period: np.zeros(np.broadcast(u, v).shape, dtype=np.bool_),
    "stripes": lambda u, v, period: (v + 0 * u) % period < period * 0.42,
    "upright": lambda u, v, period: (u + 0 * v) % period < period * 0.35,
    "diagonal": lambda u, v, period: (u + v) % period < period * 0.4,
    "dots": lambda u, v, period: _near_centre(u, v + period / 2 * (u // period % 2), period) < (0.3 * period) ** 2,
    "checks": lambda u, v, period: (u // (period * 0.7) + v // (period * 0.7)) % 2 == 0,
    "zigzag": lambda u, v, period: (v + np.abs(u % period - period / 2)) % period < period * 0.38,
    "waves": lambda u, v, period: (v + period / 4 * np.sin(u / period * 6.3)) % period < period * 0.4,
    "diamonds": lambda u, v, period: np.abs(u % period - period / 2) + np.abs(v % period - period / 2) < 0.34 * period,
    "band": lambda u, v, period: np.abs(v + 0 * u - 62) < period * 0.8,
}


def _near_centre(u: Grid, v: Grid, period: float) -> Grid:
    squared: Grid = (u % period - period / 2) ** 2 + (v % period - period / 2) ** 2
    return squared


def _draw_texture(look: Look, side: int) -> Image.Image:
    units = np.linspace(0, 100, side // 2, dtype=np.float32)
    shows = PATTERNS[look.pattern](units[None, :], units[:, None], 7 + 8 * look.knobs[5])
    mask = Image.fromarray(shows.astype(np.uint8) * 255).resize((side, side), Image.Resampling.BILINEAR)
    return Image.composite(Image.new("RGB", mask.size, look.trim), Image.new("RGB", mask.size, look.body), mask)


def _bulge_template(bulge: Bulge) -> Image.Image:
    """Normals that turn from one edge of a part to the other; gloss is filled in by the pen."""
    ramp = np.linspace(-0.92, 0.92, 64)
    zero = np.zeros(64)
    across = ramp if bulge in ("tube", "ball") else zero
    down = ramp if bulge in ("roll", "ball") else zero
    normals = np.stack(np.broadcast_arrays(across[None, :], down[:, None], 0 * ramp[:, None]), axis=-1)
    return Image.fromarray((128 + 127 * normals).astype(np.uint8))


class Pen:
    """Draws parts over one another, in units of a hundredth of the sprite's side."""

    def __init__(self, side: int, look: Look) -> None:
        self._unit = side * SUPERSAMPLING / 100
        large = side * SUPERSAMPLING
        self._colour = Image.new("RGBA", (large, large))
        self._relief = Image.new("RGB", (side, side), (128, 128, 0))
        self.pattern = _draw_texture(look, large)

    def sprite(self) -> Sprite:
        """What has been drawn so far, downsampled."""
        return Sprite(self._colour.reduce(SUPERSAMPLING), self._relief)

    def shape(
        self, points: Sequence[Point], fill: Colour | Image.Image, bulge: Bulge = "tube", gloss: float = 0.3
    ) -> None:
        """A filled outline."""
        self._stamp(points, 0.0, fill, bulge, gloss)

    def stroke(
        self, points: Sequence[Point], width: float, fill: Colour, bulge: Bulge = "flat", gloss: float = 0.2
    ) -> None:
        """A line with round ends."""
        self._stamp(points, width, fill, bulge, gloss)

    def oval(
        self, x: float, y: float, radius_x: float, radius_y: float, fill: Colour | Image.Image,
        bulge: Bulge = "ball", gloss: float = 0.3,
    ) -> None:  # fmt: skip
        """A filled ellipse around (x, y)."""
        self.shape(oval_points(x, y, radius_x, radius_y), fill, bulge, gloss)

    def block(
        self, left: float, top: float, right: float, bottom: float, fill: Colour | Image.Image,
        corner: float = 2.0, bulge: Bulge = "tube", gloss: float = 0.3,
    ) -> None:  # fmt: skip
        """A rectangle with corners rounded by about `corner` units."""
        outline: list[Point] = []
        corners = [(right, bottom, -1, -1), (left, bottom, 1, -1), (left, top, 1, 1), (right, top, -1, 1)]
        for quarter, (x, y, right_by, down_by) in enumerate(corners):
            turns = (quarter / 4, quarter / 4 + 0.25)
            outline += oval_points(x + right_by * corner, y + down_by * corner, corner, corner, turns)[::8]
        self.shape(outline, fill, bulge, gloss)

    def lathe(self, profile: Sequence[Point], fill: Colour | Image.Image, gloss: float = 0.3) -> None:
        """A solid of revolution about x = 50; the profile holds (radius, y) from the top down."""
        right = [(50 + radius, y) for radius, y in profile]
        self.shape(right + [(100 - x, y) for x, y in reversed(right)], fill, "tube", gloss)

    def _stamp(
        self, points: Sequence[Point], width: float, fill: Colour | Image.Image, bulge: Bulge, gloss: float
    ) -> None:
        at = np.array(points) * self._unit
        # whole cells of the downsampled sprite, so that the relief stays aligned with the colour
        low = np.maximum((at.min(axis=0) - width * self._unit) // SUPERSAMPLING, 0).astype(int)
        high = ((at.max(axis=0) + width * self._unit) // SUPERSAMPLING + 1).astype(int)
        high = np.maximum(np.minimum(high, self._relief.width), low + 1)
        offset, size = low * SUPERSAMPLING, (high - low) * SUPERSAMPLING
        mask = _draw_mask([(float(x), float(y)) for x, y in at - offset], width * self._unit, size)
        box = (*offset.tolist(), *(offset + size).tolist())
        self._colour.paste(fill.crop(box) if isinstance(fill, Image.Image) else (*fill, 255), box, mask)
        small = mask.reduce(SUPERSAMPLING)
        normal_x, normal_y, _ = _TEMPLATES[bulge].resize(small.size, Image.Resampling.BILINEAR).split()
        shine = Image.new("L", small.size, round(255 * gloss))
        self._relief.paste(Image.merge("RGB", (normal_x, normal_y, shine)), tuple(low.tolist()), small)


_TEMPLATES: dict[Bulge, Image.Image] = {
    "flat": _bulge_template("flat"),
    "tube": _bulge_template("tube"),
    "roll": _bulge_template("roll"),
    "ball": _bulge_template("ball"),
}


def _draw_mask(points: list[Point], width: float, size: NDArray[np.int_]) -> Image.Image:
    mask = Image.new("L", (int(size[0]), int(size[1])))
    draw = ImageDraw.Draw(mask)
    if width == 0:
        draw.polygon(points, fill=255)
        return mask
    draw.line(points, fill=255, width=max(1, round(width)), joint="curve")
    for x, y in (points[0], points[-1]):
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
    return mask
