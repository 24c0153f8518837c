"""`near-duplicates` on real photographs, some of which are there again: re-encoded, smaller, under another product."""

from __future__ import annotations

from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lake.lake import Lake, open_lake
from tasks.ingest.config import IngestConfig
from tasks.rebuild.config import RebuildConfig
from tasks.search.near_duplicates import NearDuplicatesReport, find_near_duplicates
from tests import small_lake


@pytest.fixture(scope="module")
def shop(grocery: Path, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    folder = tmp_path_factory.mktemp("shop")
    for product in sorted(path for path in (grocery / "images" / "train").glob("*/*") if path.is_dir())[:5]:
        (place := folder / "pictures" / product.name).mkdir(parents=True)
        for photograph in sorted(product.glob("*.jpg"))[:12]:
            copy(photograph, place)
        first, second = sorted(place.iterdir())[:2]
        with Image.open(first) as picture:
            picture.save(place / "first, re-encoded.jpg", quality=50)
            picture.resize((picture.width * 2 // 3, picture.height * 2 // 3)).save(place / "first, smaller.jpg")
        (other := folder / "pictures" / f"{product.name} (new)").mkdir()
        copy(second, other / "second.jpg")
    uri = str(folder / "lake")
    small_lake.init_lake(uri)
    config = IngestConfig(product_id_pattern=small_lake.PRODUCT_ID_PATTERN, fetch_threads=2, decode_threads=2)
    small_lake.ingest(uri, str(folder / "pictures"), config)
    small_lake.score(uri)
    small_lake.rebuild(uri)
    return open_lake(uri)


def report_of(lake: Lake, limit: int = 100, **options: Any) -> NearDuplicatesReport:
    return find_near_duplicates(lake, Path("unused"), limit, **options)


def names(report: NearDuplicatesReport) -> list[list[str]]:
    return [[picture.image_key.rsplit("/", 1)[-1] for picture in group.pictures] for group in report.shown]


def test_exactly_the_copies_are_found_whatever_model_serves(shop: Lake) -> None:
    report = report_of(shop)
    assert (report.pictures, report.groups, report.superfluous) == (75, 10, 15)
    assert [len(group.pictures) for group in report.shown] == [3] * 5 + [2] * 5
    for group in names(report)[:5]:
        assert {"first, re-encoded.jpg", "first, smaller.jpg"} < set(group)
    for group in names(report)[5:]:
        assert "second.jpg" in group


def test_one_photograph_used_for_two_products_can_be_asked_for(shop: Lake) -> None:
    report = report_of(shop, across_products=True, limit=3)
    assert (report.groups, report.superfluous, len(report.shown)) == (5, 5, 3)
    for group in report.shown:
        assert group.products == 2
        assert [picture.similarity for picture in group.pictures] == pytest.approx([1, 1], abs=1e-5)


def test_with_a_threshold_the_model_alone_decides(shop: Lake) -> None:
    assert names(report_of(shop, threshold=0.997)) == names(report_of(shop))
    few = report_of(shop, threshold=0.9)  # an untrained network finds all photographs alike
    assert few.groups < 10
    assert few.superfluous > 60


def test_a_mirrored_picture_is_found_if_asked_for(tmp_path: Path) -> None:
    uri, source = str(tmp_path / "lake"), tmp_path / "pictures"
    (source / "a").mkdir(parents=True)
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    picture = colours.resize((96, 96), Image.Resampling.BICUBIC)
    picture.save(source / "a" / "1.jpg")
    picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(source / "a" / "2.jpg")
    small_lake.init_lake(uri)
    small_lake.ingest(uri, str(source))
    small_lake.score(uri)
    small_lake.rebuild(uri)
    assert report_of(open_lake(uri)).groups == 0
    assert names(report_of(open_lake(uri), mirrors=True)) == [["1.jpg", "2.jpg"]]


def test_an_index_of_distances_finds_the_same_copies(shop: Lake) -> None:
    before = report_of(shop), report_of(shop, threshold=0.997)
    small_lake.rebuild(shop.uri, None, RebuildConfig(index_metric="euclidean"))
    after = report_of(shop), report_of(shop, threshold=0.997)
    for one, other in zip(before, after, strict=True):
        assert (other.index_version, names(other)) == (one.index_version + 1, names(one))
        assert [picture.similarity for group in other.shown for picture in group.pictures] == pytest.approx(
            [picture.similarity for group in one.shown for picture in group.pictures], abs=1e-4
        )
