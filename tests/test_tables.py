"""Delta tables: parts are invisible until one commit, a commit happens once, every engine reads the same rows."""

from __future__ import annotations

import json
import math
import struct
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lake.catalogue import connect
from lake.errors import LakeError
from lake.lake import Lake, open_lake
from lake.parquet import round_to_bfloat16
from lake.schemas import EMBEDDINGS, IMAGES, SCORES
from lake.tables import Part, Table

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def lake(root: str) -> Lake:
    return open_lake(root, create=True)


@pytest.fixture
def local(tmp_path: Path) -> Lake:
    return open_lake(str(tmp_path / "lake"), create=True)


def images(*keys: str) -> pa.Table:
    rows = [{"image_key": key, "sha256": f"sha of {key}", "status": "ok", "ingested_at": NOON} for key in keys]
    return pa.Table.from_pylist(rows, schema=IMAGES)


def scores(model: int, *contents: str) -> pa.Table:
    rows = [
        {
            "sha256": content,
            "model_version": model,
            "polarity": 0.25,
            "logit": -1.5,
            "scored_at": NOON,
        }
        for content in contents
    ]
    return pa.Table.from_pylist(rows, schema=SCORES)


def embeddings(look: int, *contents: str) -> pa.Table:
    rows = [
        {"sha256": content, "look_version": look, "embedding": [0.5, -1.0, 3.0], "embedded_at": NOON}
        for content in contents
    ]
    return pa.Table.from_pylist(rows, schema=EMBEDDINGS)


def commit_scores(lake: Lake, model: int, *contents: str) -> bool:
    name = f"{model}-{contents[0]}"
    part = lake.scores.write_part(scores(model, *contents), name, partition={"model_version": str(model)})
    return lake.scores.commit([part], application_id=name)


def commit_embeddings(lake: Lake, look: int, *contents: str) -> bool:
    name = f"{look}-{contents[0]}"
    part = lake.embeddings.write_part(embeddings(look, *contents), name, partition={"look_version": str(look)})
    return lake.embeddings.commit([part], application_id=name)


def keys_in(table: Table) -> list[str]:
    """What another engine, Delta Lake's own reader of the log, finds."""
    opened = DeltaTable(table.store.url(table.name), storage_options=table.store.storage_options)
    parts = [
        table.store.get(f"{table.name}/{path}")
        for path in opened.get_add_actions(flatten=True).column("path").to_pylist()
    ]
    return sorted(key for data in parts for key in pq.read_table(pa.BufferReader(data))["image_key"].to_pylist())


# Commits


def test_parts_are_invisible_until_their_commit_and_visible_together_at_once(lake: Lake) -> None:
    parts = [lake.images.write_part(images(f"k{number}"), f"run-{number}") for number in range(3)]

    assert lake.images.files() == []
    assert lake.images.version() == -1
    assert lake.images.commit(parts, application_id="run")
    assert keys_in(lake.images) == ["k0", "k1", "k2"]
    files = lake.images.files()
    assert [(file.path, file.rows, file.size_bytes) for file in files] == [
        (f"images/{part.path}", 1, part.size_bytes) for part in parts
    ]


def test_a_retried_commit_happens_once(lake: Lake) -> None:
    part = lake.images.write_part(images("a"), "part")

    assert lake.images.commit([part], application_id="run")
    assert not lake.images.commit([part], application_id="run")
    assert keys_in(lake.images) == ["a"]


def test_a_retried_part_leaves_one_part(local: Lake) -> None:
    local.images.write_part(images("a", "b"), "part")
    part = local.images.write_part(images("a"), "part")
    local.images.commit([part], application_id="run")

    assert keys_in(local.images) == ["a"]


def test_a_commit_of_nothing_makes_no_table(local: Lake) -> None:
    assert not local.images.commit([], application_id="run")
    assert local.images.version() == -1


def test_a_crash_between_making_the_table_and_its_first_commit_is_made_good(local: Lake) -> None:
    DeltaTable.create(local.store.url("scores"), SCORES, partition_by="model_version")

    assert local.scores.files() == []
    with connect(local) as sql:
        assert sql.execute("SELECT count(*) FROM score_history").fetchone() == (0,)
    assert commit_scores(local, 3, "a")
    assert [file.partition for file in local.scores.files()] == [{"model_version": "3"}]


