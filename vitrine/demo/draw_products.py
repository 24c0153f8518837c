"""The shop's products, one function a kind, and the props that tell an emotion: drawn from shapes.

It knows nothing about scenes, cameras or emotions. A product is drawn once, lying in a square of 100 × 100
units that it stands on at y = 90; its relief lets each view move and light the same sprite.
"""

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Point = tuple[float, float]
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels
Bulge = Literal["flat", "tube", "roll", "ball"]

SUPERSAMPLING = 3  # of products, once each
OVERSAMPLING = 2  # of props, in every picture
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


# Colours ------------------------------------------------------------------------------------------------


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Hue in turns, taken modulo 1; saturation and value in [0, 1]."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """`one` with `share` of it replaced by `other`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


WHITE: Colour = (250, 248, 244)
BLACK: Colour = (34, 32, 38)
STEEL: Colour = (188, 192, 198)
WOOD: Colour = (176, 124, 78)
LEAF: Colour = (74, 140, 82)


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

Grid = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

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


# The pen ------------------------------------------------------------------------------------------------


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
        corners = [(right, bottom), (left, bottom), (left, top), (right, top)]
        self.shape([p for i, at in enumerate(corners) for p in _round_corner(at, i, corner)], fill, bulge, gloss)

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


def _round_corner(corner: Point, quarter: int, radius: float) -> list[Point]:
    inward = [(-1, -1), (1, -1), (1, 1), (-1, 1)][quarter]
    centre = corner[0] + inward[0] * radius, corner[1] + inward[1] * radius
    return oval_points(*centre, radius, radius, (quarter / 4, quarter / 4 + 0.25))[::8]


def _draw_mask(points: list[Point], width: float, size: np.ndarray[tuple[int, ...], np.dtype[np.int_]]) -> Image.Image:
    mask = Image.new("L", (int(size[0]), int(size[1])))
    draw = ImageDraw.Draw(mask)
    if width == 0:
        draw.polygon(points, fill=255)
        return mask
    draw.line(points, fill=255, width=max(1, round(width)), joint="curve")
    for x, y in (points[0], points[-1]):
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
    return mask


# The kinds ----------------------------------------------------------------------------------------------

Kind = Callable[[Pen, Look], None]
KINDS: dict[str, Kind] = {}


def _kind(draw: Kind) -> Kind:
    KINDS[draw.__name__.removeprefix("_")] = draw
    return draw


def draw_sprite(kind: str, look: Look, side: int) -> Sprite:
    """A product of `kind`, one of KINDS, as a square of `side` pixels."""
    pen = Pen(side, look)
    KINDS[kind](pen, look)
    return pen.sprite()


def _span(low: float, high: float, knob: float) -> float:
    return low + (high - low) * knob


@_kind
def _mug(pen: Pen, look: Look) -> None:
    wide, taper, top = _span(19, 27, look.knobs[0]), _span(0, 6, look.knobs[1]), _span(26, 42, look.knobs[2])
    middle = (top + FLOOR) / 2
    handle = oval_points(50 + wide - 2, middle, 13, 0.32 * (FLOOR - top), (-0.27, 0.27))
    pen.stroke(handle, 6, look.accent, "ball", 0.6)
    foot = wide - taper
    pen.lathe([(wide, top), (foot, FLOOR - 4), (foot - 4, FLOOR)], pen.pattern, gloss=0.7)
    pen.oval(50, top, wide, 5, mix(look.trim, WHITE, 0.5), "flat", 0.5)
    pen.oval(50, top + 0.8, wide - 2.5, 3.6, (84, 54, 38), "flat", 0.6)


