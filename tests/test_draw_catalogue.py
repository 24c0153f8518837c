from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vitrine.demo.draw_catalogue import DrawnPicture, draw_catalogue, encode_jpeg, make_broken_files, write_labels
from vitrine.demo.drawing.kinds import KINDS
from vitrine.demo.drawing.products import list_products
from vitrine.demo.drawing.view import CUES, draw_product, draw_strength, draw_view


def _digests(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _histogram(path: Path) -> NDArray[np.float64]:
    pixels = np.asarray(Image.open(path).convert("HSV")).reshape(-1, 3) // 32
    counts = np.bincount(pixels @ [64, 8, 1], minlength=512).astype(np.float64)
    return counts / len(pixels)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[DrawnPicture]]:
    directory = tmp_path_factory.mktemp("pictures")
    return directory, draw_catalogue(directory, products=32, views=3, size=96)


def test_same_arguments_give_the_same_bytes_and_another_seed_gives_others(tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("again", 5), ("other", 6)):
        draw_catalogue(tmp_path / name, products=6, views=2, size=64, seed=seed)
    one = _digests(tmp_path / "one")
    assert one == _digests(tmp_path / "again")
    other = _digests(tmp_path / "other")
    assert all(one[key] != other[key] for key in one.keys() & other.keys() if not key.startswith("incoming/"))


def test_more_products_leave_the_earlier_ones_as_they_were(tmp_path: Path) -> None:
    few = draw_catalogue(tmp_path / "few", products=5, views=2, size=64)
    many = draw_catalogue(tmp_path / "many", products=9, views=2, size=64)
    assert many[: len(few)] == few
    assert _digests(tmp_path / "few").items() <= _digests(tmp_path / "many").items()


def test_every_listed_picture_is_a_jpeg_of_the_size_asked_for(
    catalogue: tuple[Path, list[DrawnPicture]],
) -> None:
    directory, pictures = catalogue
    assert len({picture.image_key for picture in pictures}) == 32 * 3
    for picture in pictures:
        assert picture.image_key.startswith(f"{picture.category}/{picture.product_id}/")
        with Image.open(directory / picture.image_key) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (96, 96))


def test_emotions_are_balanced_in_each_kind_and_shared_by_a_products_views() -> None:
    products = list_products(4 * len(KINDS), seed=3)
    assert len({product.product_id for product in products}) == len(products)
    for kind in KINDS:
        assert sorted(product.label for product in products if product.category == kind) == [0, 0, 1, 1]


def test_all_views_of_a_product_share_its_label(catalogue: tuple[Path, list[DrawnPicture]]) -> None:
    _, pictures = catalogue
    assert len({(picture.product_id, picture.label) for picture in pictures}) == 32


def test_views_of_a_product_resemble_each_other_more_than_other_products(
    catalogue: tuple[Path, list[DrawnPicture]],
) -> None:
    directory, pictures = catalogue
    histograms = np.stack([_histogram(directory / picture.image_key) for picture in pictures])
    overlap = np.minimum(histograms[:, None], histograms[None]).sum(axis=-1)
    owners = np.array([picture.product_id for picture in pictures])
    same = owners[:, None] == owners[None]
    others = overlap[~same].mean()
    assert overlap[same & ~np.eye(len(owners), dtype=bool)].mean() > 1.5 * others


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_stands_on_its_floor_inside_its_square(kind: str) -> None:
    products = list_products(2 * len(KINDS), seed=1)
    for product in (product for product in products if product.category == kind):
        left, top, right, bottom = draw_product(product, 100).colour.getbbox() or (0, 0, 0, 0)
        assert 0 < left < 50 < right < 100
        assert 0 < top < 60
        assert bottom == pytest.approx(90, abs=3)


@pytest.mark.parametrize("label", [0, 1])
def test_every_cue_changes_the_picture_it_is_meant_for(label: int, monkeypatch: pytest.MonkeyPatch) -> None:
    product = dataclasses.replace(list_products(1, seed=0)[0], label=label)
    sprite = draw_product(product, 64)
    cues = list(CUES[label])
    monkeypatch.setitem(CUES, label, [])
    monkeypatch.setattr("vitrine.demo.drawing.view._choose_cues", lambda label, strength, rng: CUES[label])
    neutral, _ = draw_view(product, sprite, 0, "whole", 1.0)
    for cue in cues:
        CUES[label][:] = [cue]
        weak, strong = (_change(draw_view(product, sprite, 0, "whole", strength)[0], neutral) for strength in (0.1, 1))
        assert 0 < weak < strong, cue.act


def _change(picture: Image.Image, other: Image.Image) -> float:
    """The mean absolute difference of two pictures' levels."""
    return float(np.abs(np.asarray(picture, np.float64) - np.asarray(other)).mean())


