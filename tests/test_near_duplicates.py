"""Copies of a picture join, different products don't, however alike their outlines or white their backgrounds."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks._white_shop import draw_products
from model.pictures.decode import decode, encode_jpeg
from model.pictures.grouping import first_alike, join_groups
from model.pictures.hashing import HASH_BYTES, THUMBNAIL, alike, hash_pictures, mirrored, perceptual_hash
from model.split import position

Pixels = NDArray[np.uint8]


def same(one: Pixels, other: Pixels) -> bool:
    hashes = np.stack([perceptual_hash(one), perceptual_hash(other)])
    return len(set(join_groups(["a", "b"], ["1", "2"], hashes))) == 1


def resized(rgb: Pixels, factor: float) -> Pixels:
    height, width = rgb.shape[:2]
    size = (round(width * factor), round(height * factor))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))


def cropped(rgb: Pixels, share: float) -> Pixels:
    """Less `share` of the picture at each edge."""
    top, left = round(len(rgb) * share), round(rgb.shape[1] * share)
    return rgb[top : len(rgb) - top, left : rgb.shape[1] - left]


def in_margin(rgb: Pixels, share: float = 0.15) -> Pixels:
    """White around it, `share` of its sides wide."""
    down, across = round(len(rgb) * share), round(rgb.shape[1] * share)
    return np.pad(rgb, ((down, down), (across, across), (0, 0)), constant_values=255)


def marked(rgb: Pixels) -> Pixels:
    """Pale writing in a corner."""
    picture = Image.fromarray(rgb).convert("RGBA")
    layer = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    ImageDraw.Draw(layer).text((picture.width - 60, picture.height - 14), "shop.example", fill=(128, 128, 128, 90))
    return np.asarray(Image.alpha_composite(picture, layer).convert("RGB"))


COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "re-encoded": lambda rgb: decode(encode_jpeg(rgb, 40)).rgb,
    "halved": lambda rgb: resized(rgb, 0.5),
    "cropped": lambda rgb: cropped(rgb, 0.01),
    "cropped, resized and re-encoded": lambda rgb: decode(encode_jpeg(resized(cropped(rgb, 0.01), 0.7), 60)).rgb,
    "in a margin": in_margin,
    "watermarked": marked,
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_of_photographs_join(grocery: Path, copy: str) -> None:
    paths = sorted((grocery / "images").rglob("*.jpg"))[::30]
    pictures = [decode(path.read_bytes(), short_side=256).rgb for path in paths]
    apart = [path.name for path, rgb in zip(paths, pictures, strict=True) if not same(rgb, COPIES[copy](rgb))]
    # A crop moves every edge, and a margin makes the picture smaller: a few may look new. The others may not.
    assert len(apart) <= {"cropped": 1, "cropped, resized and re-encoded": 1, "in a margin": 4}.get(copy, 0)


def test_photographs_of_different_products_never_join(grocery: Path) -> None:
    rows = list(csv.DictReader((grocery / "products.csv").read_text().splitlines()))
    products = np.array([row["product_id"] for row in rows])
    jpegs = ((grocery / "images" / row["image_key"]).read_bytes() for row in rows)
    hashes = np.stack([perceptual_hash(decode(jpeg, short_side=128).rgb) for jpeg in jpegs])
    firsts = first_alike(hashes)
    assert (products[firsts] == products).all()
    assert len(set(firsts)) > 0.99 * len(rows)  # other photographs of one product are mostly no copies


def on_white(rgb: Pixels, share: float, side: int = 256) -> Pixels:
    """In the middle of a white frame, its longer side that share of the frame's."""
    picture = Image.fromarray(rgb)
    factor = share * side / max(picture.size)
    small = picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.LANCZOS)
    frame = Image.new("RGB", (side, side), "white")
    frame.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    return decode(encode_jpeg(np.asarray(frame))).rgb


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4, 0.7, 1])
def test_silhouettes_alike_in_outline_do_not_join(bass: Path, share: float) -> None:
    paths = sorted((bass / "images").glob("*.png"))[:: 2 if share == 0.2 else 4]
    pictures = [decode(path.read_bytes()).rgb for path in paths]
    hashes = np.stack([perceptual_hash(on_white(rgb, share) if share < 1 else rgb) for rgb in pictures])
    together = {paths[row].stem for row in np.flatnonzero(first_alike(hashes) != np.arange(len(paths)))}
    assert together <= {"vomit", "worker2"}  # the figures of `ache` and `gardener2`, with a puddle, another tool


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_copies_of_silhouettes_on_white_join(bass: Path, share: float, copy: str) -> None:
    paths = sorted((bass / "images").glob("*.png"))[::15]
    pictures = [on_white(decode(path.read_bytes()).rgb, share) for path in paths]
    found = np.mean([same(rgb, COPIES[copy](rgb)) for rgb in pictures])
    assert found >= 0.75  # thin limbs pale as they shrink