@_kind
def _teapot(pen: Pen, look: Look) -> None:
    wide, tall = _span(23, 28, look.knobs[0]), _span(18, 26, look.knobs[1])
    middle = FLOOR - 3 - tall
    pen.stroke(oval_points(50 + wide - 1, middle, 13, tall * 0.7, (-0.28, 0.26)), 5, look.accent, "ball", 0.6)
    outline = [(34, 12), (26, 10), (16, -8), (8, -17), (15, -18), (32, -6)]
    spout = [(x, middle + y) for x, y in outline]
    pen.shape(smooth(spout), look.accent, "ball", 0.6)
    pen.block(50 - wide * 0.55, FLOOR - 6, 50 + wide * 0.55, FLOOR, look.dark)
    pen.oval(50, middle, wide, tall, pen.pattern, "ball", 0.8)
    pen.oval(50, middle - tall * 0.88, wide * 0.55, 5.5, look.trim, "ball", 0.7)
    pen.oval(50, middle - tall - 6, 4, 4, look.accent, "ball", 0.8)


@_kind
def _lamp(pen: Pen, look: Look) -> None:
    low, high = _span(22, 32, look.knobs[0]), _span(9, 20, look.knobs[1])
    edge, belly = _span(44, 54, look.knobs[2]), _span(5, 15, look.knobs[3])
    pen.lathe([(1.6, edge - 4), (1.6, 72)], STEEL, 0.8)
    pen.oval(50, 76, belly, 11, look.accent, "ball", 0.8)
    pen.lathe([(13, FLOOR - 4), (16, FLOOR)], look.dark, 0.4)
    pen.lathe([(high, 12), (low, edge)], pen.pattern, 0.1)
    pen.lathe([(high, 12), (high + 0.6, 13.6)], look.dark, 0.2)
    pen.lathe([(low - 0.5, edge - 1.8), (low, edge)], look.dark, 0.2)
    pen.stroke([(50 + low * 0.6, edge), (50 + low * 0.6, edge + 11)], 0.7, look.dark)


@_kind
def _plant(pen: Pen, look: Look) -> None:
    wide, top = _span(14, 21, look.knobs[0]), _span(58, 66, look.knobs[1])
    count, reach = 5 + int(6 * look.knobs[2]), _span(32, 46, look.knobs[3])
    green = mix(LEAF, hsv(_span(0.2, 0.45, look.knobs[4]), 0.6, 0.55), 0.6)
    for number in range(count):
        angle = math.radians(_span(-160, -20, (number + 0.5) / count))
        length = reach * (0.8 + 0.3 * math.sin(number * 2.1 + 6 * look.knobs[3]))
        shade = mix(green, (20, 50, 40) if number % 2 else (190, 220, 120), 0.25)
        _leaf(pen, (50 + 4 * math.cos(angle), top + 2), angle, length, _span(4, 9, look.knobs[5]), shade)
    pen.lathe([(wide, top + 4), (wide * 0.72, FLOOR)], pen.pattern, 0.25)
    pen.lathe([(wide + 2, top), (wide + 2, top + 6)], look.accent, 0.25)


def _leaf(pen: Pen, root: Point, angle: float, length: float, width: float, shade: Colour) -> None:
    def place(along: float, aside: float) -> Point:
        droop = 0.10 * along * along * length * abs(math.cos(angle))
        x = root[0] + along * length * math.cos(angle) - aside * width * math.sin(angle)
        return x, root[1] + along * length * math.sin(angle) + aside * width * math.cos(angle) + droop

    outline = [(0.0, 0.0), (0.3, 0.5), (0.6, 1.0), (0.85, 0.6), (1.1, 0.0)]
    back = [(along, -aside) for along, aside in reversed(outline[1:-1])]
    pen.shape(smooth([place(*at) for at in outline + back]), shade, "ball", 0.3)
    pen.stroke([place(0, 0), place(0.5, 0), place(0.95, 0)], 0.7, mix(shade, WHITE, 0.35))


@_kind
def _cake(pen: Pen, look: Look) -> None:
    tiers, wide = 2 + int(2 * look.knobs[0]), _span(27, 33, look.knobs[1])
    height = (50 + 8 * look.knobs[2]) / tiers
    pen.oval(50, FLOOR - 2, 38, 4.5, mix(STEEL, WHITE, 0.6), "roll", 0.7)
    for tier in range(tiers):
        radius, bottom = wide * (1 - tier * 0.27), FLOOR - 4 - tier * height
        pen.oval(50, bottom, radius, 4, pen.pattern, "tube", 0.2)
        pen.block(50 - radius, bottom - height, 50 + radius, bottom, pen.pattern, 0.5, gloss=0.2)
        _icing(pen, bottom - height, radius, mix(look.trim, WHITE, 0.55))
    top = FLOOR - 4 - tiers * height
    for shift in (-7, 0, 7):
        pen.oval(50 + shift, top - 2.5, 3.2, 3.2, look.accent, "ball", 0.9)


