"""What the last index version's measuring found out that still holds: its queries' exact neighbours, row for row."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index.arrays import Mask, Rows
from index.deletions import live_rows
from index.description import DESCRIPTION, IndexDescription, parse_description
from index.errors import IndexingError
from index.truth import TRUTH, EarlierTruth, Truth
from lake.errors import LakeError
from lake.lake import Lake
from lake.versions import FileRecord, path_in
from tasks import shards as workspace
from tasks.rebuild.plan import IndexPlan

logger = logging.getLogger(__name__)


def earlier_truth(lake: Lake, plan: IndexPlan) -> EarlierTruth | None:
    """The truth of the version that the plan starts from; None where there is none, or it cannot be read."""
    if plan.base is None:
        return None
    try:
        base = parse_description(lake.indexes.read(plan.base, DESCRIPTION), f"index {plan.base}")
        truth = Truth.read(lake.indexes.read(plan.base, TRUTH), base.rows)
        return EarlierTruth(truth, _where_rows_went(lake, plan, base))
    except (LakeError, IndexingError) as error:
        logger.info("queries are compared with every row: %s", error)
        return None


def write_truth(lake: Lake, version: int, truth: Truth) -> FileRecord:
    """Keep it beside the drafted version's shards, for the next one."""
    with tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
        name = truth.write(Path(folder))
        return lake.indexes.join(version).add_file(name, Path(folder, name))


def live_in_kept(lake: Lake, plan: IndexPlan) -> list[Mask]:
    """One bool a row of each kept shard: whether it lives on."""
    counts = [shard.rows for shard in plan.kept]
    if plan.masked is None:
        return [np.ones(count, dtype=np.bool_) for count in counts]
    return live_rows(workspace.read_shard(lake.store, plan.masked), counts, plan.masked.path)


def _where_rows_went(lake: Lake, plan: IndexPlan, base: IndexDescription) -> Rows:
    """Of each row of the last version its row in this one, −1 where it left or lies in a new shard."""
    kept = zip((shard.in_folder for shard in plan.kept), _numbered(live_in_kept(lake, plan)), strict=True)
    now, gone = dict(kept), np.empty(0, dtype=np.int64)
    before = zip(base.shards, _live_in(lake, plan.base, base), strict=True)
    went = [now.get(_in_folder(shard.path, plan.base), np.full(len(live), -1))[live] for shard, live in before]
    return np.concatenate([gone, *went])


def _numbered(live: Iterable[Mask]) -> list[Rows]:
    """Of each shard its rows' numbers in an open index of these shards; −1 for masked ones."""
    start, found = 0, []
    for mask in live:
        found.append(np.where(mask, start - 1 + np.cumsum(mask), -1))
        start += int(np.count_nonzero(mask))
    return found


def _live_in(lake: Lake, version: int | None, description: IndexDescription) -> list[Mask]:
    """One bool a row of each shard of a version: whether it lives there."""
    counts = [shard.rows for shard in description.shards]
    if description.deleted is None or version is None:
        return [np.ones(count, dtype=np.bool_) for count in counts]
    table = pq.read_table(pa.BufferReader(lake.indexes.read(version, description.deleted)))
    return live_rows(table, counts, description.deleted)


def _in_folder(path: str, version: int | None) -> str:
    """A shard's path from any version's folder."""
    return path if path.startswith("../") or version is None else path_in(version, path)
