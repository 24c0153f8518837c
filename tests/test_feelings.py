"""Search by feeling against a plain loop over every picture, and what a reader says before a model was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from index.errors import BadVectors, UnknownKey
from lake.errors import LakeError
from tasks.errors import OtherModel
from tasks.rebuild.config import RebuildConfig
from tasks.search.queries import search_by_key
from tasks.search.reader import Filters, Reader
from tests import small_lake
from tests.vector_lake import Feeling, VectorLake
from tests.vectors import clustered

DIMENSION, PICTURES = 8, 72
POOL = clustered(PICTURES, DIMENSION, seed=1, clusters=10)
CONFIG = RebuildConfig(recall_queries=2, shard_vectors=40)
NOWHERE = Path("nowhere")
KEYS = [f"{row:03d}.jpg" for row in range(PICTURES)]
TWINS = {"twin-a.jpg": 5, "twin-b.jpg": 7}  # of other keys' contents; the second one was never scored
# Few different feelings, so that many pictures are equally near; quarters, whose squares are exact in binary.
GRID: list[Feeling] = list(map(tuple, (np.random.default_rng(3).integers(1, 4, size=(PICTURES, 3)) / 4).tolist()))
UNSCORED = range(0, PICTURES, 7)
SCORED: dict[str, Feeling] = {
    key: feeling for row, (key, feeling) in enumerate(zip(KEYS, GRID, strict=True)) if row not in UNSCORED
}
FEELINGS: dict[str, Feeling | None] = {key: SCORED.get(key) for key in KEYS} | {
    twin: SCORED.get(KEYS[row]) for twin, row in TWINS.items()
}


def product_of(key: str) -> str | None:
    """Products of three pictures; every fourth triple shows none, and neither do the twins."""
    row = 0 if key in TWINS else int(key[:3]) // 3
    return f"p{row}" if row % 4 else None


def build(lake: VectorLake) -> None:
    """The pictures, embedded and indexed; nothing is scored."""
    for product in dict.fromkeys(map(product_of, FEELINGS)):
        shown = [key for key in FEELINGS if product_of(key) == product]
        rows = {key: TWINS[key] if key in TWINS else int(key[:3]) for key in shown}
        lake.change({key: POOL[row] for key, row in rows.items()}, product)
    small_lake.rebuild(lake.uri, config=CONFIG)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> VectorLake:
    """One model served; a later run scored three contents a second time, and differently."""
    lake = VectorLake(str(tmp_path_factory.mktemp("scored") / "lake"), DIMENSION)
    build(lake)
    lake.add_scores(lake.promote_model(), SCORED)
    lake.serve(1)
    lake.add_scores(1, dict.fromkeys(list(SCORED)[:3], (0.99, 0.0, 1.0)))
    return lake


@pytest.fixture(scope="module")
def reader(scored: VectorLake) -> Reader:
    return Reader(scored.lake, NOWHERE)


@pytest.fixture
def unscored(tmp_path: Path) -> VectorLake:
    lake = VectorLake(str(tmp_path / "lake"), DIMENSION)
    build(lake)
    return lake


def slowly(
    reader: Reader, point: Feeling, k: int, filters: Filters, own: str | None = None
) -> list[tuple[str, float, float]]:
    """Key, polarity and similarity of the k nearest, every picture of the index looked at in its order."""
    near = []
    for row, key in enumerate(reader.index.searcher.table["image_key"].to_pylist()):
        feeling, product = FEELINGS[key], product_of(key)
        if feeling is None or key == own or (filters.keys is not None and key not in filters.keys):
            continue
        if filters.polarity is not None and not filters.polarity[0] <= feeling[0] <= filters.polarity[1]:
            continue
        if filters.other_products and own is not None and product is not None and product == product_of(own):
            continue
        distance = sum((a - b) ** 2 for a, b in zip(feeling, point, strict=True)) ** 0.5
        near.append((distance, row, key, product, feeling[0]))
    answer, shown = [], set()
    for distance, _, key, product, polarity in sorted(near, key=lambda each: each[:2]):
        if filters.one_per_product and product is not None and product in shown:
            continue
        shown.add(product)
        answer.append((key, polarity, 1 - distance / 3**0.5))
    return answer[:k]


def told(answer: tuple[dict[str, Any], ...]) -> list[tuple[str, float, float]]:
    return [(row["image_key"], row["polarity"], row["similarity"]) for row in answer]


def check(answer: tuple[dict[str, Any], ...], expected: list[tuple[str, float, float]]) -> None:
    assert [row[:2] for row in told(answer)] == [row[:2] for row in expected]
    assert [row[2] for row in told(answer)] == pytest.approx([row[2] for row in expected], abs=1e-6)


EIGHTHS = st.integers(0, 8).map(lambda eighth: eighth / 8)
FILTERS = st.builds(
    Filters,
    other_products=st.booleans(),
    one_per_product=st.booleans(),
    polarity=st.none() | st.tuples(EIGHTHS, EIGHTHS),
    keys=st.none() | st.sets(st.sampled_from(sorted(FEELINGS))).map(tuple),
)
K = st.sampled_from([1, 2, 10, 500])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from([*sorted(SCORED), "twin-a.jpg"]), k=K, filters=FILTERS)
def test_by_key_the_pictures_that_feel_most_alike_are_found(reader: Reader, key: str, k: int, filters: Filters) -> None:
    (answer,) = reader.search_keys([key], k, by="feeling", filters=filters)
    feeling = FEELINGS[key]
    assert feeling is not None
    check(answer, slowly(reader, feeling, k, filters, own=key))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(points=st.lists(st.tuples(EIGHTHS, EIGHTHS, EIGHTHS), min_size=1, max_size=3), k=K, filters=FILTERS)
def test_by_point_the_pictures_that_feel_most_alike_are_found(
    reader: Reader, points: list[Feeling], k: int, filters: Filters
) -> None:
    answers = reader.search_feelings(points, k, model_version=1, filters=filters)
    assert len(answers) == len(points)
    for answer, point in zip(answers, points, strict=True):
        check(answer, slowly(reader, point, k, filters))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(sorted(FEELINGS)), polarity=st.tuples(EIGHTHS, EIGHTHS), one=st.booleans())
def test_polarity_filters_a_search_by_look_too(
    reader: Reader, key: str, polarity: tuple[float, float], one: bool
) -> None:
    filters = Filters(polarity=polarity, one_per_product=one)
    (answer,) = reader.search_keys([key], 500, filters=filters)
    every = reader.search_keys([key], 500)[0]
    wanted, shown = [], set()
    for row in every:
        inside = row["polarity"] is not None and polarity[0] <= row["polarity"] <= polarity[1]
        if inside and not (one and row["product_id"] is not None and row["product_id"] in shown):
            shown.add(row["product_id"])
            wanted.append(row)
    assert list(answer) == wanted


def test_beside_each_look_alike_stands_the_first_score_of_its_content_or_none(reader: Reader) -> None:
    (answer,) = reader.search_keys(["001.jpg"], 500)
    assert {row["image_key"]: row["polarity"] for row in answer} == {
        key: None if feeling is None else feeling[0] for key, feeling in FEELINGS.items() if key != "001.jpg"
    }
    labels = {None: None} | {value / 8: "positive" if value >= 4 else "negative" for value in range(9)}
    assert all(row["label"] == labels[row["polarity"]] for row in answer)


def test_a_picture_without_a_score_is_told_and_never_found_by_feeling(scored: VectorLake, reader: Reader) -> None:
    (everything,) = reader.search_feelings([(0.5, 0.5, 0.5)], 500, model_version=1)
    assert {row["image_key"] for row in everything} == {key for key, feeling in FEELINGS.items() if feeling is not None}
    with pytest.raises(LakeError, match=r"model 1 has not scored every one of them: run `vitrine score`"):
        reader.search_keys(["001.jpg", KEYS[UNSCORED[1]]], 3, by="feeling")
    with pytest.raises(UnknownKey):
        reader.search_keys(["nothing.jpg"], 3, by="feeling")
    answer = search_by_key(scored.lake, "001.jpg", 3, NOWHERE, by="feeling")
    assert (answer.by, answer.look_version, answer.index_version, answer.model_version) == ("feeling", 1, 1, 1)
    assert answer.neighbours == reader.search_keys(["001.jpg"], 3, by="feeling")[0]


def test_a_point_of_another_model_or_shape_is_refused(reader: Reader) -> None:
    with pytest.raises(OtherModel, match="the pictures are scored by model 1, the query by model 2"):
        reader.search_feelings([(0.5, 0.5, 0.5)], 3, model_version=2)
    for wrong in ([(0.5, 0.5)], [0.5, 0.5, 0.5]):
        with pytest.raises(BadVectors, match=r"expected points of shape \(Q, 3\), found"):
            reader.search_feelings(wrong, 3, model_version=1)
    with pytest.raises(BadVectors, match="NaN or infinity"):
        reader.search_feelings([(0.5, 0.5, float("nan"))], 3, model_version=1)


def test_before_a_model_was_trained_look_alikes_are_found_and_no_feeling_is_claimed(unscored: VectorLake) -> None:
    reader = Reader(unscored.lake, NOWHERE)
    assert reader.index.model_version is None
    (answer,) = reader.search_keys(["001.jpg"], 10)
    assert len(answer) == 10
    assert {(row["polarity"], row["label"]) for row in answer} == {(None, None)}
    needs_a_model = "no model of polarity yet: `vitrine retrain LABELS` trains one"
    with pytest.raises(LakeError, match=needs_a_model):
        reader.search_keys(["001.jpg"], 10, filters=Filters(polarity=(0, 1)))
    with pytest.raises(LakeError, match=needs_a_model):
        reader.search_keys(["001.jpg"], 10, by="feeling")
    with pytest.raises(LakeError, match=needs_a_model):
        reader.search_feelings([(0.5, 0.5, 0.5)], 10, model_version=1)
    unscored.promote_model()
    with pytest.raises(LakeError, match="promoted after this reader was opened: refresh it"):
        reader.search_keys(["001.jpg"], 10, by="feeling")


def test_scores_that_come_while_their_model_serves_already_are_seen(unscored: VectorLake) -> None:
    """The first model serves from its promotion on: who looks before its scores are there must see them come."""
    reader = Reader(unscored.lake, NOWHERE)
    before = reader.search_keys(["001.jpg"], 10)
    unscored.promote_model()
    assert reader.refresh()
    assert reader.search_keys(["001.jpg"], 10) == before
    unscored.add_scores(1, SCORED)
    assert unscored.serve(1)
    assert reader.refresh()
    assert not reader.refresh()
    (answer,) = reader.search_keys(["001.jpg"], 500)
    assert {row["image_key"]: row["polarity"] for row in answer if row["polarity"]} == {
        key: feeling[0] for key, feeling in FEELINGS.items() if feeling is not None and key != "001.jpg"
    }
