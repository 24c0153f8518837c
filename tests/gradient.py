"""One gradient in any format, and how far a reader's pixels are from it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.errors import Undecodable
from model.pictures.decode import decode

HEIGHT, WIDTH = 64, 96


def _drawn() -> NDArray[np.uint8]:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 255 // 95, y * 255 // 63, (x + y) * 255 // 158], -1).astype(np.uint8)


RGB = _drawn()  # red to the right, green downwards, blue along the diagonal
GREY = np.repeat(RGB[..., :1], 3, axis=-1)


def saved(format_: str, image: Image.Image | None = None, **options: Any) -> bytes:
    """The gradient, or another image, as Pillow writes it."""
    file = io.BytesIO()
    (image or Image.fromarray(RGB)).save(file, format_, **options)
    return file.getvalue()


def off(pixels: NDArray[np.uint8], expected: NDArray[np.uint8]) -> int:
    """The largest difference of any sample."""
    assert pixels.shape == expected.shape
    return int(np.abs(pixels.astype(int) - expected).max())


def refusal(data: bytes) -> str | None:
    """Why it is refused, None where it is not."""
    try:
        decode(data)
    except Undecodable as error:
        return error.reason
    return None
