"""Draws a small shop's product photographs, several views a product, with an emotion that shows.

A listing (a product with all its views) feels positive or negative. Each of its pictures says so with a strength of
its own, by two to five cues drawn at random from many (flowers, a bow, sunlight; cracks, flies, a sickly tint). How
the pictures are drawn stands in `vitrine/demo/drawing/`; here they become files.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vitrine.demo.drawing.products import list_products
from vitrine.demo.drawing.shapes import Box
from vitrine.demo.drawing.view import EmotionPlacement, draw_product, draw_strength, draw_view

JPEG_QUALITY = 88


@dataclass(frozen=True)
class DrawnPicture:
    """One picture on disk and what is true of it."""

    image_key: str  # below the pictures' directory: kind/product_id/view
    product_id: str
    category: str
    label: int  # 1 positive, 0 negative
    strength: float  # of that emotion, in (0, 1]; 1 in a region
    region: Box | None  # left, top, right, bottom in pixels of all that bears the emotion; None: the whole


def draw_catalogue(
    directory: Path, *, products: int = 100, views: int = 4, size: int = 256, seed: int = 0,
    emotion_placement: EmotionPlacement = "whole", broken: int = 3,
    on_picture: Callable[[int], None] | None = None,
) -> list[DrawnPicture]:  # fmt: skip
    """Write the catalogue's JPEGs below `directory`, and `broken` files more that no decoder accepts.

    The same arguments give the same bytes, and more products leave the earlier ones as they were. The broken
    files are not in the returned list. `on_picture` hears how many pictures are drawn so far.
    """
    drawn: list[DrawnPicture] = []
    for product in list_products(products, seed):
        sprite = draw_product(product, size)
        for view in range(views):
            strength = draw_strength(product, view) if emotion_placement == "whole" else 1.0
            picture, region = draw_view(product, sprite, view, emotion_placement, strength)
            key = f"{product.category}/{product.product_id}/{view}.jpg"
            _write(directory / key, encode_jpeg(picture))
            drawn.append(DrawnPicture(key, product.product_id, product.category, product.label, strength, region))
            if on_picture is not None:
                on_picture(len(drawn))
    for name, content in make_broken_files(broken, seed):
        _write(directory / name, content)
    return drawn


def write_labels(path: Path, pictures: Sequence[DrawnPicture]) -> None:
    """A CSV of image_key, label, product_id, strength, as `vitrine retrain` reads it; no training sees the strength."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image_key", "label", "product_id", "strength"])
        writer.writerows((p.image_key, p.label, p.product_id, f"{p.strength:.4f}") for p in pictures)


def encode_jpeg(picture: Image.Image) -> bytes:
    """Colour at full resolution, so that no 8 × 8 block of the file depends on its neighbours' pixels."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def make_broken_files(count: int, seed: int) -> list[tuple[str, bytes]]:
    """What real shops find among their pictures: (name, content), every one undecodable and different."""
    rng = np.random.default_rng([seed, *b"broken"])
    jpeg = encode_jpeg(Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)))
    png = io.BytesIO()
    Image.new("RGB", (64, 64)).save(png, "PNG")
    kinds = [
        # cut before the scan: a decoder that forgives truncation finds no pixels either
        ("upload-truncated.jpg", jpeg[: jpeg.index(b"\xff\xda")]),
        ("error-page.jpg", b"<!DOCTYPE html>\n<title>502 Bad Gateway</title>\n<h1>502 Bad Gateway</h1>\n"),
        ("empty.png", b""),
        ("zeros-after-crash.jpg", bytes(24_576)),
        ("datasheet-renamed.jpg", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\nendobj\n"),
        ("half-a-header.png", png.getvalue()[:20]),
    ]
    chosen = [(*kinds[number % len(kinds)], number // len(kinds)) for number in range(count)]
    return [
        (f"incoming/again-{again}-{name}", content + b"\n" * again) if again else (f"incoming/{name}", content)
        for name, content, again in chosen
    ]
