"""What a picture looks like in a thousand bytes, and when two pictures are near-identical. Knows pixels only.

The bytes describe the subject (model/pictures/subject.py), not the frame: its colours within its own extent, and what
stands out from the background further off. So a margin, a crop of it, or the object's place in the frame change little,
and two objects on white are not alike because of the white.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.pictures.decode import decode
from model.pictures.subject import HALF, Floats, Pixels, Subject, find_subject

SIDE = 16
"""Cells of the thumbnail of the subject, and of the surroundings, along each side."""
FAR = 8.0
"""Spreads from the middle to the edge of the surroundings: a rake's teeth at the end of its handle."""

KIND, ASPECT, COLOUR, VARIETY, SIZE, PLACE = 0, 1, slice(2, 5), 5, 6, slice(7, 9)
THUMBNAIL = slice(9, 9 + 3 * SIDE * SIDE)
SURROUNDINGS = slice(THUMBNAIL.stop, THUMBNAIL.stop + SIDE * SIDE)
HASH_BYTES = SURROUNDINGS.stop
FILLS_FRAME, OBJECT, BLANK = 0, 1, 2  # kinds
STEPS = 64  # a unit of the natural logarithms of height : width, and of the subject's size : the frame's

MOST_DIFFERENCE = 8.0
"""Mean absolute difference of the thumbnails, of 255."""
MOST_OF_CONTRAST = 0.18
"""The same, of the thumbnails' standard deviation: in a pale picture little tells much."""
NOISE = 2.0
"""What a JPEG may change in the palest thumbnail."""
MOST_ASPECT = 2
"""Difference of height : width, in steps of its logarithm."""
LEAST_ODD = 6.0
"""An object is odd if its thumbnail differs so much, on average, from its mirror image; a disc is not."""
LEAST_VARIETY, MOST_COLOUR = 16, 12
"""Of an odd object of so many colours, the difference of its colour in any channel. Its thumbnail tells the rest."""
MOST_COLOUR_IN_PLACE, MOST_COLOUR_ZOOMED, MOST_COLOUR_MOVED = 3, 2, 1
"""Of an object of one colour, which has little else to tell it from another: at the same place of the frame, in the
same size and proportions (one more for an odd one); where a zoom about the frame's middle (a crop, a margin) puts it,
or an odd one anywhere; any anywhere."""
MOST_PLACE = 1.1
"""Difference in place, in 255ths of the frame, of what has not moved."""
MOST_SURROUNDINGS = 22
"""Difference in the surroundings' third most different cell."""
MOST_BLANK = 4
"""Difference anywhere in the thumbnails of two pictures that show nothing."""


def perceptual_hash(rgb: Pixels) -> NDArray[np.uint8]:
    """HASH_BYTES of a picture (H×W×3)."""
    subject = find_subject(rgb)
    hashed = np.zeros(HASH_BYTES, dtype=np.uint8)
    hashed[KIND] = BLANK if subject.blank else FILLS_FRAME if subject.background is None else OBJECT
    (height, width), (down, across) = rgb.shape[:2], subject.spread
    hashed[ASPECT] = np.clip(128 + round(STEPS * float(np.log(down / across))), 0, 255)
    hashed[SIZE] = np.clip(255 + round(STEPS / 2 * float(np.log(12 * down * across / (height * width)))), 0, 255)
    hashed[PLACE] = np.clip(np.round(255 * np.divide(subject.centre, (height, width))), 0, 255)
    hashed[COLOUR], hashed[VARIETY] = subject.colour.round(), subject.variety
    hashed[THUMBNAIL] = _thumbnail(rgb, subject).ravel()
    if subject.contrast is not None:
        hashed[SURROUNDINGS] = _surroundings(subject.contrast, subject).ravel()
    return hashed


def hash_pictures(pictures: Iterable[bytes]) -> NDArray[np.uint8]:
    """B×HASH_BYTES of encoded pictures. Raises Undecodable."""
    hashes = [perceptual_hash(decode(picture).rgb) for picture in pictures]
    return np.array(hashes, dtype=np.uint8).reshape(-1, HASH_BYTES)


