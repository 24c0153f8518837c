"""SQL's views and macros against a slow Python oracle, in memory and as catalogue.duckdb."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lake.catalogue import VERSION_COLUMNS, connect, describe_versions, prepare, workbench, write_catalogue
from lake.errors import LakeError
from lake.lake import Lake, Serving, open_lake
from lake.schemas import IMAGES, RUNS
from lake.tables import Table

START = datetime(2026, 3, 1, 2, tzinfo=UTC)
VIEWS = (
    "images",
    "pixels",
    "rejected",
    "unreadable",
    "embeddings",
    "embedding_history",
    "scores",
    "score_history",
    "looks",
    "models",
    "indexes",
    "runs",
    "serving",
)

Row = dict[str, Any]


def later(seconds: int) -> datetime:
    return START + timedelta(seconds=seconds)


# Filling a lake


def image(at: int, key: str, content: str, status: str = "ok", product: str | None = None) -> Row:
    row: Row = {"image_key": key, "status": status, "ingested_at": later(at)}
    if status in ("rejected", "unreadable"):
        row |= {"reason": f"not a picture ({at})", "size_bytes": at, "etag": f"e{at}"}
    if status == "ok":
        row |= {"sha256": content, "pixels": content.encode(), "product_id": product, "etag": f"e{at}"}
    return row


def embedding(at: int, content: str, look: int) -> Row:
    return {
        "sha256": content,
        "look_version": look,
        "embedding": np.random.default_rng(at).normal(size=8).astype(np.float32).tolist(),
        "embedded_at": later(at),
    }


def score(at: int, content: str, model: int, sixtyfourths: int) -> Row:
    polarity = sixtyfourths / 64
    return {
        "sha256": content,
        "model_version": model,
        "polarity": polarity,
        "logit": float(sixtyfourths - 32),  # finer than the polarity it stands for, of no other use here
        "label": "positive" if polarity >= 0.5 else "negative",
        "positive_intensity": polarity * 2,
        "negative_intensity": 1 - polarity,
        "scored_at": later(at),
    }


_runs = count()


def add_images(lake: Lake, rows: Iterable[Row]) -> None:
    """Two parts, so that a key's rows lie in different files."""
    rows, run = list(rows), f"images-{next(_runs)}"
    parts = [
        lake.images.write_part(pa.Table.from_pylist(half, schema=IMAGES), f"{run}-{number}")
        for number, half in enumerate((rows[::2], rows[1::2]))
        if half
    ]
    lake.images.commit(parts, application_id=run)


def add_scores(lake: Lake, rows: Iterable[Row]) -> None:
    _add(lake.scores, "model_version", rows)


def add_embeddings(lake: Lake, rows: Iterable[Row]) -> None:
    _add(lake.embeddings, "look_version", rows)


def _add(table: Table, partition: str, rows: Iterable[Row]) -> None:
    rows, run = list(rows), f"{table.name}-{next(_runs)}"
    parts = []
    for version in sorted({row[partition] for row in rows}):
        some = pa.Table.from_pylist([row for row in rows if row[partition] == version], schema=table.schema)
        parts.append(table.write_part(some, f"{run}-{version}", partition={partition: str(version)}))
    table.commit(parts, application_id=run)


def add_looks(lake: Lake, number: int) -> None:
    for _ in range(number):
        draft = lake.looks.draft()
        draft.seal({"embedding_size": 8})
        lake.looks.append("promote", draft.version, based_on=lake.looks.newest())


def add_models(lake: Lake, number: int) -> None:
    for _ in range(number):
        draft = lake.models.draft()
        draft.add("weights", b"w")
        draft.seal({"classes": ["negative", "positive"]})
        lake.models.append("promote", draft.version, based_on=lake.models.newest(), reason="better")


def serve(lake: Lake, model: int) -> None:
    lake.models.append("serve", model, based_on=lake.models.newest(), reason="complete")


