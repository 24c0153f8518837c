"""Many small pictures of distinct contents in a directory, made in seconds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

A_FOLDER = 1000
LOOKS = 200  # different pictures; beyond them a number after the picture's end makes a content its own


def write_small_pictures(folder: Path, count: int, *, first: int = 0, side: int = 64) -> None:
    """Write JPEGs `000/000123.jpg`, numbered from `first`."""
    looks = [_jpeg(seed, side) for seed in range(min(LOOKS, count))]
    for number in range(first, first + count):
        path = folder / f"{number // A_FOLDER:04d}" / f"{number:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(looks[number % len(looks)] + number.to_bytes(8, "little"))


def _jpeg(seed: int, side: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()