# A shop of drawn objects: who is a copy of whom is known ----------------------------------------------------


def white_shop(count: int) -> list[Pixels]:
    return [decode(encode_jpeg(resized(np.asarray(picture), 0.64))).rgb for _, picture in draw_products(count)]


def test_objects_on_white_are_as_many_groups_and_their_copies_are_found() -> None:
    shop = white_shop(160)
    hashes = np.stack([perceptual_hash(rgb) for rgb in shop])
    assert first_alike(hashes).tolist() == list(range(160))
    ways = [
        lambda rgb: decode(encode_jpeg(rgb, 60)).rgb,
        lambda rgb: resized(rgb, 0.7),
        lambda rgb: cropped(rgb, 0.03),
        in_margin,
        marked,
    ]
    copies = [decode(encode_jpeg(ways[row % len(ways)](rgb), 85)).rgb for row, rgb in enumerate(shop)]
    firsts = first_alike(np.concatenate([hashes, np.stack([perceptual_hash(rgb) for rgb in copies])]))
    assert np.mean(firsts[160:] == np.arange(160)) >= 0.95
    assert set(firsts[160:].tolist()) <= {*range(160), *(160 + np.flatnonzero(firsts[160:] >= 160)).tolist()}
    assert (np.flatnonzero(firsts[160:] < 160) == firsts[160:][firsts[160:] < 160]).all()  # nobody else's


def mug(body: tuple[int, int, int], background: tuple[int, int, int] = (255, 255, 255), scale: float = 1) -> Pixels:
    frame = Image.new("RGB", (200, 200), background)
    pen = ImageDraw.Draw(frame)
    half = 40 * scale
    pen.rounded_rectangle((95 - half, 100 - half, 95 + half, 100 + half), radius=6, fill=body)
    pen.arc((85 + half, 100 - half / 2, 115 + half, 100 + half / 2), -90, 90, fill=body, width=8)
    return np.asarray(frame)


@pytest.mark.parametrize("background", [(255, 255, 255), (128, 128, 128), (0, 0, 0), (250, 240, 215), (60, 90, 160)])
def test_the_same_object_in_another_colour_is_another_product_before_any_background(
    background: tuple[int, int, int],
) -> None:
    red, blue, wine = mug((200, 40, 40), background), mug((40, 40, 200), background), mug((180, 40, 40), background)
    assert not same(red, blue)
    assert not same(red, wine)
    for copy in ("re-encoded", "halved", "cropped", "watermarked"):
        assert same(red, COPIES[copy](red)), copy
    assert same(red, cropped(red, 0.15))


def test_a_background_may_change_evenly_from_side_to_side() -> None:
    slope = np.linspace(170, 250, 200)[None, :, None].repeat(200, 0).repeat(3, 2).astype(np.uint8)
    one, other = (np.where(mug(colour) < 255, mug(colour), slope) for colour in ((200, 40, 40), (40, 40, 160)))
    assert not same(one, other)
    assert same(one, COPIES["re-encoded"](one))
    tree, disc = slope.copy(), slope.copy()
    tree[60:160, 95:105], tree[60:90, 70:130] = 30, 30
    disc[70:140, 70:140] = 30
    assert not same(tree, disc)


def test_an_object_may_touch_a_side_and_be_thin_or_tiny() -> None:
    shelf = np.full((200, 200, 3), 255, np.uint8)
    lamp, pen, dot = shelf.copy(), shelf.copy(), shelf.copy()
    lamp[90:, 95:105], lamp[60:90, 70:130] = (90, 60, 30), (200, 180, 90)
    pen[98:101, 30:170], pen[97:102, 30:50] = (20, 30, 120), (10, 10, 40)
    dot[100:108, 100:110], dot[96:100, 104:107] = (160, 30, 90), (30, 120, 40)
    for one in (lamp, pen, dot):
        assert [same(one, other) for other in (lamp, pen, dot)] == [one is other for other in (lamp, pen, dot)]
        for copy in (decode(encode_jpeg(one, 80)).rgb, in_margin(one)):
            assert same(one, copy)


def test_what_lies_far_from_the_middle_tells_two_pictures_apart() -> None:
    rake, pick = np.full((2, 200, 200, 3), 255, np.uint8)
    for tool in (rake, pick):
        tool[60:190, 40:80] = 0  # a figure
        tool[100:106, 80:170] = 0  # and a handle
    rake[70:136, 160:170] = 0
    pick[130:140, 120:180] = 0
    assert not same(rake, pick)
    assert same(rake, COPIES["re-encoded"](rake))


