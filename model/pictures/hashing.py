"""Which pictures show the same thing, so that a split keeps them on one side. Knows pixels and names only.

Two pictures are near-identical when both the drawing and the colours agree: the drawing by a 64-bit hash of the
32 × 32 grey picture's lowest frequencies (pHash), the colours by an 8 × 8 thumbnail. Each alone is not enough:
the hash sees no colour (a shop's red and blue shirt), the thumbnail no detail (two dark figures on white).
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.pictures.decode import decode
from model.split import position

MOST_BITS = 6
"""Of 64. Measured (docs/judging.md): copies that are re-encoded or halved differ by 4 bits at most, crops of 1% at
each edge in 99 of 100 by 6; different products whose colours agree, by 8 and more."""
MOST_COLOUR = 8.0
"""Mean absolute difference of the thumbnails, of 255."""

GREY_SIDE = 32
FREQUENCIES = 8
THUMBNAIL_SIDE = 8
BITS_BYTES = FREQUENCIES * FREQUENCIES // 8
HASH_BYTES = BITS_BYTES + 3 * THUMBNAIL_SIDE * THUMBNAIL_SIDE

_FLAT = 2.0
"""Frequencies weaker than this are a JPEG's noise; as bits they would tell a flat picture from its own copy."""


def perceptual_hash(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """HASH_BYTES of a picture (H×W×3): the hash's 8 bytes, then the thumbnail's 192."""
    picture = Image.fromarray(rgb)
    # BOX averages every pixel once: scaling a picture down first changes little.
    small = picture.convert("L").resize((GREY_SIDE, GREY_SIDE), Image.Resampling.BOX)
    waves = _cosines()
    strengths = (waves @ np.asarray(small, dtype=np.float64) @ waves.T).ravel()
    strengths[np.abs(strengths) < _FLAT] = 0
    bits = strengths > np.median(strengths[1:])
    bits[0] = False  # the mean brightness, which the thumbnail knows better
    thumbnail = picture.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
    return np.concatenate([np.packbits(bits), np.asarray(thumbnail, dtype=np.uint8).ravel()])


def hash_pictures(pictures: Iterable[bytes]) -> NDArray[np.uint8]:
    """B×HASH_BYTES of encoded pictures. Raises Undecodable."""
    hashes = [perceptual_hash(decode(picture, short_side=2 * GREY_SIDE).rgb) for picture in pictures]
    return np.array(hashes, dtype=np.uint8).reshape(-1, HASH_BYTES)


def join_groups(
    groups: Sequence[str],
    sha256s: Sequence[str],
    hashes: NDArray[np.uint8],
    *,
    max_distance: int = MOST_BITS,
    seed: int = 0,
) -> NDArray[np.str_]:
    """Groups in which pictures of one group, of one sha256 or near-identical ones are together.

    A joined group bears the name of that member which `split` with this seed would hold out first: a held-out
    product that a new picture joins to another one stays held out.

    Raises:
        ValueError: lengths differ.
    """
    if not len(groups) == len(sha256s) == len(hashes):
        raise ValueError(
            f"expected one sha256 and one hash a group ({len(groups)}), found {len(sha256s)} and {len(hashes)}"
        )
    parents = list(range(len(groups)))
    # Equal hashes first: a shop's thousand placeholder pictures are one, not half a million pairs.
    distinct, first, which = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    for names in (groups, sha256s, which.ravel().tolist()):
        seen: dict[object, int] = {}
        for i, name in enumerate(names):
            _unite(parents, seen.setdefault(name, i), i)
    for i, near in enumerate(_later_neighbours(distinct, max_distance)):
        for j in near:
            _unite(parents, int(first[i]), int(first[j]))
    names_of: dict[int, set[str]] = {}
    for i, name in enumerate(groups):
        names_of.setdefault(_root(parents, i), set()).add(name)
    chosen = {root: min(names, key=lambda name: (position(name, seed), name)) for root, names in names_of.items()}
    return np.array([chosen[_root(parents, i)] for i in range(len(groups))], dtype=np.str_)


def _later_neighbours(hashes: NDArray[np.uint8], max_distance: int) -> Iterable[list[int]]:
    """For each picture the near-identical ones after it. One row at a time: memory grows with B, not with B²."""
    bits = np.ascontiguousarray(hashes[:, :BITS_BYTES]).view(np.uint64).ravel()
    colours = hashes[:, BITS_BYTES:].astype(np.int16)
    for i in range(len(bits)):
        near = i + 1 + np.flatnonzero(np.bitwise_count(bits[i + 1 :] ^ bits[i]) <= max_distance)
        alike = np.abs(colours[near] - colours[i]).mean(axis=1) <= MOST_COLOUR
        yield near[alike].tolist()


def _unite(parents: list[int], one: int, other: int) -> None:
    parents[_root(parents, other)] = _root(parents, one)


def _root(parents: list[int], i: int) -> int:
    while parents[i] != i:
        parents[i] = i = parents[parents[i]]
    return i


def _cosines() -> NDArray[np.float64]:
    """FREQUENCIES×GREY_SIDE: the first rows of the orthonormal discrete cosine transform."""
    k, x = np.arange(FREQUENCIES)[:, None], np.arange(GREY_SIDE)[None]
    waves = np.cos(np.pi * (2 * x + 1) * k / (2 * GREY_SIDE)) * np.sqrt(2 / GREY_SIDE)
    waves[0] /= np.sqrt(2)
    return np.asarray(waves, dtype=np.float64)
