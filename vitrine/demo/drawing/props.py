"""Props drawn into a picture, and the motifs made of them that tell an emotion: flowers, hearts, flies, cracks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from vitrine.demo.drawing.shapes import BLACK, WHITE, Box, Colour, Point, blot_points, mix, smooth, step_away

OVERSAMPLING = 2  # in every picture


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
        sheet = self._flat(blur)
        alpha = sheet.getchannel("A")
        picture.paste(sheet, (0, 0), alpha if inside is None else ImageChops.multiply(alpha, inside))

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