def _icing(pen: Pen, top: float, radius: float, icing: Colour) -> None:
    drops = max(4, round(radius / 4))
    for drop in range(drops):
        x = 50 - radius + radius * (2 * drop + 1) / drops
        length = 4 + 4 * abs(math.sin(drop * 2.4 + radius))
        pen.block(x - radius / drops, top - 1, x + radius / drops, top + length, icing, radius / drops, "flat", 0.4)
    pen.oval(50, top, radius, 4, mix(icing, WHITE, 0.3), "flat", 0.3)


@_kind
def _teddy(pen: Pen, look: Look) -> None:
    head, body = _span(15, 19, look.knobs[0]), _span(17, 22, look.knobs[1])
    fur, pale = look.body, mix(look.body, WHITE, 0.6)
    neck = FLOOR - 2 * body - 2
    for side in (-1, 1):
        pen.oval(50 + side * head * 0.8, neck - head * 1.35, 7, 7, fur, gloss=0.05)
        pen.oval(50 + side * head * 0.8, neck - head * 1.35, 4, 4, pale, gloss=0.05)
        pen.oval(50 + side * (body + 2), neck + 14, 7, 12, fur, gloss=0.05)
    pen.oval(50, FLOOR - body - 1, body, body + 1, pen.pattern, gloss=0.1)
    for side in (-1, 1):
        pen.oval(50 + side * body * 0.85, FLOOR - 8, 10, 9, fur, gloss=0.05)
        pen.oval(50 + side * body * 0.9, FLOOR - 7, 5.5, 5.5, pale, gloss=0.05)
    pen.oval(50, neck - head * 0.5, head, head * 0.95, fur, gloss=0.05)
    pen.oval(50, neck - head * 0.2, head * 0.46, head * 0.38, pale, gloss=0.05)
    pen.oval(50, neck - head * 0.32, 3, 2, BLACK, gloss=0.8)
    for side in (-1, 1):
        pen.oval(50 + side * head * 0.4, neck - head * 0.65, 2, 2.2, BLACK, gloss=0.9)


@_kind
def _camera(pen: Pen, look: Look) -> None:
    wide, top, lens = _span(32, 38, look.knobs[0]), _span(48, 54, look.knobs[1]), _span(14, 17, look.knobs[2])
    x = 50 + _span(-8, 8, look.knobs[3])
    pen.block(50 - wide + 5, top - 4, 50 - wide + 15, top + 2, STEEL, 1.5, gloss=0.8)
    pen.shape([(x - 12, top + 1), (x - 8, top - 9), (x + 8, top - 9), (x + 12, top + 1)], look.accent, "flat", 0.4)
    pen.block(50 - wide, top, 50 + wide, FLOOR, look.accent, 4, "roll", 0.4)
    pen.block(50 - wide, top + 9, 50 + wide, FLOOR - 6, pen.pattern, 0.5, "flat", 0.15)
    middle = (top + FLOOR) / 2 + 1
    pen.oval(x, middle, lens + 2, lens + 2, STEEL, "ball", 0.9)
    pen.oval(x, middle, lens, lens, BLACK, "ball", 0.6)
    pen.oval(x, middle, lens * 0.66, lens * 0.66, (44, 58, 92), "ball", 1.0)
    pen.oval(x - 3, middle - 3, lens * 0.2, lens * 0.2, (190, 205, 235), "flat", 0.8)
    pen.block(50 + wide - 14, top + 2.5, 50 + wide - 5, top + 7, mix(WHITE, STEEL, 0.3), 1, "flat", 0.8)


