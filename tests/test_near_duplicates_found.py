"""`near-duplicates` on real photographs, some of which are there again: re-encoded, smaller, under another product."""

from __future__ import annotations

from pathlib import Path
from shutil import copy

import pytest
from PIL import Image

from lake.lake import Lake, open_lake
from tasks.ingest.config import IngestConfig
from tasks.models import init_model
from tasks.rebuild.config import RebuildConfig
from tasks.search.near_duplicates import NearDuplicatesReport, find_near_duplicates
from tests import small_lake

THRESHOLD = 0.997


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
    init_model(uri, small_lake.SMALL_MODEL)
    config = IngestConfig(product_id_pattern=small_lake.PRODUCT_ID_PATTERN, fetch_threads=2, decode_threads=2)
    small_lake.ingest(uri, str(folder / "pictures"), config)
    small_lake.score(uri)
    small_lake.rebuild(uri)
    return open_lake(uri)


def report_of(lake: Lake, threshold: float = THRESHOLD, limit: int = 100, **options: bool) -> NearDuplicatesReport:
    return find_near_duplicates(lake, Path("unused"), threshold, limit, **options)


def names(report: NearDuplicatesReport) -> list[list[str]]:
    return [[picture.image_key.rsplit("/", 1)[-1] for picture in group.pictures] for group in report.shown]


@pytest.mark.parametrize("threshold", [THRESHOLD, 0.9])
def test_exactly_the_copies_are_found_whatever_the_model_thinks_near(shop: Lake, threshold: float) -> None:
    report = report_of(shop, threshold)
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


def test_without_the_pixels_the_model_alone_decides(shop: Lake) -> None:
    assert report_of(shop, 0.9, confirm=False).groups == 1  # an untrained network finds all photographs alike
    assert names(report_of(shop, confirm=False)) == names(report_of(shop))


def test_an_index_of_distances_finds_the_same_copies(shop: Lake) -> None:
    before = report_of(shop)
    small_lake.rebuild(shop.uri, None, RebuildConfig(index_metric="euclidean"))
    after = report_of(shop)
    assert (after.index_version, names(after)) == (before.index_version + 1, names(before))
    assert [picture.similarity for group in after.shown for picture in group.pictures] == pytest.approx(
        [picture.similarity for group in before.shown for picture in group.pictures], abs=1e-4
    )
