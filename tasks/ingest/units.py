"""The units of ingest: fetch and decode a shard, commit, count again.

A picture that can't be decoded becomes a row that says why. An object that can't be fetched becomes no row at
all, so that the next night tries it again.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from datetime import datetime

from lake import catalogue
from lake.lake import Lake
from lake.store import open_store
from lake.tables import Part
from model.pictures.decode import get_ready
from tasks.errors import CountsDisagree
from tasks.ingest.config import IngestConfig
from tasks.ingest.objects import read_objects
from tasks.ingest.plan import IngestPlan
from tasks.ingest.rows import image_rows
from tasks.shards import Shard, read_shard
from tasks.timing import StageTime, Stopwatch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IngestedShard:
    """What became of one shard's pictures."""

    parts: tuple[Part, ...]
    ingested: int
    rejected: int
    failed: int  # could not be fetched; tried again the next night
    failed_known: int  # of these, the ones of which the table holds an earlier state
    times: tuple[StageTime, ...] = field(default=(), compare=False)


def ingest_shard(
    lake: Lake, source: str, run_id: str, shard: Shard, ingested_at: datetime, config: IngestConfig
) -> IngestedShard:
    """Fetch and decode the shard's pictures and write them as one part, not yet committed."""
    started, loading, writing = time.perf_counter(), Stopwatch("load PyTorch"), Stopwatch("write")
    with loading.busy():
        get_ready()
    work = read_shard(lake.store, shard)
    objects, times = read_objects(open_store(source), work, config)
    rows = image_rows(work, objects, ingested_at, config.product_id_pattern)
    parts = []
    if rows.num_rows:
        with writing.busy():
            parts = [lake.images.write_part(rows, f"{run_id}-{shard.number:05d}")]
    elapsed = time.perf_counter() - started
    shard_read = IngestedShard(
        parts=tuple(parts),
        ingested=sum(read is not None and read.picture is not None for read in objects),
        rejected=sum(read is not None and read.picture is None for read in objects),
        failed=objects.count(None),
        failed_known=sum(
            read is None and known for read, known in zip(objects, work["known"].to_pylist(), strict=True)
        ),
        times=tuple(
            replace(spent, waiting_s=elapsed - spent.busy_s) for spent in (loading.read(), *times, writing.read())
        ),
    )
    level = logging.WARNING if shard_read.failed else logging.INFO
    message = "shard %d: %d ingested, %d rejected, %d not fetched, %.0f objects/s"
    logger.log(
        level,
        message,
        shard.number,
        shard_read.ingested,
        shard_read.rejected,
        shard_read.failed,
        work.num_rows / elapsed,
    )
    return shard_read


def commit_images(lake: Lake, run_id: str, plan: IngestPlan, shards: list[IngestedShard]) -> None:
    """Make the run's rows visible in one transaction. Raises CountsDisagree before anything is committed."""
    handled = sum(shard.ingested + shard.rejected + shard.failed for shard in shards)
    if plan.listed != plan.unchanged + handled:
        raise CountsDisagree(
            f"ingest lost count: listed {plan.listed}, but {plan.unchanged} unchanged + {handled} handled; "
            "nothing was committed, run it again"
        )
    parts = [part for shard in shards for part in shard.parts]
    lake.images.commit([*parts, *plan.tombstones], application_id=f"ingest-{run_id}")


def check_images(lake: Lake, plan: IngestPlan, shards: list[IngestedShard]) -> int:
    """Count the table again after the commit; the number of live pictures. Raises CountsDisagree."""
    with catalogue.workbench(lake) as sql:
        counted = sql.execute(
            """
            SELECT count(*) FILTER (status <> 'deleted'), count(*) FILTER (status = 'ok')
            FROM (SELECT arg_max(status, ingested_at) AS status FROM image_history GROUP BY image_key)
            """  # of newest_images, without its join: half the memory
        ).fetchone()
    known, live = counted or (0, 0)
    expected = plan.unchanged + sum(shard.ingested + shard.rejected + shard.failed_known for shard in shards)
    if known != expected:
        raise CountsDisagree(
            f"the images table holds {known} pictures where this run left {expected}: another ingest ran at the "
            "same time; run it again"
        )
    return int(live)
