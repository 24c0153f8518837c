"""What the lake keeps of a picture: its size, its format and small pixels, whatever object it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model.pictures.damage import MAX_PIXELS
from model.pictures.decode import decode, encode_jpeg

if TYPE_CHECKING:
    from lake.lake import Lake
    from model.choices import ScoringPrecision
    from model.predict import Predictions, Predictor

SHORT_SIDE = 256  # of the stored pixels; larger than any input of the networks but few bytes
JPEG_QUALITY = 92


@dataclass(frozen=True)
class StoredPicture:
    """A decoded picture as a row of `images` holds it."""

    width: int  # of the original, upright
    height: int
    format: str
    pixels: bytes  # JPEG, short side at most 256
    remark: str | None = None  # what is odd about a file that was read all the same


def read_picture(
    data: bytes, *, max_pixels: int = MAX_PIXELS, reserve: Callable[[int, bool], object] | None = None
) -> StoredPicture:
    """Decode, reduce, encode. A search by picture takes the same way, so that equal pictures embed equally.

    `max_pixels` and `reserve` are those of `decode`.

    Raises:
        Undecodable: the bytes are no picture; the reason is for people.
    """
    picture = decode(data, short_side=SHORT_SIDE, max_pixels=max_pixels, reserve=reserve)
    pixels = encode_jpeg(picture.rgb, quality=JPEG_QUALITY)
    return StoredPicture(picture.width, picture.height, picture.format, pixels, picture.remark)


def predict_picture(
    data: bytes,
    lake: Lake,
    device: str,
    precision: ScoringPrecision = "auto",
    *,
    look_version: int | None = None,
    model_version: int | None = None,
) -> Predictions:
    """What a look or a model says of any picture, one row, made as the catalogue's were.

    Raises:
        Undecodable: the bytes are no picture.
    """
    from tasks.predictors import predictor

    stored = read_picture(data)  # first: a file that is no picture should not cost loading the network
    model = predictor(lake, device, precision, look_version=look_version, model_version=model_version)
    return model.predict(prepare(stored.pixels, model)[np.newaxis])


def prepare(pixels: bytes, model: Predictor) -> NDArray[np.uint8]:
    """Stored pixels as the network wants them: uint8 3×S×S."""
    from model.pictures.stored import prepare

    return prepare(pixels, model.preprocessing)