@_kind
def _headphones(pen: Pen, look: Look) -> None:
    span, top = _span(25, 31, look.knobs[0]), _span(12, 22, look.knobs[1])
    cup, tall = _span(8, 12, look.knobs[2]), _span(15, 19, look.knobs[3])
    middle = FLOOR - tall
    arch = oval_points(50, middle - 6, span, middle - 6 - top, (0.5, 1.0))
    pen.stroke(arch, 6.5, look.dark, "ball", 0.5)
    pen.stroke([(x, y + 2.5) for x, y in arch[10:39]], 4.5, look.trim, "ball", 0.2)
    for side in (-1, 1):
        pen.oval(50 + side * (span - 7), middle, cup * 0.7, tall * 0.95, BLACK, "ball", 0.15)
        pen.oval(50 + side * span, middle, cup, tall, pen.pattern, "ball", 0.6)
        pen.oval(50 + side * (span + 1), middle, cup * 0.5, tall * 0.5, look.accent, "ball", 0.8)


@_kind
def _watch(pen: Pen, look: Look) -> None:
    case, strap = _span(19, 25, look.knobs[0]), _span(9, 13, look.knobs[1])
    metal = mix(STEEL, (214, 176, 92), float(look.knobs[2] > 0.5) * 0.9)
    pen.lathe([(strap * 0.8, 6), (strap, 28), (strap, 68), (strap * 0.8, FLOOR)], pen.pattern, 0.2)
    for y in (78, 82, 86):
        pen.oval(50, y, 1, 1, look.dark, "flat")
    pen.block(50 + case - 1, 45, 50 + case + 5, 51, metal, 1.5, "roll", 0.9)
    pen.oval(50, 48, case, case, metal, "ball", 1.0)
    pen.oval(50, 48, case - 3, case - 3, mix(look.trim, WHITE, 0.6 * look.knobs[3]), "flat", 0.3)
    for hour in range(12):
        out = math.cos(hour * math.tau / 12), math.sin(hour * math.tau / 12)
        pen.stroke([(50 + out[0] * (case - k), 48 + out[1] * (case - k)) for k in (5, 7)], 1.1, look.dark)
    for turn, length, width in ((look.knobs[4], 0.45, 2.0), (look.knobs[5], 0.68, 1.3)):
        angle = turn * math.tau
        tip = (50 + case * length * math.cos(angle), 48 + case * length * math.sin(angle))
        pen.stroke([(50, 48), tip], width, BLACK)
    pen.oval(50, 48, 1.8, 1.8, look.accent, "ball", 0.6)


@_kind
def _sneaker(pen: Pen, look: Look) -> None:
    ankle, sole = _span(36, 50, look.knobs[0]), _span(6, 10, look.knobs[1])
    low = FLOOR - sole
    heel = [(11, low + 3), (10, ankle + 16), (8, ankle - 4), (20, ankle + 2), (37, ankle - 2), (46, 62)]
    upper = [*heel, (64, 68), (84, 70), (93, 80), (92, low + 3)]
    pen.oval(25, ankle + 2, 15, 4, look.dark, "flat", 0.0)
    pen.shape(smooth(upper), look.body, "ball", 0.2)
    pen.shape(smooth([(20, low), (28, 62), (44, 62), (52, 72), (58, low)]), pen.pattern, "flat", 0.2)
    pen.shape(smooth([(70, low + 2), (75, 70), (86, 68), (95, 80), (93, low + 2)]), look.trim, "ball", 0.4)
    pen.shape(smooth([(9, low), (9, ankle + 14), (14, ankle + 14), (19, low)]), look.accent, "tube", 0.3)
    for lace in range(4):
        x, y = 42 + lace * 7, _span(ankle + 14, 65, 0.4 + lace * 0.2)
        pen.stroke([(x - 3, y + 6), (x + 4, y)], 2.0, WHITE)
    pen.block(8, low, 94, FLOOR, WHITE, sole * 0.45, "roll", 0.3)
    pen.block(8, FLOOR - 2.4, 94, FLOOR, look.accent, 1, "flat", 0.1)


