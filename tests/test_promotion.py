"""A new model of polarity moves what is said of pictures, by one log entry, and nothing of how they look."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lake.catalogue import connect
from lake.errors import LostRace, ModelReplaced
from lake.lake import Lake, Serving, open_lake
from lake.rollback import roll_back
from tasks.rebuild.config import RebuildConfig
from tasks.score.units import serve_model
from tasks.search.queries import search_by_picture
from tasks.search.reader import Answer, By, Filters, Reader
from tests import small_lake
from tests.vector_lake import Feeling, VectorLake
from tests.vectors import clustered

DIMENSION, PICTURES = 8, 60
POOL = clustered(PICTURES, DIMENSION, seed=1, clusters=10)
KEYS = [f"{row:03d}.jpg" for row in range(PICTURES)]
CODED = RebuildConfig(flat_below=20, recall_queries=5, recall_target=0.01, shard_vectors=40)
NOWHERE = Path("nowhere")


def feelings(seed: int) -> dict[str, Feeling]:
    points = np.random.default_rng(seed).uniform(0.01, 0.99, size=(PICTURES, 3)).astype(np.float32)
    return {key: tuple(point) for key, point in zip(KEYS, points.tolist(), strict=True)}


@pytest.fixture
def lake(tmp_path: Path) -> VectorLake:
    """An index with codes and a codebook, and a model that serves."""
    made = VectorLake(str(tmp_path / "lake"), DIMENSION)
    made.change(dict(zip(KEYS, POOL, strict=True)), "shoe")
    small_lake.rebuild(made.uri, config=CODED)
    made.add_scores(made.promote_model(), feelings(1))
    made.serve(1)
    return made


def contents(lake: Lake, *folders: str) -> dict[str, str]:
    """The sha256 of every file below the folders, Delta's log and the versions' log included."""
    names = [name for folder in folders for name in lake.store.names(folder)]
    assert names
    return {name: hashlib.sha256(lake.store.get(name)).hexdigest() for name in names}


def look(lake: Lake) -> dict[str, str]:
    """All that says how pictures look."""
    return contents(lake, "looks", "embeddings", "indexes")


def polarities(lake: Lake) -> dict[str, float]:
    with connect(lake) as sql:
        return dict(sql.execute("SELECT image_key, polarity FROM scores").fetchall())


def said(feelings: dict[str, Feeling]) -> dict[str, float]:
    return {key: polarity for key, (polarity, _, _) in feelings.items()}


def likeness(answers: list[Answer]) -> list[list[tuple[str, float]]]:
    """Answers without what is felt of them."""
    return [[(row["image_key"], row["similarity"]) for row in answer] for answer in answers]


def felt(answers: list[Answer]) -> dict[str, float | None]:
    return {row["image_key"]: row["polarity"] for answer in answers for row in answer}


def similar(lake: Lake) -> list[Any]:
    with connect(lake) as sql:
        return sql.execute("SELECT image_key, similarity FROM similar_to('000.jpg', 100)").fetchall()


def test_a_promotion_moves_scores_answers_and_filters_by_one_entry_and_leaves_the_look(lake: VectorLake) -> None:
    old, new, log = feelings(1), feelings(2), lake.lake.models
    reader, before, exact = Reader(lake.lake, NOWHERE), look(lake.lake), similar(lake.lake)
    answers, low = reader.search_keys(KEYS, 100), Filters(polarity=(0.0, 0.4))
    assert felt(answers) == said(old)

    model = lake.promote_model()
    lake.add_scores(model, new)
    entries, scores = log.entries(), contents(lake.lake, "scores")
    reader.refresh()
    # All is written, and nothing has moved.
    assert (lake.lake.models.current(), lake.lake.serving()) == (model, Serving(1, 1, 1))
    assert polarities(lake.lake) == said(old)
    assert reader.search_keys(KEYS, 100) == Reader(lake.lake, NOWHERE).search_keys(KEYS, 100) == answers

    assert lake.serve(model)
    assert [(entry.action, entry.version) for entry in log.entries()[len(entries) :]] == [("serve", model)]
    assert contents(lake.lake, "scores") == scores
    assert lake.lake.serving() == Serving(1, 1, model)
    assert polarities(lake.lake) == said(new)
    assert reader.search_keys(KEYS, 100) == answers  # until it is told to move on
    searcher = reader.index.searcher
    assert reader.refresh()
    assert reader.index.searcher is searcher  # no file is read again
    moved = reader.search_keys(KEYS, 100)
    assert felt(moved) == said(new)
    assert likeness(moved) == likeness(answers)
    filtered = felt(reader.search_keys(KEYS, 100, filters=low))
    assert filtered == {key: polarity for key, polarity in said(new).items() if polarity <= 0.4}
    assert (look(lake.lake), similar(lake.lake)) == (before, exact)

    # And back at once, by one entry.
    roll_back(lake.lake, "models", 1)
    assert len(log.entries()) == len(entries) + 2
    assert polarities(lake.lake) == said(old)
    assert reader.refresh()
    assert reader.search_keys(KEYS, 100) == answers
    assert (look(lake.lake), contents(lake.lake, "scores"), similar(lake.lake)) == (before, scores, exact)


def test_a_night_after_a_promotion_publishes_nothing_new(lake: VectorLake) -> None:
    lake.add_scores(lake.promote_model(), feelings(2))
    lake.serve(2)
    before = look(lake.lake)
    index = small_lake.rebuild(lake.uri, config=CODED)
    assert index is not None and index.version == 1
    assert look(lake.lake) == before


def test_a_model_replaced_while_its_pictures_were_scored_does_not_serve(lake: VectorLake) -> None:
    plan = lake.scoring_plan(lake.promote_model())
    lake.add_scores(2, feelings(2))
    lake.promote_model()
    with pytest.raises(ModelReplaced, match="another model was put in place of model 2 meanwhile; run it again"):
        serve_model(lake.lake, plan)
    assert issubclass(ModelReplaced, LostRace)
    assert (lake.lake.models.current(), lake.lake.serving_model()) == (3, 1)
    assert polarities(lake.lake) == said(feelings(1))


def test_a_model_rolled_back_while_its_successor_was_scored_goes_on_serving(lake: VectorLake) -> None:
    plan = lake.scoring_plan(lake.promote_model())
    roll_back(lake.lake, "models", 1)
    with pytest.raises(ModelReplaced):
        serve_model(lake.lake, plan)
    assert (lake.lake.models.current(), lake.lake.serving_model()) == (1, 1)


def test_a_model_refused_meanwhile_is_no_obstacle(lake: VectorLake) -> None:
    plan = lake.scoring_plan(lake.promote_model())
    refused = lake.lake.models.draft()
    refused.seal({})
    lake.lake.models.append("refuse", refused.version, based_on=lake.lake.models.newest())
    assert serve_model(lake.lake, plan)
    assert serve_model(lake.lake, plan)  # a retry of a task whose answer was lost
    assert [entry.action for entry in lake.lake.models.entries()].count("serve") == 2
    assert lake.lake.serving_model() == 2


def test_scores_of_a_model_that_is_not_promoted_move_nobody(lake: VectorLake) -> None:
    lake.add_scores(lake.promote_model(), feelings(2))
    lake.serve(2)
    entries = lake.lake.models.entries()
    assert not lake.serve(1)
    assert not lake.serve(2)  # it serves already
    assert lake.lake.models.entries() == entries


def test_a_look_comes_back_with_its_newest_index_and_the_model_stays(lake: VectorLake) -> None:
    reader, exact = Reader(lake.lake, NOWHERE), similar(lake.lake)
    answers = reader.search_keys(KEYS, 100)
    lake.promote_look()
    lake.change({key: POOL[::-1][row] for row, key in enumerate(KEYS)}, "shoe")
    small_lake.rebuild(lake.uri, config=CODED)
    lake.change(dict(zip(KEYS, POOL, strict=True)), "shoe")
    small_lake.rebuild(lake.uri, config=CODED)
    assert lake.lake.serving() == Serving(2, 3, 1)
    models = lake.lake.models.entries()

    done = roll_back(lake.lake, "looks", 1)

    assert done.serving == lake.lake.serving() == Serving(1, 1, 1)
    assert lake.lake.models.entries() == models
    assert reader.search_keys(KEYS, 100) == answers
    reader.refresh()
    assert (reader.index.look_version, reader.index.version) == (1, 1)
    assert reader.search_keys(KEYS, 100) == answers
    assert similar(lake.lake) == exact
    assert roll_back(lake.lake, "looks", 2).serving == Serving(2, 3, 1)


def test_the_score_stage_moves_readers_and_embeds_nothing_again(tmp_path: Path) -> None:
    """With networks: the second model stands on the look's trunk, as the first does."""
    made = small_lake.build(tmp_path, products=3)
    lake = open_lake(made.uri)
    reader, before, old = Reader(lake, NOWHERE), look(lake), polarities(lake)
    keys = sorted(old)
    answers = reader.search_keys(keys, 10)
    assert felt(answers) == old
    serving = lake.serving()

    small_lake.register_model(made.uri, seed=1)
    assert (lake.serving(), polarities(lake)) == (serving, old)
    done = small_lake.score(made.uri)

    assert (done.embedded, done.scored, done.already_embedded, done.serves_since) == (0, 6, 6, True)
    assert lake.serving() == Serving(serving.look_version, serving.index_version, 2)
    new = polarities(lake)
    assert new.keys() == old.keys() and new != old
    assert look(lake) == before
    reader.refresh()
    moved = reader.search_keys(keys, 10)
    assert (felt(moved), likeness(moved)) == (new, likeness(answers))
    ways: tuple[By, ...] = ("look", "feeling")
    for by in ways:
        answer = search_by_picture(lake, made.source / keys[0], 3, NOWHERE, "cpu", by=by)
        assert (answer.by, answer.look_version, answer.index_version, answer.model_version) == (by, 1, 1, 2)
        assert answer.neighbours[0] == {
            "image_key": keys[0],
            "product_id": keys[0].split("/")[-2],
            "similarity": pytest.approx(1, abs=1e-3),
            "polarity": new[keys[0]],
            "label": "positive" if new[keys[0]] >= 0.5 else "negative",
        }
    again = small_lake.score(made.uri)
    assert (again.scored, again.serves_since) == (0, False)
    roll_back(lake, "models", 1)
    assert polarities(lake) == old