def add_index(lake: Lake, look: int) -> int:
    draft = lake.indexes.draft()
    draft.add("index", b"i")
    draft.seal({"look_version": look})
    lake.indexes.append("publish", draft.version, based_on=lake.indexes.newest())
    return draft.version


@pytest.fixture
def lake(root: str) -> Lake:
    return open_lake(root, create=True)


@pytest.fixture
def local(tmp_path: Path) -> Lake:
    return open_lake(str(tmp_path / "an analyst's lake"), create=True)


def asked(sql: duckdb.DuckDBPyConnection, query: str) -> list[Row]:
    rows: list[Row] = sql.execute(query).to_arrow_table().to_pylist()
    return rows


# The oracle: the same questions, slowly


@dataclass(frozen=True)
class History:
    images: list[Row]
    embeddings: list[Row]
    scores: list[Row]

    def newest(self, *, of_unreadable: bool) -> dict[str, Row]:
        newest: dict[str, Row] = {}
        for row in self.images:
            if row["status"] == "unreadable" and not of_unreadable:
                continue  # the picture stays what it was
            if row["image_key"] not in newest or row["ingested_at"] > newest[row["image_key"]]["ingested_at"]:
                newest[row["image_key"]] = row
        return newest

    def with_status(self, status: str) -> dict[str, Row]:
        newest = self.newest(of_unreadable=status == "unreadable")
        return {key: row for key, row in sorted(newest.items()) if row["status"] == status}

    def scores_of(self, model: int) -> dict[str, Row]:
        """Of each live key the first score of its content under the model."""
        return self._first([row for row in self.scores if row["model_version"] == model], "scored_at")

    def embeddings_of(self, look: int) -> dict[str, Row]:
        """Of each live key the first embedding of its content under the look."""
        return self._first([row for row in self.embeddings if row["look_version"] == look], "embedded_at")

    def _first(self, rows: list[Row], at: str) -> dict[str, Row]:
        first = {}
        for key, picture in self.with_status("ok").items():
            made = [row for row in rows if row["sha256"] == picture["sha256"]]
            if made:
                first[key] = min(made, key=lambda row: row[at]) | {
                    "image_key": key,
                    "product_id": picture["product_id"],
                }
        return first


KEYS, CONTENTS = ["a", "b//c", "d e'", "ü"], ["s0", "s1", "s2"]


@st.composite
def histories(draw: st.DrawFn) -> History:
    seen = draw(
        st.lists(
            st.tuples(
                st.sampled_from(KEYS),
                st.sampled_from(CONTENTS),
                st.sampled_from(["ok", "ok", "rejected", "deleted", "unreadable"]),
                st.sampled_from([None, "shoe", "hat"]),
            ),
            max_size=14,
        )
    )
    embedded = draw(st.lists(st.tuples(st.sampled_from(CONTENTS), st.integers(1, 2)), max_size=10))
    judged = draw(st.lists(st.tuples(st.sampled_from(CONTENTS), st.integers(1, 2), st.integers(0, 64)), max_size=14))
    images = [image(at, key, content, status, product) for at, (key, content, status, product) in enumerate(seen)]
    embeddings = [embedding(at, *rest) for at, rest in enumerate(embedded)]
    scores = [score(at, *rest) for at, rest in enumerate(judged)]
    return History(*(draw(st.permutations(rows)) for rows in (images, embeddings, scores)))


def stored_once(images: list[Row]) -> list[Row]:
    """The rows as ingest writes them: a content's pixels in the first that has it."""
    stored = set[str]()
    rows = []
    for row in sorted(images, key=lambda row: row["ingested_at"]):
        is_repeated = row["status"] == "ok" and row["sha256"] in stored
        rows.append(row | {"pixels": None, "pixels_elsewhere": True} if is_repeated else row)
        stored.add(row.get("sha256", ""))
    return rows


