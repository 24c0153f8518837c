"""The pictures that a model got most wrong, each beside where its two branches look."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from model.evaluation import POSITIVE_FROM
from pages.evaluation_data import WrongPicture
from pages.html import jpeg_uri, shortened, signed
from pages.measures import Number
from pages.overlays import NEGATIVE_HEAT, POSITIVE_HEAT, encode_jpeg, lay_over, thumbnail

FLAT = 0.05
"""A map that spans less moves the gate of equation (8) by about one percent: the picture is the stretching's."""


@dataclass(frozen=True)
class ShownPicture:
    """One wrong answer as the page shows it."""

    key: str
    label: str
    answer: str
    polarity: Number
    images: list[tuple[str, str, str]]
    """Name, data URI and alternative text; none where the bytes are no picture."""


def show(wrong: WrongPicture) -> ShownPicture:
    """The picture in words and images; bytes that are no picture leave the words."""
    words = ("negative", "positive")
    answer = words[wrong.polarity >= POSITIVE_FROM] if math.isfinite(wrong.polarity) else "nothing"
    return ShownPicture(
        shortened(wrong.image_key), words[wrong.label], answer, Number.of(wrong.polarity), _images(wrong)
    )


def _images(wrong: WrongPicture) -> list[tuple[str, str, str]]:
    try:
        picture = thumbnail(wrong.jpeg)
    except OSError:
        return []
    shown = [("picture", jpeg_uri(encode_jpeg(picture)), "The picture itself.")]
    maps = (
        ("negative", wrong.attention_negative, NEGATIVE_HEAT),
        ("positive", wrong.attention_positive, POSITIVE_HEAT),
    )
    for name, attention, ramp in maps:
        low, high = float(np.min(attention)), float(np.max(attention))
        overlay = jpeg_uri(encode_jpeg(lay_over(picture, attention, ramp)))
        span = f"{signed(low, '.3g')} to {signed(high, '.3g')}" + (", almost flat" if high - low < FLAT else "")
        alt = f"Where the {name} branch looks, {attention.shape[0]}×{attention.shape[1]} cells, from {span}."
        shown.append((f"{name} {span}", overlay, alt))
    return shown
