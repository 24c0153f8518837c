"""What a listing of the source asks for: new and changed pictures in shards, tombstones for the deleted ones."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from lake import catalogue
from lake.lake import Lake
from lake.listing import PassedOver
from lake.scratch import scratch
from lake.tables import Part
from tasks.errors import SourceError
from tasks.ingest.comparison import Comparison
from tasks.ingest.config import IngestConfig
from tasks.ingest.products import ProductPattern, choose_pattern, renamed, restated
from tasks.ingest.rows import tombstones
from tasks.ingest.source import Source, no_pictures
from tasks.shards import Shard, in_tables, write_shard
from tasks.timing import StageTime

TOMBSTONES_A_PART = 100_000


@dataclass(frozen=True)
class IngestPlan:
    """What one listing of the source asks for."""

    source: str
    listed: int
    skipped: int  # objects that are passed over
    skipped_by_kind: Mapping[str, int]
    unreadable_folders: tuple[PassedOver, ...]
    unchanged: int
    new: int
    changed: int
    known: int  # pictures that the table held before and whose content is known, decodable or not
    live: int  # of these, the decodable ones
    deleted: int
    deleted_live: int
    unlisted: int  # known pictures in folders that could not be listed: they stay as they are
    ingested_at: datetime
    products: ProductPattern
    witnesses: tuple[str, ...] = ()  # some of the unchanged pictures
    shards: tuple[Shard, ...] = ()
    tombstones: tuple[Part, ...] = ()
    renamed: int = 0  # unchanged pictures that belong to another product by a pattern that has changed
    restated: tuple[Part, ...] = ()  # their rows
    times: tuple[StageTime, ...] = field(default=(), compare=False)


def plan_ingest(lake: Lake, source: str, run_id: str, config: IngestConfig) -> IngestPlan:
    """List the source and write the shards of work, the tombstones and the renamed rows. Raises SourceError."""
    started = time.perf_counter()
    with _compared(lake, source, config) as comparison:
        plan = _counted(lake, source, config, comparison)
        _check_source(plan, config, comparison)
        writer = _Writer(lake, run_id, comparison, comparison.next_time())
        plan = replace(
            plan,
            ingested_at=writer.ingested_at,
            witnesses=comparison.witnesses(),
            shards=tuple(writer.shards(config.shard_pictures)),
            tombstones=tuple(writer.tombstones()),
        )
        restated = tuple(writer.restated(plan.products))
        plan = replace(plan, restated=restated, renamed=sum(part.rows for part in restated))
        listing = comparison.listing.read()
    comparing_s = time.perf_counter() - started - listing.busy_s
    return replace(plan, times=(replace(listing, waiting_s=0.0), StageTime("compare", comparing_s, 0.0)))


def preview_ingest(lake: Lake, source: str, config: IngestConfig) -> IngestPlan:
    """What `plan_ingest` would say, without writing anything."""
    with _compared(lake, source, config) as comparison:
        plan = _counted(lake, source, config, comparison)
        _check_source(plan, config, comparison)
        plan = replace(plan, witnesses=comparison.witnesses())
        if plan.products.pattern is None or plan.products.is_applied:
            return plan
        return replace(plan, renamed=renamed(comparison, plan.products.pattern).num_rows)


@contextmanager
def _compared(lake: Lake, source: str, config: IngestConfig) -> Iterator[Comparison]:
    with (
        scratch() as folder,
        catalogue.workbench(lake) as sql,
    ):
        comparison = Comparison(Source(source, config.exclude), sql)
        comparison.load(folder)
        yield comparison


def _counted(lake: Lake, source: str, config: IngestConfig, comparison: Comparison) -> IngestPlan:
    """The counts, without what is to be written."""
    listed, work = comparison.count("listing"), comparison.count("work")
    changed = comparison.count("work WHERE was IS NOT NULL")
    return IngestPlan(
        source=source,
        listed=listed,
        skipped=comparison.passed.count,
        skipped_by_kind=comparison.passed.by_kind(),
        unreadable_folders=comparison.unreadable,
        unchanged=listed - work,
        new=work - changed,
        changed=changed,
        known=comparison.count("states WHERE was IS NOT NULL"),
        live=comparison.count("states WHERE was = 'ok'"),
        deleted=comparison.count("missing WHERE NOT is_unlisted"),
        deleted_live=comparison.count("missing WHERE NOT is_unlisted AND was = 'ok'"),
        unlisted=comparison.count("missing WHERE is_unlisted"),
        ingested_at=datetime.now(UTC),
        products=choose_pattern(lake, config.product_id_pattern),
    )


class _Writer:
    """Writes what a comparison found into the lake, not yet committed."""

    def __init__(self, lake: Lake, run_id: str, comparison: Comparison, ingested_at: datetime) -> None:
        self._lake = lake
        self._run_id = run_id
        self._comparison = comparison
        self.ingested_at = ingested_at

    def shards(self, rows: int) -> Iterator[Shard]:
        """The work in shards, in the keys' order."""
        for number, table in enumerate(in_tables(self._comparison.work(rows), rows)):
            yield write_shard(self._lake.store, self._run_id, "ingest", number, table)

    def tombstones(self) -> Iterator[Part]:
        """One row for each known picture that the source no longer has."""
        gone = self._comparison.gone(TOMBSTONES_A_PART)
        for number, keys in enumerate(in_tables(gone, TOMBSTONES_A_PART)):
            rows = tombstones(keys["image_key"], self.ingested_at)
            yield self._lake.images.write_part(rows, f"{self._run_id}-deleted-{number:05d}")

    def restated(self, products: ProductPattern) -> Iterator[Part]:
        """One row for each picture that stays as it is and belongs to another product than its row says."""
        if products.pattern is None or products.is_applied:
            return
        changed = renamed(self._comparison, products.pattern)
        for number, rows in enumerate(restated(self._comparison, changed, self.ingested_at)):
            yield self._lake.images.write_part(rows, f"{self._run_id}-renamed-{number:05d}")


def _check_source(plan: IngestPlan, config: IngestConfig, comparison: Comparison) -> None:
    """Raise SourceError where the source is empty or lost too much at once."""
    if plan.listed == 0:
        raise no_pictures(plan.source, comparison.passed)
    lost, had = (plan.deleted_live, plan.live) if plan.live else (plan.deleted, plan.known)
    if lost > config.max_deleted_share * had:
        raise SourceError(
            f"the source {plan.source} lacks {lost} of the {had} pictures that the lake knows: "
            "if that is meant, allow it with --max-deleted-share 1; another catalogue needs a lake of its own"
        )
