"""The units of ingest: fetch and decode a shard, commit, count again.

A picture that can't be decoded becomes a row that says why, and so does an object that the store refuses. One that
could not be fetched this time becomes no row at all. Of the latter two the next night asks again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import pyarrow as pa

from lake import catalogue
from lake.lake import Lake
from lake.store import open_store
from lake.tables import Part
from tasks.errors import CountsDisagree
from tasks.ingest.config import IngestConfig
from tasks.ingest.objects import ReadObject, read_objects
from tasks.ingest.plan import IngestPlan
from tasks.ingest.products import keep_pattern
from tasks.ingest.rows import image_rows
from tasks.ingest.source import Source, require_answers
from tasks.shards import Shard, read_shard
from tasks.timing import StageTime, Stopwatch

logger = logging.getLogger(__name__)

NAMED = 5  # keys, of many


@dataclass(frozen=True)
class IngestedShard:
    """What became of one shard's pictures."""

    parts: tuple[Part, ...]
    ingested: int
    rejected: int
    same: int  # known pictures whose content is as it was, under another etag
    failed: int  # not fetched; tried again the next night
    unreadable: int  # of these, the ones that the store refuses, and would again
    failed_known: int  # of the others, the ones of which the table holds an earlier state
    damaged: int  # of the rejected, the ones that were live
    first_unreadable: tuple[tuple[str, str], ...]  # keys and reasons, a few
    first_damaged: tuple[tuple[str, str], ...]
    times: tuple[StageTime, ...] = field(default=(), compare=False)


def ingest_shard(
    lake: Lake, source: str, run_id: str, shard: Shard, ingested_at: datetime, config: IngestConfig
) -> IngestedShard:
    """Fetch and decode the shard's pictures and write them as one part, not yet committed."""
    started, writing = time.perf_counter(), Stopwatch("write")
    work = read_shard(lake.store, shard)
    objects, times = read_objects(open_store(source), work, config)
    rows = image_rows(work, objects, ingested_at, config.product_id_pattern)
    parts = []
    if rows.num_rows:
        with writing.busy():
            parts = [lake.images.write_part(rows, f"{run_id}-{shard.number:05d}")]
    elapsed = time.perf_counter() - started
    spent = (*times, writing.read())
    shard_read = replace(
        _counted(work, objects),
        parts=tuple(parts),
        times=tuple(replace(stage, waiting_s=elapsed - stage.busy_s) for stage in spent),
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


def _counted(work: pa.Table, objects: Sequence[ReadObject | None]) -> IngestedShard:
    """The counts of a shard, without its parts and times."""
    asked = list(
        zip(objects, *(work[name].to_pylist() for name in ("image_key", "known", "was", "own_sha256")), strict=True)
    )
    read = [(found, key, was, own) for found, key, _, was, own in asked if found is not None]
    unreadable = [(key, found.reason or "") for found, key, _, _ in read if found.is_refused]
    damaged = [(key, found.reason or "") for found, key, was, _ in read if found.status == "rejected" and was == "ok"]
    same = sum(found.status == "ok" and was == "ok" and found.sha256 == own for found, _, was, own in read)
    return IngestedShard(
        parts=(),
        ingested=sum(found.status == "ok" for found, *_ in read) - same,
        rejected=sum(found.status == "rejected" for found, *_ in read),
        same=same,
        failed=len(asked) - len(read) + len(unreadable),
        unreadable=len(unreadable),
        failed_known=sum(found is None and known for found, _, known, _, _ in asked),
        damaged=len(damaged),
        first_unreadable=tuple(unreadable[:NAMED]),
        first_damaged=tuple(damaged[:NAMED]),
    )


def check_answers(source: str, config: IngestConfig, plan: IngestPlan, shards: Sequence[IngestedShard]) -> None:
    """Raise where not one of the pictures asked for was read because the source as a whole is away."""
    failed, unreadable = sum(shard.failed for shard in shards), sum(shard.unreadable for shard in shards)
    if failed and failed == plan.new + plan.changed:
        require_answers(Source(source, config.exclude), None if unreadable else plan.witnesses)


def commit_images(lake: Lake, run_id: str, plan: IngestPlan, shards: list[IngestedShard]) -> None:
    """Make the run's rows visible in one transaction. Raises CountsDisagree before anything is committed."""
    handled = sum(shard.ingested + shard.rejected + shard.same + shard.failed for shard in shards)
    if plan.listed != plan.unchanged + handled:
        raise CountsDisagree(
            f"ingest lost count: listed {plan.listed}, but {plan.unchanged} unchanged + {handled} handled; "
            "nothing was committed, run it again"
        )
    parts = [part for shard in shards for part in shard.parts]
    lake.images.commit([*parts, *plan.tombstones, *plan.restated], application_id=f"ingest-{run_id}")
    left = sum(shard.failed_known + shard.unreadable for shard in shards)  # known pictures whose rows are as they were
    keep_pattern(lake, replace(plan.products, is_applied=plan.products.pattern is None or not left))


def check_images(lake: Lake, plan: IngestPlan, shards: list[IngestedShard]) -> int:
    """Count the table again after the commit; the number of live pictures. Raises CountsDisagree."""
    with catalogue.workbench(lake) as sql:
        counted = sql.execute(
            """
            SELECT count(*) FILTER (newest <> 'deleted'), count(*) FILTER (known = 'ok')
            FROM (SELECT arg_max(status, ingested_at) AS newest,
                         arg_max(status, ingested_at) FILTER (status <> 'unreadable') AS known
                  FROM image_history GROUP BY image_key)
            """  # of newest_images, without its join: half the memory
        ).fetchone()
    known, live = counted or (0, 0)
    handled = (shard.ingested + shard.rejected + shard.same + shard.unreadable + shard.failed_known for shard in shards)
    expected = plan.unchanged + plan.unlisted + sum(handled)
    if known != expected:
        raise CountsDisagree(
            f"the images table holds {known} pictures where this run left {expected}: another ingest ran at the "
            "same time; run it again"
        )
    return int(live)