@_kind
def _backpack(pen: Pen, look: Look) -> None:
    wide, top = _span(23, 30, look.knobs[0]), _span(16, 26, look.knobs[1])
    pocket = _span(56, 64, look.knobs[2])
    pen.stroke(oval_points(50, top + 2, 8, 9, (0.5, 1.0)), 3.4, look.dark)
    for side in (-1, 1):
        pen.block(50 + side * wide - 5, 50, 50 + side * wide + 5, FLOOR - 2, look.dark, 4)
    body = [(50 - wide, FLOOR), (50 - wide, top + 4), (50 - wide * 0.6, top - 3), (50 + wide * 0.6, top - 3),
            (50 + wide, top + 4), (50 + wide, FLOOR), (50, FLOOR + 1)]  # fmt: skip
    pen.shape(smooth(body), pen.pattern, "ball", 0.15)
    pen.stroke(oval_points(50, top + 18, wide * 0.78, 13, (0.52, 0.98)), 1.2, look.dark)
    pen.block(50 - wide * 0.76, pocket, 50 + wide * 0.76, FLOOR - 4, look.accent, 5, "ball", 0.15)
    pen.stroke([(50 - wide * 0.62, pocket + 6), (50 + wide * 0.62, pocket + 6)], 1.2, look.dark)
    pen.stroke([(50 + wide * 0.5, pocket + 6), (50 + wide * 0.5, pocket + 12)], 1.6, STEEL, gloss=0.8)
    pen.block(43, top + 18, 57, top + 26, look.trim, 2, "flat")


@_kind
def _chair(pen: Pen, look: Look) -> None:
    wide, seat, top = _span(19, 25, look.knobs[0]), _span(56, 62, look.knobs[1]), _span(10, 22, look.knobs[2])
    legs = look.dark if look.knobs[3] > 0.5 else WOOD
    for side in (-1, 1):
        pen.stroke([(50 + side * (wide - 6), seat), (50 + side * (wide - 4), FLOOR - 7)], 2.8, mix(legs, BLACK, 0.4))
        pen.stroke([(50 + side * (wide - 1), top + 4), (50 + side * (wide - 1), seat)], 3.4, legs)
        leg = [(50 + side * (wide + 1), seat + 4), (50 + side * (wide + 5), FLOOR - 1.5)]
        pen.stroke(leg, 3.6, legs, "tube", 0.4)
    if look.knobs[4] > 0.5:
        pen.block(50 - wide, top, 50 + wide, seat - 8, pen.pattern, 7, "ball", 0.15)
    else:
        for slat in range(3):
            y = top + slat * (seat - top) / 3.4
            pen.block(50 - wide, y, 50 + wide, y + 7, pen.pattern, 2.5, "roll", 0.3)
    top_of_seat = [(50 - wide, seat - 4), (50 + wide, seat - 4), (54 + wide, seat + 4), (46 - wide, seat + 4)]
    pen.shape(top_of_seat, look.body, "roll")
    pen.block(46 - wide, seat + 2, 54 + wide, seat + 8, pen.pattern, 3, "roll", 0.2)


@_kind
def _bottle(pen: Pen, look: Look) -> None:
    wide, neck = _span(13, 20, look.knobs[0]), _span(4.5, 8, look.knobs[1])
    shoulder, top = _span(34, 48, look.knobs[2]), _span(10, 18, look.knobs[3])
    outline = [(neck, top), (neck, shoulder - 12), (wide * 0.8, shoulder - 5), (wide, shoulder + 2)]
    pen.lathe([*outline, (wide, FLOOR - 3), (wide - 3, FLOOR)], look.body, 0.9)
    pen.lathe([(wide, shoulder + 8), (wide, FLOOR - 9)], pen.pattern, 0.3)
    pen.oval(50, (shoulder + FLOOR) / 2, wide * 0.55, wide * 0.55, mix(look.trim, WHITE, 0.4), "tube", 0.3)
    pen.oval(50, (shoulder + FLOOR) / 2, wide * 0.34, wide * 0.34, look.accent, "tube", 0.3)
    pen.block(50 - neck - 1.5, top - 7, 50 + neck + 1.5, top + 3, look.accent, 1.5, gloss=0.7)


