"""A drawn clothes shop: each design in several colours, each colour a product of its own, before one pale wall.

The wall says nothing of the product, and a product differs from its sisters by nothing but colour: what a shop with
studio photographs looks like, and neither the demo nor the groceries do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitrine.demo.drawing.pen import Look, Pen, Sprite, choose_look
from vitrine.demo.drawing.shapes import Point

DESIGNS, COLOURS, VIEWS = 5, 3, 4  # of each kind, of each design, of each product
SIDE = 224  # pixels


@dataclass(frozen=True)
class Clothes:
    """B pictures, uint8 B×SIDE×SIDE×3, and what each shows."""

    pixels: NDArray[np.uint8]
    products: NDArray[np.str_]
    kinds: NDArray[np.str_]


def draw_clothes(seed: int = 0) -> Clothes:
    """6 kinds × 5 designs × 3 colours × 4 views: 360 pictures of 90 products."""
    pixels, products, kinds = [], [], []
    for number, (kind, draw) in enumerate(GARMENTS.items()):
        for design in range(DESIGNS):
            cut = choose_look(np.random.default_rng([seed, number, design]))
            for colour in range(COLOURS):
                dye = choose_look(np.random.default_rng([seed, number, design, colour, 1]))
                pen = Pen(SIDE, replace(dye, pattern=cut.pattern, knobs=cut.knobs))
                draw(pen, replace(dye, knobs=cut.knobs))
                for view in range(VIEWS):
                    pixels.append(
                        _photograph(pen.sprite(), np.random.default_rng([seed, number, design, colour, view, 2]))
                    )
                    products.append(f"{kind}-{design}-{colour}")
                    kinds.append(kind)
    return Clothes(np.stack(pixels), np.array(products), np.array(kinds))


def _photograph(sprite: Sprite, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turned, moved, nearer or further, in warmer or colder light; half of the views cut something off."""
    scale, close = float(rng.uniform(0.75, 1.0)), rng.random() < 0.5
    side = round(SIDE * scale * (1.35 if close else 1))
    garment = sprite.colour.resize((side, side), Image.Resampling.BICUBIC)
    garment = garment.rotate(float(rng.normal(0, 8)), Image.Resampling.BICUBIC)
    if rng.random() < 0.4:
        garment = garment.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    shade = round(float(rng.uniform(225, 248)))
    picture = Image.new("RGB", (SIDE, SIDE), (shade, shade, shade))
    left, top = ((SIDE - side) // 2 + round(float(rng.normal(0, 8))) for _ in range(2))
    picture.paste(garment, (left, top), garment)
    light = float(rng.uniform(0.82, 1.08)) * (1 + rng.normal(0, 0.03, 3))
    noisy = np.asarray(picture, dtype=np.float32) * light + rng.normal(0, 3, (SIDE, SIDE, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


# Garments, in hundredths of the side ---------------------------------------------------------------------------------


def _mirrored(half: list[Point]) -> list[Point]:
    """An outline from its left half, which goes from the top down."""
    return half + [(100 - x, y) for x, y in reversed(half)]


def _shirt(pen: Pen, look: Look) -> None:
    sleeve, hem = 30 + 14 * look.knobs[0], 70 + 18 * look.knobs[1]
    pen.shape(
        _mirrored([(42, 12), (28, 16), (10, sleeve), (19, sleeve + 7), (29, 32), (30, hem)]), pen.pattern, gloss=0
    )
    pen.oval(50, 13, 8, 4, look.accent, "flat", 0)


def _jumper(pen: Pen, look: Look) -> None:
    cuff, hem = 64 + 14 * look.knobs[0], 72 + 14 * look.knobs[1]
    pen.shape(_mirrored([(42, 12), (27, 17), (9, cuff), (18, cuff + 3), (29, 36), (28, hem)]), pen.pattern, gloss=0)
    pen.block(28, hem - 5, 72, hem, look.dark)
    pen.oval(50, 13, 9, 5, look.dark, "flat", 0)


def _trousers(pen: Pen, look: Look) -> None:
    leg, flare = 74 + 16 * look.knobs[0], 6 * look.knobs[1]
    pen.shape(_mirrored([(31, 10), (30 - flare, leg), (44 + flare, leg), (49.5, 36)]), pen.pattern, gloss=0)
    pen.block(31, 9, 69, 14, look.accent)


def _dress(pen: Pen, look: Look) -> None:
    hem, wide = 74 + 16 * look.knobs[0], 20 + 14 * look.knobs[1]
    pen.shape(_mirrored([(41, 10), (36, 12), (40, 40), (50 - wide, hem)]), pen.pattern, gloss=0.1)
    pen.block(39.5, 38, 60.5, 43, look.accent)


def _skirt(pen: Pen, look: Look) -> None:
    hem, wide = 58 + 28 * look.knobs[0], 24 + 16 * look.knobs[1]
    pen.shape(_mirrored([(36, 20), (50 - wide, hem)]), pen.pattern, gloss=0.1)
    pen.block(35.5, 18, 64.5, 24, look.dark)


def _hat(pen: Pen, look: Look) -> None:
    brim, tall = 30 + 14 * look.knobs[0], 20 + 18 * look.knobs[1]
    pen.shape(_mirrored([(44, 66 - tall), (32, 70 - tall * 0.8), (29, 68)]), pen.pattern, gloss=0.1)
    pen.oval(50, 68, brim, 7, look.body, "flat", 0.1)
    pen.block(29.5, 60, 70.5, 65, look.accent)


GARMENTS: dict[str, Callable[[Pen, Look], None]] = {
    "shirt": _shirt, "jumper": _jumper, "trousers": _trousers, "dress": _dress, "skirt": _skirt, "hat": _hat,
}  # fmt: skip
