"""The programs of examples/, run as a reader runs them, on a small drawn lake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lake import catalogue
from lake.lake import open_lake
from tests.small_lake import SmallLake, build

EXAMPLES = Path(__file__).parents[1] / "examples"
BROKEN = 3  # files of a drawn shop that are no pictures
LONGEST = 40  # lines: a reader takes an example in at a glance


def run(name: str, *arguments: str) -> list[str]:
    """The lines that an example prints."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> SmallLake:
    return build(tmp_path_factory.mktemp("shop"))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("[a-z]*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_to_run_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert f"\n    python examples/{path.name} " in text.split('"""')[1]
    assert len(text.splitlines()) < LONGEST


def test_search_prints_the_neighbours_that_exact_search_finds(shop: SmallLake) -> None:
    key = shop.pictures[0].image_key
    lines = run("search.py", shop.uri, key, "3")
    with catalogue.connect(open_lake(shop.uri)) as sql:
        exact = sql.execute("SELECT image_key, product_id, similarity FROM similar_to(?, k := 100)", [key]).fetchall()
    nearest: dict[str, tuple[str, float]] = {}
    for other, product, similarity in exact:
        if product != shop.pictures[0].product_id:
            nearest.setdefault(product, (other, similarity))
    assert [line.split()[2] for line in lines] == [other for other, _ in list(nearest.values())[:3]]
    expected = [similarity for _, similarity in list(nearest.values())[:3]]
    assert [float(line.split()[0]) for line in lines] == pytest.approx(expected, abs=2e-3)


def test_the_runner_of_one_s_own_times_every_unit_of_an_ingest(shop: SmallLake, tmp_path: Path) -> None:
    *units, summary = run("own_runner.py", str(shop.source), str(tmp_path / "lake"))
    assert [line.split()[2] for line in units] == [
        "plan_ingest",
        "ingest_shard",
        "check_answers",
        "commit_images",
        "check_images",
    ]
    assert f"{len(shop.pictures)} ingested, {BROKEN} rejected" in summary


def test_the_catalogue_counts_what_was_drawn(shop: SmallLake) -> None:
    text = "\n".join(run("catalogue.py", shop.uri))
    products = {picture.product_id for picture in shop.pictures}
    assert f"│ {len(shop.pictures):>8} │ {len(products):>8} │" in text
    assert sum(product in text for product in products) >= 5
    for flow in ("ingest-catalogue", "score-catalogue", "rebuild-index"):
        assert flow in text


def test_a_second_night_does_nothing(shop: SmallLake, tmp_path: Path) -> None:
    lake, count = str(tmp_path / "lake"), len(shop.pictures)
    first, _ = run("night.py", str(shop.source), lake)
    assert f"{count} ingested" in first
    assert f"index 1 published: {count} pictures" in first
    second, _ = run("night.py", str(shop.source), lake)
    assert f"{count + BROKEN} unchanged, 0 ingested" in second
    assert second.endswith("index 1 serves on: nothing changed")
    assert open_lake(lake).serving().index_version == 1