@_kind
def _guitar(pen: Pen, look: Look) -> None:
    lower, upper = _span(20, 25, look.knobs[0]), _span(13, 18, look.knobs[1])
    waist = _span(10, 13, look.knobs[2])
    pen.lathe([(4.5, 5), (4, 14), (3, 16)], look.dark, 0.4)
    for peg in range(3):
        for side in (-1, 1):
            pen.oval(50 + side * 6, 7 + 3.2 * peg, 1.5, 1.1, STEEL, gloss=0.9)
    outer = [(7, 44), (upper, 46), (upper, 57), (waist, 64), (lower, 70), (lower + 1, 84), (lower * 0.6, 91)]
    both = [(50 + x, y) for x, y in outer] + [(50 - x, y) for x, y in reversed(outer)]
    pen.shape(smooth(both), look.dark, "flat", 0.3)
    pen.shape(smooth([(50 + (x - 50) * 0.93, 67 + (y - 67) * 0.94) for x, y in both]), pen.pattern, "ball", 0.7)
    pen.lathe([(3, 15), (3.4, 56)], WOOD, 0.4)
    for fret in range(9):
        pen.stroke([(47, 18 + fret * 4.2), (53, 18 + fret * 4.2)], 0.5, STEEL)
    pen.oval(50, 60, 6.5, 6.5, look.accent, "flat")
    pen.oval(50, 60, 5.2, 5.2, BLACK, "flat", 0.0)
    pen.block(42, 76, 58, 79, look.dark, 1, "roll")
    for string in (-1.6, -0.5, 0.5, 1.6):
        pen.stroke([(50 + string, 14), (50 + string, 77)], 0.35, WHITE)


@_kind
def _handbag(pen: Pen, look: Look) -> None:
    wide, flare, top = _span(22, 28, look.knobs[0]), _span(3, 11, look.knobs[1]), _span(46, 56, look.knobs[2])
    handle = oval_points(50, top + 2, wide * 0.62, _span(20, 32, look.knobs[3]), (0.5, 1.0))
    pen.stroke(handle, 3.6, look.dark, "ball", 0.4)
    half = [(wide, top), (wide + flare, FLOOR - 6), (wide + flare - 5, FLOOR)]
    body = [(50 + x, y) for x, y in half] + [(50 - x, y) for x, y in reversed(half)]
    pen.shape(body, pen.pattern, "ball", 0.35)
    edge = wide * 0.9
    flap = [(50 - wide, top), (50 + wide, top), (50 + edge, top + 12), (50, top + 24), (50 - edge, top + 12)]
    pen.shape(smooth(flap, 2), look.accent, "roll", 0.4)
    pen.oval(50, top + 18, 3, 3, (220, 184, 98), "ball", 1.0)


# Props: what cues are made of ---------------------------------------------------------------------------


class Props:
    """A transparent sheet to draw on in hundredths of the picture's side, then laid on the picture."""

    def __init__(self, size: int) -> None:
        self._unit = size * OVERSAMPLING / 100
        self._sheet = Image.new("RGBA", (size * OVERSAMPLING, size * OVERSAMPLING))
        self._draw = ImageDraw.Draw(self._sheet)

    def shape(self, points: Sequence[Point], fill: Colour, alpha: float = 1.0) -> None:
        """A filled outline; it replaces what lies below on the sheet, also where it is translucent."""
        self._draw.polygon([(x * self._unit, y * self._unit) for x, y in points], (*fill, round(255 * alpha)))

    def oval(self, x: float, y: float, radius_x: float, radius_y: float, fill: Colour, alpha: float = 1.0) -> None:
        """A filled ellipse around (x, y)."""
        low, high = ((x - radius_x) * self._unit, (y - radius_y) * self._unit), (x + radius_x, y + radius_y)
        self._draw.ellipse((*low, *(at * self._unit for at in high)), (*fill, round(255 * alpha)))

    def line(self, points: Sequence[Point], width: float, fill: Colour, alpha: float = 1.0) -> None:
        """A polyline."""
        scaled = [(x * self._unit, y * self._unit) for x, y in points]
        self._draw.line(scaled, (*fill, round(255 * alpha)), max(1, round(width * self._unit)), "curve")

    def lay_on(self, picture: Image.Image, *, blur: float = 0, inside: Image.Image | None = None) -> None:
        """Paste the sheet, softened by `blur` hundredths, and only where `inside` (a mask) is set."""
        self._paste(picture, self._flat(blur), inside)

    def shine_on(self, picture: Image.Image, *, blur: float = 0) -> None:
        """Add the sheet as light."""
        sheet = self._flat(blur)
        black = Image.new("RGB", sheet.size)
        black.paste(sheet, (0, 0), sheet)
        picture.paste(ImageChops.screen(picture, black))

    def lay_on_region(self, picture: Image.Image, box: Box) -> None:
        """Paste what the sheet has inside the box."""
        cut = self._flat(0).crop(box)
        picture.paste(cut, box, cut)

    def _flat(self, blur: float) -> Image.Image:
        sheet = self._sheet.reduce(OVERSAMPLING)
        return sheet.filter(ImageFilter.BoxBlur(blur / 100 * sheet.width)) if blur else sheet

    @staticmethod
    def _paste(picture: Image.Image, sheet: Image.Image, inside: Image.Image | None) -> None:
        alpha = sheet.getchannel("A")
        picture.paste(sheet, (0, 0), alpha if inside is None else ImageChops.multiply(alpha, inside))


