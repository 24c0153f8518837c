"""What a listing of the source asks for: new and changed pictures in shards, tombstones for the deleted ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from lake import catalogue
from lake.lake import Lake
from lake.listing import LISTING
from lake.scratch import scratch
from lake.tables import Part
from tasks.errors import SourceError
from tasks.ingest.config import IngestConfig
from tasks.ingest.rows import tombstones
from tasks.ingest.source import are_pictures, no_pictures, open_source
from tasks.shards import Shard, in_tables, write_shard
from tasks.timing import StageTime, Stopwatch

TOMBSTONES_A_PART = 100_000


@dataclass(frozen=True)
class IngestPlan:
    """What one listing of the source asks for."""

    source: str
    listed: int
    skipped: int  # objects that are no pictures by their name
    unchanged: int
    new: int
    changed: int
    known: int  # pictures that the table held before, decodable or not
    deleted: int
    ingested_at: datetime
    shards: tuple[Shard, ...]
    tombstones: tuple[Part, ...]
    times: tuple[StageTime, ...] = field(default=(), compare=False)


def plan_ingest(lake: Lake, source: str, run_id: str, config: IngestConfig) -> IngestPlan:
    """List the source and write the shards of work and the tombstones. Raises SourceError."""
    started = time.perf_counter()
    with _compared(lake, source, config) as comparison:
        plan = comparison.plan()
        ingested_at = comparison.next_time()
        plan = replace(
            plan,
            ingested_at=ingested_at,
            shards=tuple(comparison.write_shards(run_id)),
            tombstones=tuple(comparison.write_tombstones(run_id, ingested_at)),
        )
        listing = comparison.listing.read()
    comparing_s = time.perf_counter() - started - listing.busy_s
    return replace(plan, times=(replace(listing, waiting_s=0.0), StageTime("compare", comparing_s, 0.0)))


def preview_ingest(lake: Lake, source: str, config: IngestConfig) -> IngestPlan:
    """What `plan_ingest` would say, without writing anything."""
    with _compared(lake, source, config) as comparison:
        return comparison.plan()


class _Comparison:
    """The source's listing beside the images table, both in DuckDB, which spills what does not fit."""

    def __init__(self, lake: Lake, source: str, config: IngestConfig, sql: duckdb.DuckDBPyConnection) -> None:
        self._lake = lake
        self._source = source
        self._config = config
        self._sql = sql
        self._skipped = 0
        self.listing = Stopwatch("list")

    def load(self, folder: Path) -> None:
        """List the source into a file and lay it beside the table."""
        listing = folder / "listing.parquet"
        with self.listing.busy(), pq.ParquetWriter(listing, LISTING) as writer:
            for page in open_source(self._source).listing():
                found = page.filter(are_pictures(page))
                self._skipped += page.num_rows - found.num_rows
                if found.num_rows:
                    writer.write_batch(found)
        self._sql.execute(f"CREATE VIEW listing AS SELECT path AS image_key, * EXCLUDE (path) FROM '{listing}'")
        self._sql.execute(
            """
            CREATE TEMP TABLE known AS
            SELECT image_key, etag, size_bytes FROM newest_images WHERE status <> 'deleted'
            """
        )
        self._sql.execute(
            """
            CREATE TEMP TABLE work AS
            SELECT listing.*, known.image_key IS NOT NULL AS known FROM listing LEFT JOIN known USING (image_key)
            WHERE known.image_key IS NULL OR known.etag IS DISTINCT FROM listing.etag
               OR known.size_bytes IS DISTINCT FROM listing.size_bytes
            """
        )

    def plan(self) -> IngestPlan:
        """The counts, without shards. Raises SourceError where the source is empty or lost too much at once."""
        listed, known = self._count("listing"), self._count("known")
        changed, work = self._count("work WHERE known"), self._count("work")
        deleted = self._count("known ANTI JOIN listing USING (image_key)")
        plan = IngestPlan(
            source=self._source,
            listed=listed,
            skipped=self._skipped,
            unchanged=listed - work,
            new=work - changed,
            changed=changed,
            known=known,
            deleted=deleted,
            ingested_at=datetime.now(UTC),
            shards=(),
            tombstones=(),
        )
        _check_source(plan, self._config)
        return plan

    def next_time(self) -> datetime:
        """A time later than every row's, whatever the clock does: "newest" is decided by it."""
        found = self._sql.execute("SELECT max(ingested_at) FROM image_history").fetchone()
        now = datetime.now(UTC)
        if found is None or found[0] is None:
            return now
        newest: datetime = found[0]
        return max(now, newest + timedelta(microseconds=1))

    def write_shards(self, run_id: str) -> Iterator[Shard]:
        """The work in shards, in the keys' order."""
        rows = self._sql.execute("FROM work ORDER BY image_key").to_arrow_reader(self._config.shard_pictures)
        for number, table in enumerate(in_tables(rows, self._config.shard_pictures)):
            yield write_shard(self._lake.store, run_id, "ingest", number, table)

    def write_tombstones(self, run_id: str, ingested_at: datetime) -> Iterator[Part]:
        """One row for each known picture that the source no longer has."""
        gone = self._sql.execute(
            "SELECT image_key FROM known ANTI JOIN listing USING (image_key) ORDER BY image_key"
        ).to_arrow_reader(TOMBSTONES_A_PART)
        for number, keys in enumerate(in_tables(gone, TOMBSTONES_A_PART)):
            rows = tombstones(keys["image_key"], ingested_at)
            yield self._lake.images.write_part(rows, f"{run_id}-deleted-{number:05d}")

    def _count(self, relation: str) -> int:
        found = self._sql.execute(f"SELECT count(*) FROM {relation}").fetchone()
        return 0 if found is None else int(found[0])


@contextmanager
def _compared(lake: Lake, source: str, config: IngestConfig) -> Iterator[_Comparison]:
    with (
        scratch() as folder,
        catalogue.workbench(lake) as sql,
    ):
        comparison = _Comparison(lake, source, config, sql)
        comparison.load(Path(folder))
        yield comparison


def _check_source(plan: IngestPlan, config: IngestConfig) -> None:
    if plan.listed == 0:
        raise no_pictures(plan.source, plan.skipped)
    if plan.deleted > config.max_deleted_share * plan.known:
        raise SourceError(
            f"the source {plan.source} lacks {plan.deleted} of the {plan.known} pictures that the lake knows: "
            "if that is meant, allow it with --max-deleted-share 1; another catalogue needs a lake of its own"
        )
