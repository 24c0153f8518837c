"""Copies of a picture join, different products don't, however alike their outlines."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from model.pictures.decode import decode, encode_jpeg
from model.pictures.hashing import (
    BITS_BYTES,
    HASH_BYTES,
    MOST_BITS,
    MOST_COLOUR,
    hash_pictures,
    join_groups,
    perceptual_hash,
)
from model.split import position

Pixels = NDArray[np.uint8]


def joined(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> bool:
    return len(set(join_groups(["a", "b"], ["1", "2"], np.stack([first, second])))) == 1


def near(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """The same question, slowly."""
    bits = sum(int(a ^ b).bit_count() for a, b in zip(one[:BITS_BYTES], other[:BITS_BYTES], strict=True))
    colour = np.mean([abs(int(a) - int(b)) for a, b in zip(one[BITS_BYTES:], other[BITS_BYTES:], strict=True)])
    return bits <= MOST_BITS and bool(colour <= MOST_COLOUR)


def resized(rgb: Pixels, factor: float) -> Pixels:
    height, width = rgb.shape[:2]
    size = (round(width * factor), round(height * factor))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))


def cropped(rgb: Pixels, share: float) -> Pixels:
    """Less `share` of the picture at each edge."""
    top, left = round(len(rgb) * share), round(rgb.shape[1] * share)
    return rgb[top : len(rgb) - top, left : rgb.shape[1] - left]


COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "re-encoded": lambda rgb: decode(encode_jpeg(rgb, 40)).rgb,
    "halved": lambda rgb: resized(rgb, 0.5),
    "cropped": lambda rgb: cropped(rgb, 0.01),
    "cropped, resized and re-encoded": lambda rgb: decode(encode_jpeg(resized(cropped(rgb, 0.01), 0.7), 60)).rgb,
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_of_photographs_join(grocery: Path, copy: str) -> None:
    paths = sorted((grocery / "images").rglob("*.jpg"))[::12]
    pictures = [decode(path.read_bytes(), short_side=256).rgb for path in paths]
    apart = [
        path.name
        for path, rgb in zip(paths, pictures, strict=True)
        if not joined(perceptual_hash(rgb), perceptual_hash(COPIES[copy](rgb)))
    ]
    # A crop moves every edge: one photograph in a hundred is allowed to look new. The others may not.
    assert len(apart) <= (1 if "cropped" in copy else 0)


def test_photographs_of_different_products_never_join(grocery: Path) -> None:
    rows = list(csv.DictReader((grocery / "products.csv").read_text().splitlines()))
    products = np.array([row["product_id"] for row in rows])
    hashes = hash_pictures((grocery / "images" / row["image_key"]).read_bytes() for row in rows)
    numbers = [str(n) for n in range(len(rows))]
    groups = join_groups(numbers, numbers, hashes)
    sizes = {group: np.count_nonzero(groups == group) for group in set(groups)}
    for group in (group for group, size in sizes.items() if size > 1):
        assert len(set(products[groups == group])) == 1
    assert len(sizes) > 0.95 * len(rows)  # other photographs of one product are mostly no copies


def test_silhouettes_alike_in_outline_do_not_join(bass: Path) -> None:
    paths = sorted((bass / "images").glob("*.png"))
    names = [path.stem for path in paths]
    groups = join_groups(names, names, hash_pictures(path.read_bytes() for path in paths))
    together = {name for name in names if np.count_nonzero(groups == groups[names.index(name)]) > 1}
    assert together == {"badminton", "tennis2"}  # the same player, the same racket


def test_the_same_drawing_in_another_colour_is_another_product() -> None:
    shirt = np.full((100, 100, 3), 255, dtype=np.uint8)
    shirt[20:90, 25:75] = (200, 40, 40)
    blue = np.where(shirt == 255, shirt, shirt[:, :, ::-1])
    assert not joined(perceptual_hash(shirt), perceptual_hash(blue))


def test_flat_pictures_join_by_their_colour_only() -> None:
    def noisy(colour: int) -> NDArray[np.uint8]:
        flat = np.full((80, 80, 3), colour, dtype=np.uint8)
        noise = np.random.default_rng(colour).integers(-1, 2, flat.shape)
        return perceptual_hash(decode(encode_jpeg((flat + noise).astype(np.uint8), 70)).rgb)

    assert joined(noisy(200), noisy(201))
    assert not joined(noisy(200), noisy(120))


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 500, 3), (31, 33, 3)])
def test_a_picture_of_any_size_has_a_hash(shape: tuple[int, ...]) -> None:
    assert perceptual_hash(np.zeros(shape, dtype=np.uint8)).shape == (HASH_BYTES,)
    assert hash_pictures([]).shape == (0, HASH_BYTES)


# Groups ---------------------------------------------------------------------------------------------------


@st.composite
def pictures(draw: st.DrawFn) -> tuple[list[str], list[str], NDArray[np.uint8]]:
    count = draw(st.integers(1, 25))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    originals = rng.integers(0, 256, (6, HASH_BYTES), dtype=np.uint8)
    hashes = originals[rng.integers(0, 6, count)]
    for i in range(count):  # a few bits away, so that some are near and chains of near ones form
        for bit in rng.integers(0, 64, draw(st.integers(0, 10))):
            hashes[i, bit // 8] ^= np.uint8(1 << (bit % 8))
    names = [f"p{n}" for n in rng.integers(0, max(2, count), count)]
    return names, [f"sha{n}" for n in rng.integers(0, 3 * count, count)], hashes


@settings(max_examples=80)
@given(pictures=pictures())
def test_groups_are_the_connected_pictures(pictures: tuple[list[str], list[str], NDArray[np.uint8]]) -> None:
    names, sha256s, hashes = pictures
    count = len(names)
    reached = np.array(
        [
            [names[i] == names[j] or sha256s[i] == sha256s[j] or near(hashes[i], hashes[j]) for j in range(count)]
            for i in range(count)
        ]
    )
    for k in range(count):  # Warshall's closure
        reached |= reached[:, [k]] & reached[[k]]
    groups = join_groups(names, sha256s, hashes, seed=4)
    np.testing.assert_array_equal(groups[:, None] == groups[None], reached)
    for i in range(count):
        members = [names[j] for j in np.flatnonzero(reached[i])]
        assert groups[i] == min(members, key=lambda name: position(name, 4))


def test_nothing_in_common_changes_no_group() -> None:
    hashes = np.random.default_rng(0).integers(0, 256, (4, HASH_BYTES), dtype=np.uint8)
    assert join_groups(list("abca"), list("1234"), hashes).tolist() == list("abca")
    assert join_groups([], [], hash_pictures([])).tolist() == []


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one sha256 and one hash a group \\(2\\), found 1 and 2"):
        join_groups(["a", "b"], ["1"], np.zeros((2, HASH_BYTES), dtype=np.uint8))
