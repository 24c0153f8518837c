"""What the last index version's measuring found out that still holds: its queries' exact neighbours, row for row."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index.building import DESCRIPTION, IndexDescription, parse_description
from index.errors import IndexingError
from index.searching import Rows
from index.truth import TRUTH, Earlier, Truth
from lake.errors import LakeError
from lake.lake import Lake
from lake.versions import FileRecord
from tasks import workspace
from tasks.index_plan import IndexPlan

logger = logging.getLogger(__name__)


def earlier_truth(lake: Lake, plan: IndexPlan) -> Earlier | None:
    """The truth of the version that the plan starts from; None where there is none, or it cannot be read."""
    if plan.base is None:
        return None
    try:
        base = parse_description(lake.indexes.read(plan.base, DESCRIPTION), f"index {plan.base}")
        truth = Truth.read(lake.indexes.read(plan.base, TRUTH), base.rows)
        return Earlier(truth, _where_rows_went(lake, plan, base))
    except (LakeError, IndexingError) as error:
        logger.info("queries are compared with every row: %s", error)
        return None


def write_truth(lake: Lake, version: int, truth: Truth) -> FileRecord:
    """Keep it beside the drafted version's shards, for the next one."""
    with tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
        name = truth.write(Path(folder))
        return lake.indexes.join(version).add_file(name, Path(folder, name))


def masked_rows(lake: Lake, plan: IndexPlan) -> list[Rows]:
    """Which rows of each kept shard are masked."""
    nothing = np.empty(0, dtype=np.int64)
    if plan.masked is None:
        return [nothing] * len(plan.kept)
    return _by_shard(workspace.read_shard(lake.store, plan.masked), len(plan.kept))


def _where_rows_went(lake: Lake, plan: IndexPlan, base: IndexDescription) -> Rows:
    """Of each row of the last version its row in this one, −1 where it left or lies in a new shard."""
    then = [_in_folder(shard.path, plan.base) for shard in base.shards]
    before = _numbered([shard.rows or 0 for shard in base.shards], _masked_in(lake, plan.base, base))
    kept = _numbered([shard.rows for shard in plan.kept], masked_rows(lake, plan))
    now = dict(zip((shard.in_folder for shard in plan.kept), kept, strict=True))
    gone = [np.empty(0, dtype=np.int64)]
    went = [now.get(place, np.full(len(rows), -1))[rows >= 0] for place, rows in zip(then, before, strict=True)]
    return np.concatenate(gone + went)


def _numbered(sizes: Iterable[int], masked: Iterable[Rows]) -> list[Rows]:
    """Of each shard its rows' numbers in an open index of these shards; −1 for masked ones."""
    start, found = 0, []
    for size, left in zip(sizes, masked, strict=True):
        live = np.ones(size, dtype=np.bool_)
        live[left] = False
        found.append(np.where(live, start - 1 + np.cumsum(live), -1))
        start += int(np.count_nonzero(live))
    return found


def _masked_in(lake: Lake, version: int | None, description: IndexDescription) -> list[Rows]:
    if description.masked is None or version is None:
        return [np.empty(0, dtype=np.int64)] * len(description.shards)
    table = pq.read_table(pa.BufferReader(lake.indexes.read(version, description.masked)))
    return _by_shard(table, len(description.shards))


def _by_shard(table: pa.Table, shards: int) -> list[Rows]:
    numbers, rows = table["shard"].to_numpy(), table["row"].to_numpy()
    return [rows[numbers == number] for number in range(shards)]


def _in_folder(path: str, version: int | None) -> str:
    """A shard's path from any version's folder."""
    return path if path.startswith("../") else f"../{version:06d}/{path}"