def test_a_picture_has_more_cues_the_stronger_its_emotion(monkeypatch: pytest.MonkeyPatch) -> None:
    product = list_products(1, seed=0)[0]
    sprite, acted = draw_product(product, 32), []
    counted = [dataclasses.replace(cue, act=lambda scene: acted.append(scene.strength)) for cue in CUES[product.label]]
    monkeypatch.setitem(CUES, product.label, counted)
    strengths = (0.01, 0.26, 0.51, 0.76, 1.0)
    for strength in strengths:
        draw_view(product, sprite, 0, "whole", strength)
    assert [acted.count(strength) for strength in strengths] == [2, 3, 4, 5, 5]


def test_every_strength_is_as_likely_for_both_emotions_and_differs_between_views(
    catalogue: tuple[Path, list[DrawnPicture]],
) -> None:
    _, pictures = catalogue
    assert len({picture.strength for picture in pictures}) == len(pictures)
    strengths = np.array([draw_strength(product, view) for product in list_products(500, seed=1) for view in range(4)])
    assert strengths.min() > 0
    assert strengths.max() <= 1
    labels = np.array([product.label for product in list_products(500, seed=1) for _ in range(4)])
    for label in (0, 1):
        quarters = np.histogram(strengths[labels == label], 4, (0, 1))[0]
        np.testing.assert_allclose(quarters / quarters.sum(), 0.25, atol=0.05)


def test_mean_brightness_alone_does_not_tell_the_emotion(catalogue: tuple[Path, list[DrawnPicture]]) -> None:
    directory, pictures = catalogue
    means = np.array([np.asarray(Image.open(directory / picture.image_key)).mean() for picture in pictures])
    labels = np.array([picture.label for picture in pictures])
    best = max(((means > cut) == labels).mean() for cut in means)
    assert best < 0.85


def test_a_region_picture_differs_between_the_emotions_only_inside_its_region() -> None:
    for product in list_products(6, seed=2):
        sprite, flipped = draw_product(product, 96), dataclasses.replace(product, label=1 - product.label)
        (one, box), (other, same_box) = (draw_view(each, sprite, 1, "region", 1.0) for each in (product, flipped))
        assert box is not None
        assert box == same_box
        left, top, right, bottom = box
        differs = np.any(_decoded(one) != _decoded(other), axis=-1)
        assert differs[top:bottom, left:right].any()
        differs[top:bottom, left:right] = False
        assert not differs.any()


def _decoded(picture: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(encode_jpeg(picture))))


def test_a_region_is_about_a_fifth_of_the_side_and_lies_in_the_picture(tmp_path: Path) -> None:
    pictures = draw_catalogue(tmp_path, products=8, views=2, size=128, emotion_placement="region")
    regions = [picture.region for picture in pictures if picture.region is not None]
    assert len(regions) == len(pictures)
    assert len(set(regions)) > len(regions) / 2
    assert {picture.strength for picture in pictures} == {1.0}
    for left, top, right, bottom in regions:
        assert right - left == bottom - top == 24
        assert min(left, top) >= 0
        assert max(right, bottom) <= 128


def test_broken_files_are_different_and_no_decoder_of_ours_accepts_them(tmp_path: Path) -> None:
    pictures = draw_catalogue(tmp_path, products=2, views=1, size=32, broken=9)
    broken = sorted((tmp_path / "incoming").iterdir())
    assert len(broken) == 9
    assert not {f"incoming/{path.name}" for path in broken} & {picture.image_key for picture in pictures}
    for path in broken:
        with pytest.raises(OSError), Image.open(path) as image:
            image.load()
    contents = [content for _, content in make_broken_files(9, seed=0)]
    assert len(set(contents)) == 9


def test_labels_are_a_csv_with_a_row_for_each_picture(tmp_path: Path) -> None:
    pictures = draw_catalogue(tmp_path, products=2, views=2, size=32)
    write_labels(tmp_path / "labels" / "labels.csv", pictures)
    with (tmp_path / "labels" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    named = [{"image_key": p.image_key, "label": str(p.label), "product_id": p.product_id} for p in pictures]
    assert [{name: row[name] for name in named[0]} for row in rows] == named
    assert [float(row["strength"]) for row in rows] == pytest.approx([p.strength for p in pictures], abs=1e-4)


def test_progress_counts_every_picture(tmp_path: Path) -> None:
    heard: list[int] = []
    draw_catalogue(tmp_path, products=2, views=3, size=32, broken=0, on_picture=heard.append)
    assert heard == [1, 2, 3, 4, 5, 6]
    assert not (tmp_path / "incoming").exists()
