"""Retraining on a look with real weights: its trunk stays frozen unless asked, and what looks alike never moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from lake import catalogue
from lake.lake import Lake, open_lake
from tasks.config import ModelChoice
from tasks.ingest.config import IngestConfig
from tasks.looks import init_model, read_look
from tasks.models import read_card
from tasks.retrain.config import RetrainConfig
from tasks.retrain.stage import RetrainSummary, retrain
from tasks.runner import Inline
from tasks.search.queries import SearchAnswer, search_by_key
from tests import small_lake
from tests.small_lake import PRODUCT_ID_PATTERN, SCORE
from vitrine.demo.draw_catalogue import DrawnPicture, draw_catalogue, write_labels

RETRAIN = RetrainConfig(device="cpu", decode_threads=2, epochs=2)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, list[DrawnPicture], Path]:
    """A labelled shop of 20 products after its first night under a look of the bundled weights; no model yet."""
    root = tmp_path_factory.mktemp("shop")
    drawn = draw_catalogue(root / "pictures", products=20, views=3, size=64, broken=0)
    uri = str(root / "lake")
    init_model(uri, ModelChoice(weights="bundled", image_size=64))
    small_lake.ingest(uri, str(root / "pictures"), IngestConfig(product_id_pattern=PRODUCT_ID_PATTERN))
    small_lake.score(uri)
    small_lake.rebuild(uri)
    write_labels(root / "labels.csv", drawn)
    return open_lake(uri), drawn, root


def promoted(shop: tuple[Lake, list[DrawnPicture], Path], **choice: Any) -> RetrainSummary:
    """A retraining that is promoted whatever the gate says, with the scoring that follows."""
    lake, _, root = shop
    config = replace(RETRAIN, **choice)
    return retrain(lake, str(root / "labels.csv"), config, Inline(), force="a test", then=SCORE)


def polarity(lake: Lake) -> dict[str, float]:
    with catalogue.connect(lake) as sql:
        return dict(sql.execute("SELECT image_key, polarity FROM scores").fetchall())


def looks_alike(answer: SearchAnswer) -> list[tuple[str, float]]:
    return [(each["image_key"], each["similarity"]) for each in answer.neighbours]


def test_the_trunk_stays_frozen_by_default_and_a_promotion_moves_scores_alone(
    shop: tuple[Lake, list[DrawnPicture], Path], tmp_path: Path
) -> None:
    lake, drawn, _ = shop
    key = drawn[0].image_key

    def of_the_look() -> tuple[object, ...]:
        table = DeltaTable(lake.store.url("embeddings"))
        found = search_by_key(lake, key, 100, tmp_path)
        return (
            table.version(),
            lake.embeddings.files(),
            lake.looks.entries(),
            lake.indexes.entries(),
            looks_alike(found),
        )

    before = of_the_look()
    first = promoted(shop, epochs=8)
    card, look = read_card(lake, first.model_version), read_look(lake, 1)
    assert card.properties["started_from"] == {"trains_backbone": False, "weights": "bundled", "look_version": 1}
    assert card.properties["training"]["freeze_backbone"]
    assert (card.trunk, card.preprocessing) == (look.trunk, look.preprocessing)
    assert first.evaluation["accuracy"] > first.evaluation["majority_share"] + 0.1  # it learns, in seconds
    assert first.score is not None and first.score.serves_since
    assert (first.score.embedded, first.score.scored) == (0, len(drawn))
    assert of_the_look() == before
    said = polarity(lake)
    assert len(said) == len(drawn)

    second = promoted(shop, seed=1)
    assert second.score is not None and (second.score.embedded, second.score.scored) == (0, len(drawn))
    assert lake.serving().model_version == second.model_version
    assert of_the_look() == before
    assert polarity(lake).keys() == said.keys() and polarity(lake) != said
    found = search_by_key(lake, key, 100, tmp_path)
    assert [each["polarity"] for each in found.neighbours] == [
        pytest.approx(polarity(lake)[each["image_key"]]) for each in found.neighbours
    ]


def test_a_backbone_of_its_own_is_trained_where_asked_and_its_successors_follow(
    shop: tuple[Lake, list[DrawnPicture], Path],
) -> None:
    lake, drawn, _ = shop
    indexes, embeddings = lake.indexes.entries(), lake.embeddings.files()
    through = promoted(shop, epochs=1, train_backbone=True)
    card, look = read_card(lake, through.model_version), read_look(lake, 1)
    assert card.properties["started_from"] == {"trains_backbone": True, "weights": "bundled", "look_version": 1}
    assert card.trunk != look.trunk and card.preprocessing == look.preprocessing
    assert through.score is not None and (through.score.embedded, through.score.scored) == (0, len(drawn))
    after = promoted(shop, epochs=1)  # as its incumbent, from the look's weights again
    assert read_card(lake, after.model_version).properties["started_from"] == card.properties["started_from"]
    frozen = promoted(shop, epochs=1, train_backbone=False)
    assert read_card(lake, frozen.model_version).trunk == look.trunk
    assert (lake.indexes.entries(), lake.embeddings.files()) == (indexes, embeddings)