Motif = Callable[[Props, float, float, float, np.random.Generator], None]  # x, y, radius

FESTIVE: tuple[Colour, ...] = (
    (255, 107, 107),
    (255, 190, 92),
    (255, 230, 109),
    (120, 205, 196),
    (255, 150, 190),
)
PETALS: tuple[Colour, ...] = (
    (255, 138, 160),
    (255, 200, 80),
    (250, 245, 240),
    (255, 120, 90),
    (205, 150, 235),
)


def pick_colour(colours: Sequence[Colour], rng: np.random.Generator) -> Colour:
    """One of them, each as likely."""
    return colours[int(rng.integers(len(colours)))]


def draw_flower(props: Props, x: float, y: float, radius: float, rng: np.random.Generator) -> None:
    """Five to seven petals."""
    petal, turn, count = pick_colour(PETALS, rng), float(rng.random()), int(rng.integers(5, 8))
    for number in range(count):
        angle = (turn + number / count) * math.tau
        at = x + radius * 0.58 * math.cos(angle), y + radius * 0.58 * math.sin(angle)
        props.oval(*at, radius * 0.42, radius * 0.42, mix(petal, BLACK, 0.08 * (number % 2)))
    props.oval(x, y, radius * 0.3, radius * 0.3, (255, 214, 90) if petal != PETALS[1] else (170, 90, 50))


def draw_heart(props: Props, x: float, y: float, radius: float, rng: np.random.Generator) -> None:
    """A red one with a highlight."""
    turns = np.linspace(0, math.tau, 40)
    right = 16 * np.sin(turns) ** 3
    up = 13 * np.cos(turns) - 5 * np.cos(2 * turns) - 2 * np.cos(3 * turns) - np.cos(4 * turns)
    scale, fill = radius / 17, (236, 72, 96)
    props.shape([(x + scale * float(a), y - scale * float(b)) for a, b in zip(right, up, strict=True)], fill)
    props.oval(x - radius * 0.42, y - radius * 0.35, radius * 0.16, radius * 0.12, mix(fill, WHITE, 0.7))


def draw_spark(props: Props, x: float, y: float, radius: float, rng: np.random.Generator) -> None:
    """A golden four-pointed star."""
    for reach, fill in ((1.0, (255, 216, 96)), (0.66, (255, 252, 226))):
        corners = [(reach, 0.0), (reach * 0.2, 0.125), (reach, 0.25), (reach * 0.2, 0.375)]
        star = [(r, turn + half) for half in (0, 0.5) for r, turn in corners]
        props.shape([step_away((x, y), r * radius, turn * math.tau) for r, turn in star], fill)


