"""The demo: a drawn shop, a small network trained on part of it, one night over all of it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.here import run_here
from flows.parameters import IngestParameters, NightlyParameters, RetrainParameters
from flows.settings import read_settings
from lake import catalogue
from lake.lake import Lake, open_lake
from lake.places import CATALOGUE
from tasks import progress
from tasks.night import NightSummary
from tasks.retrain.stage import RetrainSummary
from tasks.search.queries import SearchAnswer, search_by_key
from vitrine.demo.draw_catalogue import DrawnPicture, draw_catalogue, write_labels

VIEWS = 4  # pictures a product
SHOWN = "mug"  # the kind of the product whose look-alikes are shown
BROKEN = 3
LABELLED_SHARE = 0.7  # of the products; the rest arrives with the night
PRODUCT_ID_PATTERN = r"([^/]+)/[^/]+$"  # the folder that a picture lies in


@dataclass(frozen=True)
class DemoLook:
    """How well search by look does: every picture asks once, all others answer. Beside it a colour histogram."""

    same_product: float  # the nearest picture shows the same product
    same_kind: float  # the nearest picture of another product is of the same kind
    histogram_same_product: float
    histogram_same_kind: float


@dataclass(frozen=True)
class Demo:
    """What the demo did and found."""

    source: str
    pictures: int
    retrain: RetrainSummary
    night: NightSummary
    rejected: list[dict[str, Any]]
    most_positive: list[dict[str, Any]]
    most_negative: list[dict[str, Any]]
    look: DemoLook
    search: SearchAnswer
    next_commands: list[str]


def run_demo(directory: Path, *, products: int, epochs: int, seed: int) -> Demo:
    """Draw into an empty directory, ingest a first part, train on it, then let the night bring the rest."""
    source, labels, lake = directory / "pictures", directory / "labels.csv", str(directory / "lake")
    drawn = _draw(source, products, seed)
    early = _delivered_first(drawn)
    write_labels(labels, early)
    with _held_back(source, {picture.image_key for picture in early}, directory / "arriving"):
        run_here(IngestParameters(lake=lake, source=str(source), product_id_pattern=PRODUCT_ID_PATTERN))
    retrained = run_here(
        RetrainParameters(
            lake=lake,
            labels=str(labels),
            epochs=epochs,
            seed=seed,
            then_serve=False,  # the night does it
        )
    )
    night = run_here(NightlyParameters(lake=lake, source=str(source), product_id_pattern=PRODUCT_ID_PATTERN))
    return _look_around(lake, source, drawn, retrained, night)


def _draw(source: Path, products: int, seed: int) -> list[DrawnPicture]:
    with progress.stage("draw the shop", products * VIEWS):
        return draw_catalogue(
            source, products=products, views=VIEWS, seed=seed, broken=BROKEN, on_picture=lambda _: progress.advance(1)
        )


def _delivered_first(drawn: Sequence[DrawnPicture]) -> list[DrawnPicture]:
    """Whole products, the same share of each label."""
    chosen: set[str] = set()
    for label in (0, 1):
        products = sorted({picture.product_id for picture in drawn if picture.label == label})
        # Strided, so that every kind of product is on both sides.
        chosen.update(product for number, product in enumerate(products) if number % 10 < 10 * LABELLED_SHARE)
    return [picture for picture in drawn if picture.product_id in chosen]


@contextmanager
def _held_back(source: Path, kept: set[str], aside: Path) -> Iterator[None]:
    """Only some pictures are in the source while the block runs; the others arrive afterwards."""
    moved = [path for path in sorted(source.rglob("*")) if path.is_file()]
    moved = [path for path in moved if path.relative_to(source).as_posix() not in kept]
    for path in moved:
        target = aside / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    try:
        yield
    finally:
        for path in moved:
            (aside / path.relative_to(source)).rename(path)
        shutil.rmtree(aside, ignore_errors=True)


def _judge_look(lake: Lake, kinds: Mapping[str, str]) -> DemoLook:
    """Against what was drawn."""
    import numpy as np

    from model.baselines import colour_histograms
    from model.pictures.decode import decode
    from model.retrieval import Catalogue, exact_search, measure_look

    with progress.stage("judge the look", len(kinds)), catalogue.connect(lake) as sql:
        rows = sql.execute(
            "SELECT image_key, product_id, embedding, pixels FROM embeddings JOIN pixels USING (image_key)"
        ).to_arrow_table()
    shown = Catalogue(rows["product_id"].to_pylist(), [kinds[key] for key in rows["image_key"].to_pylist()])
    pixels = (decode(jpeg).rgb.transpose(2, 0, 1)[None] for jpeg in rows["pixels"].to_pylist())
    histograms = np.concatenate([colour_histograms(each) for each in pixels])
    ours, theirs = (
        measure_look(exact_search(vectors), shown, (1,))
        for vectors in (np.array(rows["embedding"].to_pylist(), dtype=np.float32), histograms)
    )
    return DemoLook(
        same_product=ours.same_product.recall[1].value,
        same_kind=ours.same_kind.recall[1].value,
        histogram_same_product=theirs.same_product.recall[1].value,
        histogram_same_kind=theirs.same_kind.recall[1].value,
    )


def _look_around(
    lake_uri: str, source: Path, drawn: Sequence[DrawnPicture], retrained: RetrainSummary, night: NightSummary
) -> Demo:
    """Ask what a user would ask first."""
    lake = open_lake(lake_uri)
    with catalogue.connect(lake) as sql:

        def ask(query: str) -> list[dict[str, Any]]:
            rows: list[dict[str, Any]] = sql.execute(query).to_arrow_table().to_pylist()
            return rows

        rejected = ask("SELECT image_key, reason FROM rejected ORDER BY image_key")
        most_positive = ask("FROM most_positive(n := 3)")
        most_negative = ask("FROM most_negative(n := 3)")
    key = next(picture.image_key for picture in drawn if picture.category == SHOWN)
    option = f"--lake {lake_uri}"
    called = "python -m vitrine" if sys.argv[0].endswith("__main__.py") else os.path.relpath(sys.argv[0])
    vitrine = "vitrine" if shutil.which("vitrine") else called
    return Demo(
        source=str(source),
        pictures=len(drawn),
        retrain=retrained,
        night=night,
        rejected=rejected,
        most_positive=most_positive,
        most_negative=most_negative,
        look=_judge_look(lake, {picture.image_key: picture.category for picture in drawn}),
        search=search_by_key(lake, key, 5, read_settings().cache_directory),
        next_commands=[
            f"{vitrine} status {option}",
            f"{vitrine} search --key {key} {option}",
            f"{vitrine} search {source / key} {option}",
            f'{vitrine} sql "FROM product_polarity() LIMIT 5" {option}',
            f"{vitrine} nightly {source} {option}    # nothing changed: nothing is done",
            f"open {lake_uri}/{CATALOGUE} read-only in any DuckDB client",
        ],
    )