def mirrored(hashes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The hashes (B×HASH_BYTES) of the same pictures with left and right exchanged."""
    turned = hashes.copy()
    turned[:, PLACE.stop - 1] = 255 - hashes[:, PLACE.stop - 1]
    for part, channels in ((THUMBNAIL, 3), (SURROUNDINGS, 1)):
        cells = hashes[:, part].reshape(-1, SIDE, SIDE, channels)
        turned[:, part] = cells[:, :, ::-1].reshape(len(hashes), -1)
    return turned


def alike(one: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which of the others (B×HASH_BYTES) are near-identical to one hash (HASH_BYTES)."""
    same = np.zeros(len(others), dtype=np.bool_)
    rows = _possible(one, others)
    difference = _difference(others[rows, THUMBNAIL], one[THUMBNAIL])
    if one[KIND] == BLANK:
        same[rows] = difference.max(axis=1) <= MOST_BLANK
        return same
    allowed = MOST_OF_CONTRAST * np.minimum(_contrast(others[rows]), _contrast(one[None]))
    rows = rows[difference.mean(axis=1) <= np.clip(allowed, NOISE, MOST_DIFFERENCE)]
    around = np.partition(_difference(others[rows, SURROUNDINGS], one[SURROUNDINGS]), -3, axis=1)[:, -3]
    both_objects = (others[rows, KIND] == OBJECT) & (one[KIND] == OBJECT)
    same[rows[~both_objects | (around <= MOST_SURROUNDINGS)]] = True
    return same


def _possible(one: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Those whose proportions and colours leave it open."""
    blank = (others[:, KIND] == BLANK) == (one[KIND] == BLANK)
    aspect = _difference(others[:, ASPECT], one[ASPECT])
    rows = np.flatnonzero(blank & (aspect <= MOST_ASPECT))
    if one[KIND] != OBJECT:
        return rows
    found = others[rows]
    colour = _difference(found[:, COLOUR], one[COLOUR]).max(axis=1)
    sizes = found[:, SIZE].astype(np.float64) - one[SIZE]
    off = found[:, PLACE] - 127.5 - np.exp(sizes / STEPS)[:, None] * (one[PLACE] - 127.5)
    zoomed = np.abs(off).max(axis=1) <= MOST_PLACE
    in_place = zoomed & (sizes == 0) & (aspect[rows] == 0)
    odd = _difference(one[THUMBNAIL], mirrored(one[None])[0, THUMBNAIL]).mean() >= LEAST_ODD
    most = np.where(zoomed | odd, MOST_COLOUR_ZOOMED, MOST_COLOUR_MOVED)
    most[in_place] = MOST_COLOUR_IN_PLACE + int(odd)
    most[odd & (np.minimum(found[:, VARIETY], one[VARIETY]) >= LEAST_VARIETY)] = MOST_COLOUR
    possible: NDArray[np.int64] = rows[(found[:, KIND] != OBJECT) | (colour <= most)]
    return possible


def _difference(some: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.maximum(some, other) - np.minimum(some, other)


def _contrast(hashes: NDArray[np.uint8]) -> Floats:
    """How much each of B pictures has to tell: what varies within the thumbnail, or stands out from the background."""
    cells = hashes[:, THUMBNAIL].reshape(len(hashes), SIDE * SIDE, 3).astype(np.float32)
    within = np.sqrt(cells.var(axis=1).mean(axis=1))
    contrast: Floats = np.maximum(within, hashes[:, SURROUNDINGS].max(axis=1))
    return contrast


def _thumbnail(rgb: Pixels, subject: Subject) -> Pixels:
    """SIDE×SIDE×3 of the subject's extent; beyond the frame lies more of the background."""
    height, width = rgb.shape[:2]
    top, left = (middle - HALF * spread for middle, spread in zip(subject.centre, subject.spread, strict=True))
    bottom, right = (middle + HALF * spread for middle, spread in zip(subject.centre, subject.spread, strict=True))
    more = [max(0, int(np.ceil(beyond - 1e-6))) for beyond in (-left, -top, right - width, bottom - height)]
    picture = Image.fromarray(rgb)
    if any(more):
        behind = subject.background if subject.background is not None else np.zeros(3, np.uint8)
        colour = behind if behind.ndim == 1 else np.median(behind[::16, ::16].reshape(-1, 3), axis=0)
        canvas = Image.new("RGB", (width + more[0] + more[2], height + more[1] + more[3]), tuple(map(int, colour)))
        canvas.paste(picture, (more[0], more[1]))
        picture = canvas
    box = (max(0.0, left + more[0]), max(0.0, top + more[1]), right + more[0], bottom + more[1])
    within = (box[0], box[1], min(float(picture.width), box[2]), min(float(picture.height), box[3]))
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=within))


def _surroundings(contrast: Pixels, subject: Subject) -> Pixels:
    """SIDE×SIDE mean contrasts, FAR spreads about the middle; beyond the frame nothing stands out."""
    down, across = (
        _overlaps(middle, FAR * spread, side)
        for middle, spread, side in zip(subject.centre, subject.spread, contrast.shape, strict=True)
    )
    means: Floats = down @ contrast.astype(np.float32) @ across.T
    return means.round().astype(np.uint8)


def _overlaps(middle: float, half: float, side: int) -> Floats:
    """SIDE×side: the share of each cell, from middle - half to middle + half, that each pixel covers."""
    edges = middle - half + 2 * half * np.arange(SIDE + 1) / SIDE
    pixels = np.arange(side)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (covered.clip(0) * SIDE / (2 * half)).astype(np.float32)
