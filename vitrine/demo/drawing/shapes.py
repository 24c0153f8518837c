"""Colours and outlines, in plain tuples: what everything that is drawn is made of.

It knows nothing of pixels: lengths are in hundredths of the side of what is drawn on.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
Point = tuple[float, float]
Floats = NDArray[np.float64]
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels

WHITE: Colour = (250, 248, 244)
BLACK: Colour = (34, 32, 38)
STEEL: Colour = (188, 192, 198)
WOOD: Colour = (176, 124, 78)
LEAF: Colour = (74, 140, 82)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Hue in turns, taken modulo 1; saturation and value in [0, 1]."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """`one` with `share` of it replaced by `other`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def oval_points(
    x: float, y: float, radius_x: float, radius_y: float, turns: tuple[float, float] = (0, 1)
) -> list[Point]:
    """An ellipse, or the part of it between two angles in turns (0 is right, 0.25 down)."""
    angles = np.linspace(turns[0], turns[1], 49) * math.tau
    return [(x + radius_x * math.cos(angle), y + radius_y * math.sin(angle)) for angle in angles]


def blot_points(x: float, y: float, reaches: Floats, flat: float = 1.0) -> list[Point]:
    """An outline with these radii at even angles; `flat` squeezes it down to lie on a table."""
    angles = np.arange(len(reaches)) / len(reaches) * math.tau
    return [
        (x + float(reach) * math.cos(angle), y + flat * float(reach) * math.sin(angle))
        for reach, angle in zip(reaches, angles, strict=True)
    ]


def step_away(start: Point, distance: float, angle: float) -> Point:
    """The point at this distance; angles in radians, clockwise from the right."""
    return start[0] + distance * math.cos(angle), start[1] + distance * math.sin(angle)


def smooth(points: Sequence[Point], rounds: int = 3) -> list[Point]:
    """Chaikin's corner cutting on a closed outline."""
    outline = np.array(points)
    for _ in range(rounds):
        following = np.roll(outline, -1, axis=0)
        outline = np.stack([0.75 * outline + 0.25 * following, 0.25 * outline + 0.75 * following], axis=1)
        outline = outline.reshape(-1, 2)
    return [(float(x), float(y)) for x, y in outline]
