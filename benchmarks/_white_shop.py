"""A shop of drawn objects on white, each picture of another product; shapes recur, colours don't."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("ellipse", "rectangle", "triangle", "ring", "bar", "cross", "bottle", "mug")
FRAME = 400


def draw_products(count: int, *, share: float = 0.2, seed: int = 0) -> Iterator[tuple[str, Image.Image]]:
    """Names and pictures of so many products; the objects take about that share of the frame's side."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        shape = SHAPES[number % len(SHAPES)]
        yield f"{shape}/sku{number:04d}", draw_product(shape, FRAME, share, rng)


def draw_product(shape: str, side: int, share: float, rng: np.random.Generator) -> Image.Image:
    """One object of about `share` of the frame, centred on white, in a colour of its own."""
    image = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(image)
    half = side * share / 2 * rng.uniform(0.8, 1.2)
    tall = half * rng.uniform(0.5, 1.0)
    x, y = side / 2 + rng.integers(-3, 4), side / 2 + rng.integers(-3, 4)
    colour = tuple(int(value) for value in rng.integers(0, 200, 3))
    other = tuple(int(value) for value in rng.integers(0, 200, 3))
    box = (x - tall, y - half, x + tall, y + half)
    if shape == "ellipse":
        pen.ellipse(box, fill=colour)
    elif shape == "rectangle":
        pen.rectangle(box, fill=colour)
    elif shape == "triangle":
        pen.polygon([(x, y - half), (x - tall, y + half), (x + tall, y + half)], fill=colour)
    elif shape == "ring":
        pen.ellipse(box, outline=colour, width=max(2, int(half / 4)))
    elif shape == "bar":
        pen.rectangle((x - half, y - half / 5, x + half, y + half / 5), fill=colour)
    elif shape == "cross":
        pen.line((x - tall, y - half, x + tall, y + half), fill=colour, width=max(2, int(half / 4)))
        pen.line((x - tall, y + half, x + tall, y - half), fill=colour, width=max(2, int(half / 4)))
    elif shape == "bottle":
        pen.rounded_rectangle((x - tall / 2, y - half / 3, x + tall / 2, y + half), radius=tall / 5, fill=colour)
        pen.rectangle((x - tall / 6, y - half, x + tall / 6, y - half / 3), fill=other)
    else:
        pen.rounded_rectangle((x - tall * 0.8, y - half, x + tall * 0.6, y + half), radius=tall / 6, fill=colour)
        pen.arc(
            (x + tall * 0.3, y - half / 2, x + tall * 1.1, y + half / 2),
            -90,
            90,
            fill=other,
            width=max(2, int(half / 6)),
        )
    return image