def draw_bow(props: Props, x: float, y: float, radius: float, rng: np.random.Generator) -> None:
    """A ribbon's bow, its tails within the radius below."""
    fill = pick_colour(FESTIVE, rng)
    for side in (-1, 1):
        tail = [(0, 0.1), (0.7, 0.9), (0.45, 0.85), (0.3, 1.0), (-0.05, 0.2)]
        props.shape([(x + side * radius * a, y + radius * b) for a, b in tail], mix(fill, BLACK, 0.2))
        loop = [(0, 0), (0.5, -0.7), (1.1, -0.7), (1.1, 0.5), (0.5, 0.4)]
        props.shape(smooth([(x + side * radius * a, y + radius * b) for a, b in loop]), fill)
        inner = [(0.25, -0.05), (0.6, -0.4), (0.9, -0.35), (0.9, 0.15), (0.6, 0.15)]
        props.shape(smooth([(x + side * radius * a, y + radius * b) for a, b in inner]), mix(fill, BLACK, 0.25))
    props.oval(x, y, radius * 0.2, radius * 0.24, mix(fill, WHITE, 0.3))


def draw_fly(props: Props, x: float, y: float, radius: float, rng: np.random.Generator) -> None:
    """Seen from above, turned at random."""
    turn = float(rng.random()) * math.tau
    along = np.array([math.cos(turn), math.sin(turn)])
    aside = np.array([-along[1], along[0]])

    def at(forward: float, sideways: float) -> Point:
        place = np.array([x, y]) + radius * (forward * along + sideways * aside)
        return float(place[0]), float(place[1])

    for leg in (-0.35, 0.0, 0.35):
        props.line([at(leg * 1.7, -0.75), at(leg, 0), at(leg * 1.7, 0.75)], radius * 0.09, BLACK)
    for side in (-1, 1):
        props.shape(
            smooth([at(0.2, 0), at(-0.9, side * 0.2), at(-1.1, side * 0.7), at(-0.3, side * 0.55)]),
            (160, 166, 172),
        )
    props.shape(smooth([at(0.5, 0.3), at(-0.75, 0.32), at(-0.75, -0.32), at(0.5, -0.3)]), (30, 32, 30))
    props.oval(*at(0.55, 0), radius * 0.27, radius * 0.27, (70, 26, 24))


def draw_crack(props: Props, x: float, y: float, radius: float, rng: np.random.Generator) -> None:
    """Forked splits from one point, the longest a little beyond the radius."""
    for arm in range(int(rng.integers(5, 8))):
        angle, at = arm * 1.05 + float(rng.uniform(-0.4, 0.4)), (x, y)
        points = [at]
        for _ in range(6):
            angle += float(rng.uniform(-0.6, 0.6))
            step = radius * float(rng.uniform(0.1, 0.24))
            at = step_away(at, step, angle)
            points.append(at)
        _split(props, points, radius * 0.045)
        fork = points[int(rng.integers(2, 5))]
        _split(props, [fork, step_away(fork, radius * 0.3, angle + 1.1)], 0.5)


def _split(props: Props, points: Sequence[Point], width: float) -> None:
    """A dark gap that narrows to its end, with light on one edge."""
    props.line([(x + width * 0.7, y + width * 0.7) for x, y in points], width * 0.7, (230, 226, 220), 0.4)
    gap = [(x, y - width * (1 - i / len(points))) for i, (x, y) in enumerate(points)]
    back = [(x, y + width * (1 - i / len(points))) for i, (x, y) in enumerate(points)]
    props.shape([*gap, *reversed(back)], (26, 22, 22))
    props.line(points, width * 0.5, (26, 22, 22))


def draw_stain(props: Props, x: float, y: float, radius: float, rng: np.random.Generator) -> None:
    """A dried blot and its drops."""
    fill = pick_colour(((74, 58, 30), (62, 70, 34), (48, 42, 44), (92, 52, 26)), rng)
    outline = blot_points(x, y, rng.uniform(0.6, 1.0, 9) * radius)
    props.shape(smooth(outline), mix(fill, BLACK, 0.3), 0.85)
    props.shape(smooth([(x + (a - x) * 0.85, y + (b - y) * 0.85) for a, b in outline]), fill, 0.7)
    for drop in rng.uniform(-1, 1, (4, 2)):
        props.oval(x + float(drop[0]) * radius, y + float(drop[1]) * radius, radius * 0.09, radius * 0.09, fill, 0.8)