def test_pictures_of_nothing_join_by_their_colour_only() -> None:
    def noisy(colour: int, side: int = 80) -> Pixels:
        flat = np.full((side, side, 3), colour, dtype=np.uint8)
        noise = np.random.default_rng(colour).integers(-1, 2, flat.shape)
        return decode(encode_jpeg((flat + noise).astype(np.uint8), 70)).rgb

    assert same(noisy(200), noisy(201))
    assert same(noisy(200), noisy(200, 120))
    assert not same(noisy(200), noisy(206))
    faint = np.full((2, 80, 80, 3), 250, dtype=np.uint8)
    faint[0, 30:50, 20:60] = 244
    faint[1, 10:70, 35:45] = 244
    assert not same(faint[0], faint[1])
    assert not same(faint[0], noisy(250))


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 500, 3), (31, 33, 3), (16, 64, 3), (400, 100, 3)])
def test_a_picture_of_any_size_has_a_hash(shape: tuple[int, ...]) -> None:
    drawn = np.zeros(shape, dtype=np.uint8)
    assert perceptual_hash(drawn).shape == (HASH_BYTES,)
    drawn[shape[0] // 3 : shape[0] // 2 + 1, shape[1] // 3 : shape[1] // 2 + 1] = 200
    assert perceptual_hash(drawn).shape == (HASH_BYTES,)
    assert hash_pictures([]).shape == (0, HASH_BYTES)


def test_small_and_grey_pictures_are_known_again() -> None:
    rng = np.random.default_rng(2)
    small = [np.asarray(Image.fromarray(rng.integers(0, 256, (4, 4), dtype=np.uint8)).resize((24, 24))) for _ in "12"]
    one, other = (np.stack([grey] * 3, axis=2) for grey in small)
    assert same(one, decode(encode_jpeg(one, 80)).rgb)
    assert not same(one, other)


def test_a_mirror_image_is_another_picture_unless_asked_for() -> None:
    picture = mug((200, 40, 40))
    hashes = np.stack([perceptual_hash(picture), perceptual_hash(np.ascontiguousarray(picture[:, ::-1]))])
    assert first_alike(hashes).tolist() == [0, 1]
    assert first_alike(hashes, mirrors=True).tolist() == [0, 0]
    assert alike(mirrored(hashes[:1])[0], hashes).tolist() == [False, True]


# Groups ---------------------------------------------------------------------------------------------------


@st.composite
def pictures(draw: st.DrawFn) -> tuple[list[str], list[str], NDArray[np.uint8]]:
    count = draw(st.integers(1, 25))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    originals = np.zeros((4, HASH_BYTES), dtype=np.uint8)
    originals[:, THUMBNAIL] = rng.integers(0, 200, (4, 3)).repeat(256, axis=0).reshape(4, -1)
    originals[:, THUMBNAIL] += rng.integers(0, 50, originals[:, THUMBNAIL].shape, dtype=np.uint8)
    hashes = originals[rng.integers(0, 4, count)]
    # Steps of brightness, so that some are alike and chains of such steps form.
    hashes[:, THUMBNAIL] += rng.integers(0, 7, (count, 1), dtype=np.uint8)
    names = [f"p{n}" for n in rng.integers(0, max(2, count), count)]
    return names, [f"sha{n}" for n in rng.integers(0, 3 * count, count)], hashes


def slowly(hashes: NDArray[np.uint8]) -> list[int]:
    """Each picture in turn is compared with all firsts before it."""
    firsts: list[int] = []
    for row, one in enumerate(hashes):
        near = [first for first in sorted(set(firsts)) if alike(hashes[first], one[None])[0]]
        firsts.append(near[0] if near else row)
    return firsts


@settings(max_examples=80)
@given(pictures=pictures())
def test_a_group_is_what_resembles_its_first_picture(pictures: tuple[list[str], list[str], NDArray[np.uint8]]) -> None:
    assert first_alike(pictures[2]).tolist() == slowly(pictures[2])


@settings(max_examples=80)
@given(pictures=pictures())
def test_products_contents_and_look_alikes_are_together(
    pictures: tuple[list[str], list[str], NDArray[np.uint8]],
) -> None:
    names, sha256s, hashes = pictures
    firsts, count = slowly(hashes), len(names)
    reached = np.array(
        [
            [names[i] == names[j] or sha256s[i] == sha256s[j] or firsts[i] == firsts[j] for j in range(count)]
            for i in range(count)
        ]
    )
    for k in range(count):  # Warshall's closure
        reached |= reached[:, [k]] & reached[[k]]
    groups = join_groups(names, sha256s, hashes, seed=4)
    np.testing.assert_array_equal(groups[:, None] == groups[None], reached)
    for i in range(count):
        members = [names[j] for j in np.flatnonzero(reached[i])]
        assert groups[i] == min(members, key=lambda name: (position(name, 4), name))


def test_nothing_in_common_changes_no_group() -> None:
    hashes = np.random.default_rng(0).integers(0, 256, (4, HASH_BYTES), dtype=np.uint8)
    assert join_groups(list("abca"), list("1234"), hashes).tolist() == list("abca")
    assert join_groups([], [], hash_pictures([])).tolist() == []


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one sha256 and one hash a group \\(2\\), found 1 and 2"):
        join_groups(["a", "b"], ["1"], np.zeros((2, HASH_BYTES), dtype=np.uint8))
