"""The runs table across versions: rows of a lake that an earlier version wrote stay readable beside new ones."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from lake.catalogue import CATALOGUE, connect, write_catalogue
from lake.lake import Lake, open_lake
from lake.tables import RUNS

BEFORE_STAGE_TIMES = Path(__file__).parent / "golden" / "runs-before-stage-times"  # written by 0.1.0's first drafts
TIMES = [{"name": "decode", "busy_s": 3.0, "waiting_s": 1.0}]


@pytest.fixture
def old(tmp_path: Path) -> Lake:
    """A lake whose one run an earlier version wrote."""
    shutil.copytree(BEFORE_STAGE_TIMES, tmp_path / "lake")
    return open_lake(str(tmp_path / "lake"))


def add_run(lake: Lake, run_id: str, status: str = "completed", name: str = "") -> None:
    row = {"run_id": run_id, "flow": "nightly", "status": status, "started_at": datetime(2026, 8, 1, tzinfo=UTC)}
    row |= {"stage_times": TIMES, "bottleneck": "decode"}
    part = lake.runs.write_part(pa.Table.from_pylist([row], schema=RUNS), name or run_id)
    assert lake.runs.commit([part], application_id=name or run_id)


def runs(lake: Lake) -> list[dict[str, Any]]:
    with connect(lake) as sql:
        rows: list[dict[str, Any]] = sql.execute("FROM runs").to_arrow_table().to_pylist()
        return rows


def test_a_run_of_an_earlier_version_reads_with_nulls_for_what_it_did_not_record(old: Lake) -> None:
    [row] = runs(old)
    assert list(row) == RUNS.names
    assert (row["flow"], row["listed"], row["pictures_per_second"]) == ("nightly", 8, 12.5)
    assert row["stages"][1] == {"name": "fetch and decode", "seconds": 2.0, "pictures": 8}
    assert row["stage_times"] is None
    assert row["bottleneck"] is None


def test_new_runs_join_the_old_ones_for_every_reader(old: Lake) -> None:
    add_run(old, "new")
    before, after = runs(old)
    assert (before["bottleneck"], before["listed"]) == (None, 8)
    assert (after["bottleneck"], after["stage_times"], after["listed"]) == ("decode", TIMES, None)
    write_catalogue(old)
    with duckdb.connect(old.store.url(CATALOGUE), read_only=True) as file:
        assert file.sql("SELECT bottleneck FROM runs").fetchall() == [(None,), ("decode",)]
    delta = DeltaTable(old.runs.store.url("runs"))
    assert [known.name for known in delta.schema().fields] == RUNS.names


def test_several_writers_widen_an_old_table_at_once(old: Lake) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: add_run(open_lake(old.uri), f"run-{number}"), range(8)))
    assert sorted(row["run_id"] for row in runs(old)) == ["0b7e7d3e-1", *(f"run-{number}" for number in range(8))]
    delta = DeltaTable(old.runs.store.url("runs"))
    assert [known.name for known in delta.schema().fields] == RUNS.names


@pytest.mark.parametrize("written", [("crashed", "completed"), ("completed", "crashed")])
def test_a_run_that_was_taken_for_dead_and_was_not_counts_by_its_own_row(
    tmp_path: Path, written: tuple[str, str]
) -> None:
    lake = open_lake(str(tmp_path), create=True)
    for status in written:
        add_run(lake, "slept", status, name=f"{status}-slept")
    assert [(row["run_id"], row["status"]) for row in runs(lake)] == [("slept", "completed")]