def test_a_commit_whose_answer_was_lost_is_recognised(local: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    write = DeltaTable.create_write_transaction

    def write_twice(table: DeltaTable, *arguments: Any, **options: Any) -> None:
        write(table, *arguments, **options)
        write(table, *arguments, **options)  # as if the first had not been heard of: Delta says it conflicts

    monkeypatch.setattr(DeltaTable, "create_write_transaction", write_twice)
    local.images.commit([local.images.write_part(images("a"), "part")], application_id="run")

    assert keys_in(local.images) == ["a"]


def test_a_table_that_cannot_be_read_is_said(local: Lake) -> None:
    commit_scores(local, 1, "a")
    local.store.put("scores/_delta_log/00000000000000000001.json", b"{ not json")

    with pytest.raises(LakeError, match="the scores table can't be read"):
        local.scores.files()


def test_concurrent_commits_all_land(lake: Lake) -> None:
    def commit(number: int) -> bool:
        part = lake.images.write_part(images(f"k{number:02d}"), f"part-{number}")
        return lake.images.commit([part], application_id=f"run-{number}")

    with ThreadPoolExecutor(8) as pool:  # the table itself is not there yet: that race is part of it
        assert all(pool.map(commit, range(10)))

    assert keys_in(lake.images) == [f"k{number:02d}" for number in range(10)]


def test_concurrent_twins_of_one_commit_land_once(lake: Lake) -> None:
    part = lake.images.write_part(images("a"), "part")

    with ThreadPoolExecutor(8) as pool:
        landed = list(pool.map(lambda _: lake.images.commit([part], application_id="run"), range(8)))

    assert sum(landed) == 1
    assert keys_in(lake.images) == ["a"]


def test_a_long_log_keeps_its_rows_and_its_memory_of_commits(local: Lake) -> None:
    for number in range(110):  # delta-rs writes a checkpoint at 100
        commit_scores(local, number % 3 + 1, f"k{number:03d}")
    log = {path.name for path in (local.store.directory or Path()).joinpath("scores", "_delta_log").iterdir()}

    assert "_last_checkpoint" in log
    assert [file.rows for file in local.scores.files()] == [1] * 110
    assert {file.partition["model_version"] for file in local.scores.files()} == {"1", "2", "3"}
    assert not commit_scores(local, 1, "k000")


def test_an_unreadable_log_stops_the_commit(local: Lake) -> None:
    commit_scores(local, 1, "a")
    local.store.put("scores/_delta_log/00000000000000000001.json", b"{ not json")

    with pytest.raises(LakeError):
        commit_scores(local, 1, "b")


def test_a_table_whose_place_is_taken_says_so(local: Lake) -> None:
    local.store.put("images", b"a file")

    with pytest.raises(LakeError):
        local.images.commit([Part("x.parquet", 1, 1)], application_id="run")


# What the engines read


def test_duckdb_and_delta_read_the_same_rows(lake: Lake) -> None:
    for commit in (commit_scores, commit_embeddings):
        commit(lake, 1, "a", "b")
        commit(lake, 12, "a")

    with connect(lake) as sql:
        scored = "SELECT sha256, model_version, polarity, logit FROM score_history ORDER BY model_version, sha256"
        embedded = "SELECT sha256, look_version, embedding FROM embedding_history ORDER BY look_version, sha256"
        rows = sql.execute(scored).fetchall(), sql.execute(embedded).fetchall()

    contents = [("a", 1), ("b", 1), ("a", 12)]
    assert rows[0] == [(*content, 0.25, -1.5) for content in contents]
    assert rows[1] == [(*content, [0.5, -1.0, 3.0]) for content in contents]
    for name, column in (("scores", "model_version"), ("embeddings", "look_version")):
        delta = DeltaTable(lake.store.url(name), storage_options=lake.store.storage_options)
        actions = delta.get_add_actions(flatten=True)
        versions, counts = (actions.column(each).to_pylist() for each in (f"partition.{column}", "num_records"))
        assert sorted(zip(map(str, versions), counts, strict=True)) == [("1", 2), ("12", 1)]
        assert delta.metadata().partition_columns == [column]


def test_deltas_own_scan_reads_every_row_of_a_partitioned_table(local: Lake) -> None:
    from deltalake import QueryBuilder

    commit_scores(local, 1, "a", "b")
    commit_scores(local, 12, "c")
    delta = DeltaTable(local.store.url("scores"), storage_options=local.store.storage_options)

    query = QueryBuilder().register("scores", delta)
    rows = pa.table(query.execute("SELECT sha256, model_version FROM scores ORDER BY sha256").read_all())

    assert rows.to_pylist() == [
        {"sha256": content, "model_version": model} for content, model in (("a", 1), ("b", 1), ("c", 12))
    ]


@pytest.mark.parametrize("name", ["a b", "50%20off", "100%", "ünï", "a+b&c=d", "it's"])
def test_any_part_name_is_found_by_every_engine(local: Lake, name: str) -> None:
    local.images.commit([local.images.write_part(images("a"), name)], application_id=name)

    assert [file.path for file in local.images.files()] == [f"images/{name}.parquet"]
    with connect(local) as sql:
        assert sql.execute("SELECT image_key FROM images").fetchall() == [("a",)]
    [uri] = DeltaTable(local.store.url("images")).file_uris()
    assert Path(uri).is_file()


def test_an_older_reader_of_the_table_keeps_its_whole_state(local: Lake) -> None:
    commit_scores(local, 1, "a")
    with connect(local) as old:
        commit_scores(local, 1, "b")

        assert old.execute("SELECT sha256 FROM score_history").fetchall() == [("a",)]


def test_embeddings_are_split_by_byte_and_stay_ordinary_floats(local: Lake) -> None:
    commit_embeddings(local, 1, "a")
    [file] = local.embeddings.files()
    metadata = pq.ParquetFile(file.url).metadata.row_group(0)
    columns = {metadata.column(i).path_in_schema: metadata.column(i) for i in range(metadata.num_columns)}

    embedding = columns["embedding.list.element"]
    assert embedding.physical_type == "FLOAT"
    assert "BYTE_STREAM_SPLIT" in embedding.encodings
    assert embedding.compression == "ZSTD"
    assert "look_version" not in columns


def test_rows_that_do_not_fit_the_schema_are_refused_before_anything_is_written(local: Lake) -> None:
    with pytest.raises((KeyError, pa.ArrowInvalid)):
        local.images.write_part(pa.table({"image_key": ["a"]}), "part")

    assert local.store.names("images") == []


# bfloat16


def slowly(value: float) -> float:
    """The nearest of the two neighbouring bfloat16 values, the even one of a tie; by exact arithmetic."""
    [bits] = struct.unpack("<I", struct.pack("<f", value))
    low = bits & 0xFFFF0000
    neighbours = [low, low + 0x10000]
    if math.isinf(value):
        return value
    exact = [float(np.array(n & 0xFFFFFFFF, dtype=np.uint32).view(np.float32)) for n in neighbours]
    if math.isinf(exact[1]):
        exact[1] = math.copysign(2.0**128, value)
    distances = [abs(value - candidate) for candidate in exact]
    nearest = 0 if distances[0] < distances[1] else 1 if distances[1] < distances[0] else (low >> 16) & 1
    chosen = exact[nearest]
    return math.copysign(math.inf, value) if abs(chosen) >= 2.0**128 else chosen


@settings(max_examples=200, derandomize=True)
@given(st.floats(width=32, allow_nan=False))
@example(1.0 + 2.0**-8)  # a tie, to the even 1.0
@example(1.0 + 3 * 2.0**-8)  # a tie, up to the even 1 + 2⁻⁶
@example(-1.0 - 3 * 2.0**-8)
@example(2.0**-149)  # the smallest float32
@example(3.4028234663852886e38)  # the largest
@example(-0.0)
def test_rounding_to_bfloat16_is_to_nearest_ties_to_even(value: float) -> None:
    [rounded] = round_to_bfloat16(np.array([value], dtype=np.float32)).tolist()

    assert struct.pack("<d", rounded) == struct.pack("<d", slowly(value))


def test_rounding_to_bfloat16_agrees_with_torch_on_every_kind_of_bits() -> None:
    import torch

    generator = np.random.default_rng(7)
    bits = generator.integers(0, 2**32, 200_000, dtype=np.uint32)
    bits[:1000] = (bits[:1000] & 0xFFFF0000) | 0x8000  # ties
    values = bits.view(np.float32)
    expected = torch.from_numpy(values.copy()).to(torch.bfloat16).to(torch.float32).numpy()

    np.testing.assert_array_equal(round_to_bfloat16(values), expected)


def test_no_bits_of_a_nan_become_a_number() -> None:
    nans = np.array([0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF], dtype=np.uint32).view(np.float32)

    assert np.isnan(round_to_bfloat16(nans)).all()


def test_rounding_takes_any_layout_and_keeps_its_input() -> None:
    values = np.arange(12, dtype=np.float64).reshape(3, 4).T / 7
    before = values.copy()

    assert round_to_bfloat16(values).shape == (4, 3)
    np.testing.assert_array_equal(values, before)


def test_the_log_names_the_run(local: Lake) -> None:
    local.images.commit([local.images.write_part(images("a"), "part")], application_id="ingest-7")
    log = local.store.get("images/_delta_log/00000000000000000001.json").decode().splitlines()

    assert {"appId": "ingest-7", "version": 1} in [
        {name: action["txn"][name] for name in ("appId", "version")}
        for action in map(json.loads, log)
        if "txn" in action
    ]
