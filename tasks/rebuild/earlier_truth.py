"""The exact neighbours that the last index version was measured by, brought to the rows of the next one."""

from __future__ import annotations

import logging

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
from lake.manifest import FileRecord, path_in
from lake.scratch import scratch
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
        return EarlierTruth(truth, _where_rows_went(lake, plan, plan.base, base))
    except (LakeError, IndexingError) as error:
        logger.info("queries are compared with every row: %s", error)
        return None


def write_truth(lake: Lake, version: int, truth: Truth) -> FileRecord:
    """Keep the truth beside the drafted version's shards, for the next one; its file."""
    with scratch() as folder:
        name = truth.write(folder)
        return lake.indexes.join(version).add_file(name, folder / name)


def live_in_kept(lake: Lake, plan: IndexPlan) -> list[Mask]:
    """One bool a row of each kept shard: whether it lives on."""
    counts = [kept.shard.rows for kept in plan.kept]
    if plan.deleted is None:
        return [np.ones(count, dtype=np.bool_) for count in counts]
    return live_rows(workspace.read_shard(lake.store, plan.deleted), counts, plan.deleted.path)


def _where_rows_went(lake: Lake, plan: IndexPlan, version: int, base: IndexDescription) -> Rows:
    """The row in this version of each live row of the last one, −1 where it left or lies in a new shard."""
    numbers, start = {}, 0  # of the rows of each kept shard in this version; −1 for deleted ones
    for kept, mask in zip(plan.kept, live_in_kept(lake, plan), strict=True):
        numbers[kept.shard.path] = np.where(mask, start - 1 + np.cumsum(mask), -1)
        start += kept.live
    went = [np.empty(0, dtype=np.int64)]
    for shard, live in zip(base.shards, _live_in(lake, version, base), strict=True):
        path = shard.path if shard.path.startswith("../") else path_in(version, shard.path)
        went.append(numbers.get(path, np.full(len(live), -1))[live])
    return np.concatenate(went)


def _live_in(lake: Lake, version: int, description: IndexDescription) -> list[Mask]:
    """One bool a row of each shard of a version: whether it lives there."""
    counts = [shard.rows for shard in description.shards]
    if description.deleted is None:
        return [np.ones(count, dtype=np.bool_) for count in counts]
    table = pq.read_table(pa.BufferReader(lake.indexes.read(version, description.deleted)))
    return live_rows(table, counts, description.deleted)
