"""Fitting the look to the shop's products: what moves, what stays, and who is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest

from lake import catalogue
from lake.lake import Lake, open_lake
from lake.rollback import roll_back
from model.errors import LabelsUnusable
from model.gate_policy import LookGatePolicy
from tasks.looks import embedding_size
from tasks.retrain_look.config import RetrainLookConfig
from tasks.retrain_look.stage import RetrainLookSummary, ServeConfig, retrain_look
from tasks.runner import Inline
from tasks.search.reader import Reader
from tests.command_line import Run
from tests.small_lake import REBUILD, SCORE, SmallLake, build

CONFIG = RetrainLookConfig(device="cpu", held_out_products=0.4)
LENIENT = LookGatePolicy(least_products=2, least_product_gain=-1)
PRODUCTS = 30


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SmallLake:
    return build(tmp_path_factory.mktemp("made"), products=PRODUCTS, views=3)


@pytest.fixture
def shop(made: SmallLake, tmp_path: Path) -> SmallLake:
    """A copy of the lake, which the test may change."""
    return replace(made, uri=str(copytree(made.uri, tmp_path / "lake")))


def fitted(shop: SmallLake, config: RetrainLookConfig = CONFIG, **choices: Any) -> RetrainLookSummary:
    then = ServeConfig(SCORE, REBUILD)
    return retrain_look(open_lake(shop.uri), config, Inline(), then=then, **choices)


def table(lake: Lake, query: str) -> list[tuple[Any, ...]]:
    with catalogue.connect(lake) as sql:
        return sql.execute(query).fetchall()


def test_a_promoted_look_moves_search_and_leaves_what_pictures_make_feel(shop: SmallLake) -> None:
    lake = open_lake(shop.uri)
    scores = table(lake, "FROM scores ORDER BY image_key")
    before, reader = lake.serving(), Reader(lake)
    size = embedding_size(lake, 1)
    summary = fitted(shop, replace(CONFIG, dimensions=24), policy=LENIENT, force="a test")
    assert summary.promoted and summary.look_version == 2
    assert lake.serving() == replace(before, look_version=2, index_version=2)
    assert table(lake, "FROM scores ORDER BY image_key") == scores
    assert (embedding_size(lake, 1), embedding_size(lake, 2)) == (size, 24)
    (counts,) = table(lake, "SELECT count(*), any_value(len(embedding)) FROM embeddings")
    assert counts == (len(shop.pictures), 24)
    assert reader.refresh() and reader.index.look_version == 2
    assert summary.score is not None and (summary.score.embedded, summary.score.scored) == (len(shop.pictures), 0)


def test_a_look_is_put_back_with_its_index_at_once(shop: SmallLake) -> None:
    lake = open_lake(shop.uri)
    first = Reader(lake).search_keys([shop.pictures[0].image_key], 5)
    fitted(shop, policy=LENIENT, force="a test")
    assert lake.serving().index_version == 2
    roll_back(lake, "looks", 1)
    assert (lake.serving().look_version, lake.serving().index_version) == (1, 1)
    assert Reader(lake).search_keys([shop.pictures[0].image_key], 5) == first


def test_a_look_that_finds_products_no_better_is_refused_and_nothing_moves(shop: SmallLake) -> None:
    lake = open_lake(shop.uri)
    before = lake.serving()
    summary = fitted(shop, policy=LookGatePolicy(least_products=2, least_product_gain=1.0))
    assert not summary.promoted and summary.score is None
    assert any("gain over the incumbent" in reason for reason in summary.reasons)
    assert lake.serving() == before and lake.looks.current() == 1
    assert lake.looks.manifest(2).properties["decision"]["promote"] is False


def test_products_judge_or_teach_never_both_and_the_same_ones_each_time(shop: SmallLake) -> None:
    first, second = (fitted(shop, policy=LENIENT).evaluation for _ in range(2))
    assert first["trained_on_products"] + first["held_out_products"] == PRODUCTS
    assert first["trained_on"] + first["held_out"] == len(shop.pictures)
    assert 0 < first["held_out_products"] < PRODUCTS
    assert second["held_out"] == first["held_out"]
    assert first["incumbent_same_product_first"] == pytest.approx(same_product_first(shop, first["held_out"]), abs=0.5)


def same_product_first(shop: SmallLake, _: int) -> float:
    """Over all pictures, by the first look: the held-out ones are some of these."""
    rows = table(open_lake(shop.uri), "SELECT product_id, embedding FROM embeddings_of(1) ORDER BY image_key")
    vectors, products = np.array([row[1] for row in rows]), np.array([row[0] for row in rows])
    near = vectors @ vectors.T
    np.fill_diagonal(near, -np.inf)
    return float((products[near.argmax(axis=1)] == products).mean())


def test_a_shop_whose_products_show_one_picture_each_is_told_what_is_missing(tmp_path: Path) -> None:
    shop = build(tmp_path, products=4, views=1)
    with pytest.raises(LabelsUnusable, match="no product shows several pictures: ingest with --product-id-pattern"):
        fitted(shop)
    assert open_lake(shop.uri).looks.known() == [1]


def test_the_command_says_what_was_decided_and_why(shop: SmallLake, run: Run) -> None:
    told = run("retrain-look", "--lake", shop.uri, "--device", "cpu", "--least-products", "50")
    assert told.code == 0
    assert "gate    look 2 refused" in told.out
    assert "held-out products with two pictures: expected at least 50" in told.out
