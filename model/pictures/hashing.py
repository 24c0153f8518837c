"""Which pictures show the same thing, so that a split keeps them on one side. Knows pixels and names only.

Two pictures are near-identical when both the drawing and the colours agree: the drawing by a 64-bit hash of the
32 × 32 grey picture's lowest frequencies (pHash), the colours by an 8 × 8 thumbnail. Each alone is not enough:
the hash sees no colour (a shop's red and blue shirt), the thumbnail no detail (two dark figures on white).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.pictures.decode import decode
from model.split import position

MOST_BITS = 6
"""How many of the hash's 64 bits near-identical pictures may differ in. Measured (docs/judging.md): copies that are
re-encoded or halved differ by 4 bits at most, crops of 1% at each edge in 99 of 100 by 6; different products whose
colours agree, by 8 and more."""
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
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # Equal hashes first: a shop's thousand placeholder pictures are one, not half a million pairs.
    distinct, first, which = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    edges = [first[pair] for pair in _near_pairs(distinct, max_distance)]
    for names in (np.array(groups), np.array(sha256s), which.ravel()):
        _, first, which = np.unique(names, return_index=True, return_inverse=True)
        edges.append(np.stack([np.arange(len(names)), first[which]]))  # each picture, and the first of its name
    ones, others = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(len(ones), bool), (ones, others)), shape=(len(groups), len(groups)))
    _, component = connected_components(graph, directed=False)
    names_of: dict[int, set[str]] = {}
    for number, name in zip(component.tolist(), groups, strict=True):
        names_of.setdefault(number, set()).add(name)
    chosen = {number: min(names, key=lambda name: (position(name, seed), name)) for number, names in names_of.items()}
    return np.array([chosen[number] for number in component.tolist()], dtype=np.str_)


def _near_pairs(hashes: NDArray[np.uint8], max_distance: int) -> Iterator[NDArray[np.int64]]:
    """2×n pairs of near-identical pictures. One row at a time: memory grows with B, not with B²."""
    bits = np.ascontiguousarray(hashes[:, :BITS_BYTES]).view(np.uint64).ravel()
    colours = hashes[:, BITS_BYTES:].astype(np.int16)
    for i in range(len(bits)):
        near = i + 1 + np.flatnonzero(np.bitwise_count(bits[i + 1 :] ^ bits[i]) <= max_distance)
        alike = near[np.abs(colours[near] - colours[i]).mean(axis=1) <= MOST_COLOUR]
        if len(alike):
            yield np.stack([np.full(len(alike), i), alike])


def _cosines() -> NDArray[np.float64]:
    """FREQUENCIES×GREY_SIDE: the first rows of the orthonormal discrete cosine transform."""
    k, x = np.arange(FREQUENCIES)[:, None], np.arange(GREY_SIDE)[None]
    waves = np.cos(np.pi * (2 * x + 1) * k / (2 * GREY_SIDE)) * np.sqrt(2 / GREY_SIDE)
    waves[0] /= np.sqrt(2)
    return np.asarray(waves, dtype=np.float64)
