"""What the lake keeps of a picture: its size, its format and small pixels, whatever object it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model.pictures.decode import decode, encode_jpeg
from tasks.models import predictor

if TYPE_CHECKING:
    from lake.lake import Lake
    from model.choices import ScoringPrecision
    from model.predict import Predictor

SHORT_SIDE = 256  # of the stored pixels; larger than any input of the networks but few bytes
JPEG_QUALITY = 92


@dataclass(frozen=True)
class StoredPicture:
    """A decoded picture as a row of `images` holds it."""

    width: int  # of the original, upright
    height: int
    format: str
    pixels: bytes  # JPEG, short side at most 256


def read_picture(data: bytes) -> StoredPicture:
    """Decode, reduce, encode. A search by picture takes the same way, so that equal pictures embed equally.

    Raises:
        Undecodable: the bytes are no picture; the reason is for people.
    """
    picture = decode(data, short_side=SHORT_SIDE)
    return StoredPicture(picture.width, picture.height, picture.format, encode_jpeg(picture.rgb, quality=JPEG_QUALITY))


def embed(
    data: bytes, lake: Lake, model_version: int, device: str, precision: ScoringPrecision = "auto"
) -> NDArray[np.float32]:
    """The embedding of any picture, float32 of the model's embedding size, made as the catalogue's were.

    Raises:
        Undecodable: the bytes are no picture.
    """
    stored = read_picture(data)  # first: a file that is no picture should not cost loading the network
    model = predictor(lake, model_version, device, precision)
    pixels = prepare(stored.pixels, model)
    embedding: NDArray[np.float32] = model.predict(pixels[np.newaxis]).embedding[0]
    return embedding


def prepare(pixels: bytes, model: Predictor) -> NDArray[np.uint8]:
    """Stored pixels as the network wants them: uint8 3×S×S."""
    from model.pictures.stored import prepare

    return prepare(pixels, model.preprocessing)