@settings(max_examples=15, derandomize=True)
@given(histories(), st.integers(1, 2), st.sampled_from([None, 1, 2]))
def test_every_view_and_macro_says_what_a_slow_reading_says(history: History, look: int, model: int | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lake = open_lake(folder, create=True)
        add_images(lake, stored_once(history.images))
        add_embeddings(lake, history.embeddings)
        add_scores(lake, history.scores)
        add_looks(lake, 2)
        add_index(lake, look)
        if model is not None:
            add_models(lake, 2)
            serve(lake, model)
        with connect(lake) as sql:
            check_views(sql, history, look, model)
            check_macros(sql, history, look, model)
            check_polarity_changes(sql, history)
        with workbench(lake) as sql:
            check_stored_pictures(sql, history)
            check_located_embeddings(sql, history)
            scores = sql.execute("SELECT image_key, polarity FROM scores_of(1) ORDER BY 1").fetchall()
            assert scores == [(key, row["polarity"]) for key, row in history.scores_of(1).items()]


def check_views(sql: duckdb.DuckDBPyConnection, history: History, look: int, model: int | None) -> None:
    live = history.with_status("ok")
    assert asked(sql, "SELECT image_key, sha256, product_id, ingested_at FROM images ORDER BY image_key") == [
        {name: row[name] for name in ("image_key", "sha256", "product_id", "ingested_at")} for row in live.values()
    ]
    assert asked(sql, "FROM pixels ORDER BY image_key") == [
        {name: row[name] for name in ("image_key", "sha256", "pixels")} for row in live.values()
    ]
    assert asked(sql, "SELECT image_key, reason, etag FROM rejected ORDER BY image_key") == [
        {name: row[name] for name in ("image_key", "reason", "etag")}
        for row in history.with_status("rejected").values()
    ]
    assert asked(sql, "SELECT image_key, reason, is_shown FROM unreadable ORDER BY image_key") == [
        {"image_key": key, "reason": row["reason"], "is_shown": key in live}
        for key, row in history.with_status("unreadable").items()
    ]
    assert asked(sql, "FROM score_history ORDER BY scored_at") == sorted(
        history.scores, key=lambda row: row["scored_at"]
    )
    assert asked(sql, "FROM embedding_history ORDER BY embedded_at") == sorted(
        history.embeddings, key=lambda row: row["embedded_at"]
    )
    for version in (1, 2):
        scored = by_name(asked(sql, f"FROM scores_of({version}) ORDER BY image_key"))
        assert scored == by_name(history.scores_of(version).values())
        embedded = by_name(asked(sql, f"FROM embeddings_of({version}) ORDER BY image_key"))
        assert embedded == by_name(history.embeddings_of(version).values())
    served = {} if model is None else history.scores_of(model)
    assert by_name(asked(sql, "FROM scores ORDER BY image_key")) == by_name(served.values())
    assert by_name(asked(sql, "FROM embeddings ORDER BY image_key")) == by_name(history.embeddings_of(look).values())


def by_name(rows: Iterable[Row]) -> list[list[tuple[str, Any]]]:
    """The rows with their columns in one order."""
    return [sorted(row.items()) for row in rows]


def check_macros(sql: duckdb.DuckDBPyConnection, history: History, look: int, model: int | None) -> None:
    scores = {} if model is None else history.scores_of(model)
    by_polarity = sorted(scores, key=lambda key: (-scores[key]["polarity"], key))
    assert [row["image_key"] for row in asked(sql, "FROM most_positive(2)")] == by_polarity[:2]
    assert [row["image_key"] for row in asked(sql, "FROM most_positive()")] == by_polarity[:10]
    by_negativity = sorted(scores, key=lambda key: (scores[key]["polarity"], key))
    assert [row["image_key"] for row in asked(sql, "FROM most_negative(n := 3)")] == by_negativity[:3]

    products: dict[str | None, list[float]] = {}
    for row in scores.values():
        products.setdefault(row["product_id"], []).append(row["polarity"])
    rows = asked(sql, "FROM product_polarity()")
    assert [row["polarity"] for row in rows] == sorted(row["polarity"] for row in rows)
    assert {row["product_id"]: (row["pictures"], row["lowest"], row["highest"]) for row in rows} == {
        product: (len(values), min(values), max(values)) for product, values in products.items()
    }
    for row in rows:
        assert row["polarity"] == pytest.approx(np.mean(products[row["product_id"]]))

    embeddings = history.embeddings_of(look)
    for key in [*KEYS, "unknown"]:
        query = "SELECT image_key, similarity, polarity FROM similar_to(?, k := 3)"
        if embeddings and key not in embeddings:
            with pytest.raises(duckdb.InvalidInputException, match=f"no picture {key} .* did you mean ") as error:
                sql.execute(query, [key])
            assert str(error.value).rpartition("did you mean ")[2] in embeddings
            continue
        similar, expected = sql.execute(query, [key]).fetchall(), slowly_similar(embeddings, key)[:3]
        assert [other for other, _, _ in similar] == [other for other, _ in expected]
        assert [value for _, value, _ in similar] == pytest.approx([value for _, value in expected])
        # A picture without a score is as much alike; so are all before a model was trained.
        polarities = [scores[other]["polarity"] if other in scores else None for other, _ in expected]
        assert [polarity for _, _, polarity in similar] == polarities


def slowly_similar(embeddings: dict[str, Row], key: str) -> list[tuple[str, float]]:
    if key not in embeddings:
        return []
    wanted = np.array(embeddings[key]["embedding"])
    neighbours = []
    for other in sorted(embeddings.keys() - {key}):
        vector = np.array(embeddings[other]["embedding"])
        cosine = float(vector @ wanted / np.linalg.norm(vector) / np.linalg.norm(wanted))
        neighbours.append((other, cosine))
    return sorted(neighbours, key=lambda pair: (-round(pair[1], 5), pair[0]))


def check_polarity_changes(sql: duckdb.DuckDBPyConnection, history: History) -> None:
    old, new = history.scores_of(1), history.scores_of(2)
    changes = [(key, old[key]["polarity"], new[key]["polarity"]) for key in old.keys() & new.keys()]
    assert sql.execute("SELECT image_key, old_polarity, new_polarity FROM polarity_changes(1, 2)").fetchall() == sorted(
        changes, key=lambda change: (-abs(change[2] - change[1]), change[0])
    )


def check_stored_pictures(sql: duckdb.DuckDBPyConnection, history: History) -> None:
    for key, url, row in sql.execute("SELECT image_key, url, row FROM stored_pictures").fetchall():
        stored = pq.read_table(url).slice(row, 1).to_pylist()[0]
        assert stored["pixels"] == history.with_status("ok")[key]["pixels"]
    counted = sql.execute("SELECT count(*) FROM stored_pictures").fetchone()
    assert counted == (len(history.with_status("ok")),)
    decoded = History([row for row in history.images if row["status"] == "ok"], [], [])
    assert asked(sql, "SELECT image_key, sha256, pixels FROM pictures_ever ORDER BY image_key") == [
        {name: row[name] for name in ("image_key", "sha256", "pixels")} for row in decoded.with_status("ok").values()
    ]


def check_located_embeddings(sql: duckdb.DuckDBPyConnection, history: History) -> None:
    for look in (1, 2):
        found = {}
        located = f"SELECT image_key, url, row FROM images JOIN located_embeddings({look}) USING (sha256)"
        for key, url, row in sql.execute(located).fetchall():
            found[key] = pq.ParquetFile(url).read(columns=["embedding"]).slice(row, 1).to_pylist()[0]["embedding"]
        assert found == {key: row["embedding"] for key, row in history.embeddings_of(look).items()}


# What stands out of the histories


def test_two_keys_with_one_content_share_its_score_and_its_embedding(local: Lake) -> None:
    add_images(local, [image(1, "a", "same", product="shoe"), image(2, "b", "same", product="hat")])
    add_embeddings(local, [embedding(3, "same", 1)])
    add_scores(local, [score(3, "same", 1, 48)])
    add_looks(local, 1)
    add_models(local, 1)

    with connect(local) as sql:
        rows = sql.execute("SELECT image_key, product_id, polarity FROM scores ORDER BY image_key").fetchall()
        vectors = sql.execute("SELECT image_key, product_id, embedding FROM embeddings ORDER BY image_key").fetchall()
        similar = sql.execute("FROM similar_to('a')").fetchall()

    assert rows == [("a", "shoe", 0.75), ("b", "hat", 0.75)]
    assert vectors == [(key, product, embedding(3, "same", 1)["embedding"]) for key, product, _ in rows]
    assert similar == [("b", "hat", 0.75, pytest.approx(1))]


def test_an_unknown_key_is_an_error_that_names_the_one_that_was_meant(local: Lake) -> None:
    keys = ["mugs/blue-mug/1.jpg", "mugs/red-mug/1.jpg", "plates/blue/1.jpg"]
    add_images(local, [image(at, key, key) for at, key in enumerate(keys)])
    add_embeddings(local, [embedding(at, key, 1) for at, key in enumerate(keys)])
    add_looks(local, 1)

    with connect(local) as sql:
        for wrong, meant in [
            ("mugs/blue-mugg/1.jpg", keys[0]),
            ("mug/red-mug/1.jpg", keys[1]),
            ("plates/blu/1", keys[2]),
        ]:
            with pytest.raises(duckdb.InvalidInputException, match=f"no picture {wrong} .* did you mean {meant}"):
                sql.execute(f"FROM similar_to('{wrong}')")
        assert len(sql.execute(f"FROM similar_to('{keys[0]}')").fetchall()) == 2


def test_a_content_that_two_runs_scored_counts_once_and_the_first(local: Lake) -> None:
    add_images(local, [image(1, "a", "x"), image(2, "b", "x")])
    add_scores(local, [score(4, "x", 1, 16), score(6, "x", 2, 64)])
    add_scores(local, [score(3, "x", 1, 32), score(5, "x", 2, 0)])
    add_embeddings(local, [embedding(8, "x", 1)])
    add_embeddings(local, [embedding(7, "x", 1), embedding(2, "x", 2)])

    with connect(local) as sql:
        vectors = sql.execute("SELECT image_key, embedding FROM embeddings_of(1) ORDER BY 1").fetchall()
        assert vectors == [(key, embedding(7, "x", 1)["embedding"]) for key in "ab"]
        assert sql.execute("SELECT image_key, polarity FROM scores_of(1) ORDER BY 1").fetchall() == [
            ("a", 0.5),
            ("b", 0.5),
        ]
        changes = "SELECT DISTINCT old_polarity, new_polarity FROM polarity_changes(1, 2)"
        assert sql.execute(changes).fetchall() == [(0.5, 0.0)]


def test_a_picture_that_comes_back_is_live_again_and_keeps_its_score(local: Lake) -> None:
    add_images(local, [image(1, "a", "x"), image(2, "a", "x", "deleted"), image(3, "a", "x")])
    add_scores(local, [score(1, "x", 1, 32)])
    add_models(local, 1)

    with connect(local) as sql:
        assert sql.execute("SELECT image_key, polarity FROM scores").fetchall() == [("a", 0.5)]


def test_what_serves_decides_the_scores_and_the_embeddings(local: Lake) -> None:
    def served() -> tuple[Serving, list[Any], list[Any]]:
        with connect(local) as sql:
            [row] = sql.execute("SELECT look_version, index_version, model_version FROM serving").fetchall()
            assert Serving(*row) == local.serving()
            polarities = [each for (each,) in sql.execute("SELECT polarity FROM scores").fetchall()]
            looks = [each for (each,) in sql.execute("SELECT look_version FROM embeddings").fetchall()]
            return local.serving(), polarities, looks

    add_images(local, [image(1, "a", "x")])
    add_embeddings(local, [embedding(1, "x", 1), embedding(2, "x", 2)])
    add_scores(local, [score(1, "x", 1, 16), score(2, "x", 2, 32)])
    assert served() == (Serving(None, None, None), [], [])
    add_looks(local, 1)
    assert served() == (Serving(1, None, None), [], [1])
    first = add_index(local, 1)
    add_models(local, 1)
    assert served() == (Serving(1, first, 1), [0.25], [1])
    serve(local, 1)
    add_models(local, 1)  # promoted, and not scored to the end
    add_looks(local, 1)  # promoted, and ahead of its index
    assert served() == (Serving(1, first, 1), [0.25], [1])
    serve(local, 2)
    assert served() == (Serving(1, first, 2), [0.5], [1])
    second = add_index(local, 2)
    assert served() == (Serving(2, second, 2), [0.5], [2])
    local.models.append("roll back", 1, based_on=local.models.newest())
    assert served() == (Serving(2, second, 1), [0.25], [2])
    local.indexes.append("roll back", first, based_on=local.indexes.newest())
    assert served() == (Serving(1, first, 1), [0.25], [1])


def test_before_a_model_was_trained_nothing_feels_and_all_look_alike_as_ever(local: Lake) -> None:
    add_images(local, [image(1, "a", "x"), image(2, "b", "y")])
    add_embeddings(local, [embedding(1, "x", 1), embedding(2, "y", 1)])
    add_looks(local, 1)

    def similar() -> list[Any]:
        with connect(local) as sql:
            return sql.execute("SELECT image_key, similarity, polarity FROM similar_to('a')").fetchall()

    with connect(local) as sql:
        assert sql.execute("FROM scores").fetchall() == sql.execute("FROM most_positive()").fetchall() == []
        assert sql.execute("FROM models").fetchall() == []
    [(key, similarity, polarity)] = similar()
    assert (key, polarity) == ("b", None)
    add_scores(local, [score(3, "y", 1, 16)])
    assert similar() == [("b", similarity, None)]  # scored, and by no model that serves
    add_models(local, 1)
    assert similar() == [("b", similarity, 0.25)]


def test_pictures_whose_polarities_round_to_one_number_are_told_apart_by_their_logits(local: Lake) -> None:
    add_images(local, [image(at, key, key) for at, key in enumerate("abc")])
    add_scores(
        local,
        [
            score(at, key, 1, 64) | {"logit": logit}
            for at, (key, logit) in enumerate([*zip("abc", (20.0, 30.0, 25.0), strict=True)])
        ],
    )
    add_models(local, 1)

    with connect(local) as sql:
        assert [key for key, *_ in sql.execute("FROM most_positive()").fetchall()] == ["b", "c", "a"]
        assert [key for key, *_ in sql.execute("FROM most_negative()").fetchall()] == ["a", "c", "b"]


def test_versions_tell_what_was_last_said_of_each(local: Lake) -> None:
    add_models(local, 1)
    serve(local, 1)
    add_models(local, 1)
    for action in ("refuse", "register"):
        draft = local.models.draft()
        draft.seal({"note": "it's"})
        local.models.append(action, draft.version, based_on=local.models.newest(), reason=action)
    add_looks(local, 2)
    add_index(local, 1)

    with connect(local) as sql:
        query = "SELECT version, status, is_current, is_serving, reason FROM models ORDER BY version"
        assert sql.execute(query).fetchall() == [
            (1, "accepted", False, True, "complete"),
            (2, "accepted", True, False, "better"),
            (3, "refused", False, False, "refuse"),
            (4, "registered", False, False, "register"),
        ]
        assert sql.execute("SELECT properties ->> 'note' FROM models WHERE version = 3").fetchone() == ("it's",)
        assert sql.execute("SELECT version, is_serving FROM indexes").fetchall() == [(1, True)]
        looks = sql.execute("SELECT version, is_current, is_serving FROM looks ORDER BY version").fetchall()
        assert looks == [(1, False, True), (2, True, False)]
    described = describe_versions(local.models, 1)
    assert [set(row) for row in described] == [set(VERSION_COLUMNS.names)] * 4
    assert json.loads(described[0]["properties"]) == {"classes": ["negative", "positive"]}


def test_runs_keep_their_stages(local: Lake) -> None:
    stages = [{"name": "score", "seconds": 1.5, "pictures": 7}]
    rows = [{"run_id": "b", "started_at": later(2), "stages": stages}, {"run_id": "a", "started_at": later(1)}]
    local.runs.commit([local.runs.write_part(pa.Table.from_pylist(rows, schema=RUNS), "r")], application_id="r")

    with connect(local) as sql:
        assert sql.execute("SELECT run_id, stages FROM runs").fetchall() == [("a", None), ("b", stages)]


@pytest.mark.parametrize("written", [("crashed", "completed"), ("completed", "crashed")])
def test_a_run_that_was_taken_for_dead_and_was_not_counts_by_its_own_row(local: Lake, written: tuple[str, str]) -> None:
    for status in written:
        row = {"run_id": "slept", "flow": "nightly", "status": status, "started_at": START}
        part = local.runs.write_part(pa.Table.from_pylist([row], schema=RUNS), f"{status}-slept")
        assert local.runs.commit([part], application_id=f"{status}-slept")

    with connect(local) as sql:
        assert sql.execute("SELECT run_id, status FROM runs").fetchall() == [("slept", "completed")]


# catalogue.duckdb


def fill(lake: Lake) -> None:
    add_images(lake, [image(1, "a", "x"), image(2, "b", "y", "rejected"), image(3, "c", "z", "deleted")])
    add_embeddings(lake, [embedding(4, "x", 1), embedding(5, "x", 2)])
    add_scores(lake, [score(4, "x", 1, 48), score(5, "x", 2, 32)])
    runs = pa.Table.from_pylist([{"run_id": "r", "started_at": later(1)}], schema=RUNS)
    lake.runs.commit([lake.runs.write_part(runs, "r")], application_id="r")
    add_looks(lake, 2)
    add_models(lake, 1)
    serve(lake, 1)
    add_models(lake, 1)
    add_index(lake, 1)


def test_a_plain_client_reads_every_view_of_the_file(local: Lake) -> None:
    fill(local)

    with duckdb.connect(write_catalogue(local), read_only=True) as sql:
        counted = {view: len(sql.execute(f"FROM {view}").fetchall()) for view in VIEWS}
        assert sql.execute("SELECT polarity FROM most_positive()").fetchall() == [(0.75,)]

    ones = dict.fromkeys(VIEWS, 1)
    assert counted == ones | {"unreadable": 0, "embedding_history": 2, "score_history": 2, "looks": 2, "models": 2}


@pytest.mark.s3
def test_on_s3_the_file_reads_the_lake_and_holds_no_credentials(s3_root: str, tmp_path: Path) -> None:
    lake = open_lake(s3_root, create=True)
    fill(lake)
    assert write_catalogue(lake) == f"{s3_root}/catalogue.duckdb"
    data = lake.store.get("catalogue.duckdb")
    (tmp_path / "catalogue.duckdb").write_bytes(data)

    with duckdb.connect(str(tmp_path / "catalogue.duckdb"), read_only=True) as sql:
        prepare(sql, lake.store)
        assert sql.execute("SELECT image_key, polarity FROM scores").fetchall() == [("a", 0.75)]
        assert len(sql.execute("FROM score_history").fetchall()) == 2
    assert lake.store.s3 is not None
    for secret in lake.store.s3.credentials().values():
        assert secret.encode() not in data


def test_an_open_client_keeps_the_old_state_while_a_new_file_is_written(local: Lake) -> None:
    fill(local)
    path = write_catalogue(local)
    with duckdb.connect(path, read_only=True) as old:
        add_images(local, [image(9, "new", "n")])
        serve(local, 2)
        write_catalogue(local)

        assert old.execute("SELECT image_key FROM images").fetchall() == [("a",)]
        assert old.execute("SELECT polarity FROM scores").fetchall() == [(0.75,)]
    with duckdb.connect(path, read_only=True) as new:
        assert new.execute("SELECT image_key FROM images ORDER BY 1").fetchall() == [("a",), ("new",)]
        assert new.execute("SELECT polarity FROM scores").fetchall() == [(0.5,)]


def test_the_file_of_an_unfinished_write_is_never_the_catalogue(local: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(local)
    before = Path(write_catalogue(local)).read_bytes()
    monkeypatch.setattr("lake.catalogue._create_views", lambda *_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        write_catalogue(local)
    assert Path(local.store.url("catalogue.duckdb")).read_bytes() == before


def test_every_view_of_an_empty_lake_is_typed_and_empty(lake: Lake, tmp_path: Path) -> None:
    def columns(sql: duckdb.DuckDBPyConnection) -> dict[str, list[tuple[Any, ...]]]:
        return {view: [row[:2] for row in sql.execute(f"DESCRIBE {view}").fetchall()] for view in VIEWS}

    with connect(lake) as sql:
        empty = columns(sql)
        assert {view: len(sql.execute(f"FROM {view}").fetchall()) for view in VIEWS} == dict.fromkeys(VIEWS, 0) | {
            "serving": 1
        }
        assert sql.execute("FROM most_positive()").fetchall() == []
        assert sql.execute("FROM similar_to('a')").fetchall() == []
        assert sql.execute("FROM polarity_changes(1, 2)").fetchall() == []
    with workbench(lake) as sql:
        assert sql.execute("FROM stored_pictures").fetchall() == []
        assert sql.execute("FROM pictures_ever").fetchall() == []
        assert sql.execute("FROM scores_of(1)").fetchall() == []
        assert sql.execute("FROM embeddings_of(1)").fetchall() == []
        assert sql.execute("FROM located_embeddings(1)").fetchall() == []
    full = open_lake(str(tmp_path / "full"), create=True)
    fill(full)
    with connect(full) as sql:
        assert columns(sql) == empty


def test_an_empty_lake_has_a_catalogue_too(local: Lake) -> None:
    assert write_catalogue(local) == local.store.url("catalogue.duckdb")
    assert local.store.exists("catalogue.duckdb")


@pytest.mark.parametrize("name", ["it's", "a b", "ünï", "a{b}c", 'q"q', "a;b--", "C#", "a+b&c=d"])
def test_a_lake_may_lie_at_any_path_that_is_not_refused(tmp_path: Path, name: str) -> None:
    lake = open_lake(str(tmp_path / name), create=True)
    fill(lake)

    with duckdb.connect(write_catalogue(lake), read_only=True) as sql:
        assert sql.execute("SELECT image_key, polarity FROM scores").fetchall() == [("a", 0.75)]


def test_a_memory_limit_bounds_the_tasks_queries(local: Lake) -> None:
    with workbench(local, memory_limit="256MB") as sql:
        assert sql.execute("SELECT current_setting('memory_limit')").fetchone() == ("244.1 MiB",)


def test_a_catalogue_that_cannot_be_written_says_so(local: Lake) -> None:
    (Path(local.store.url()) / "catalogue.duckdb").mkdir()

    with pytest.raises(LakeError):
        write_catalogue(local)


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_a_signal_during_a_query_is_no_error_of_the_query(tmp_path: Path, signal: type[BaseException]) -> None:
    lake = open_lake(str(tmp_path), create=True)
    with pytest.raises(signal), connect(lake):
        raise RuntimeError("Query interrupted") from signal()  # as DuckDB does where a signal's handler raises
    with pytest.raises(RuntimeError, match="a defect"), connect(lake):
        raise RuntimeError("a defect") from ValueError()
