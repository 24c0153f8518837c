"""From objects to rows of `images`: compare the listing with the table, fetch, decode, write, commit.

A picture that can't be decoded becomes a row that says why. An object that can't be fetched becomes no row at
all, so that the next night tries it again.
"""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lake import catalogue
from lake.errors import LakeError, ObjectNotFound, StoreUnavailable
from lake.lake import Lake
from lake.listing import LISTING
from lake.schemas import IMAGES, UTC_TIME
from lake.store import Store, open_store
from lake.tables import Part
from model.errors import Undecodable
from model.pictures.decode import get_ready
from model.pictures.formats import PICTURE_SUFFIXES
from tasks import progress
from tasks.errors import CountsDisagree, SourceError
from tasks.ingest.config import IngestConfig
from tasks.ingest.pipeline import Lanes, Pipeline
from tasks.pictures import StoredPicture, read_picture
from tasks.shards import Shard, in_tables, read_shard, write_shard
from tasks.timing import StageTime, Stopwatch

logger = logging.getLogger(__name__)

UNREADABLE_SUFFIXES = frozenset({".heic", ".heif", ".svg", ".jxl", ".jp2", ".psd", ".eps", ".ico"})
MAX_FAILED_IN_A_ROW = 64
# An object store answers many requests at once, each after tens of milliseconds. A directory answers at once, and more
# threads would only wait for each other and for the decoders.
REMOTE_FETCH_THREADS, LOCAL_FETCH_THREADS = 64, 4
TOMBSTONES_A_PART = 100_000

LISTED = ("image_key", "etag", "size_bytes", "last_modified")  # what a row of `images` takes from the listing


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


@dataclass(frozen=True)
class IngestedShard:
    """What became of one shard's pictures."""

    parts: tuple[Part, ...]
    ingested: int
    rejected: int
    failed: int  # could not be fetched; tried again the next night
    failed_known: int  # of these, the ones of which the table holds an earlier state
    times: tuple[StageTime, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class ReadObject:
    """What was found out about one object by reading it."""

    sha256: str | None = None  # None where it was not even fetched
    reason: str | None = None  # why it is no picture
    picture: StoredPicture | None = None


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


def ingest_shard(
    lake: Lake, source: str, run_id: str, shard: Shard, ingested_at: datetime, config: IngestConfig
) -> IngestedShard:
    """Fetch and decode the shard's pictures and write them as one part, not yet committed."""
    started, loading, writing = time.perf_counter(), Stopwatch("load PyTorch"), Stopwatch("write")
    with loading.busy():
        get_ready()
    work = read_shard(lake.store, shard)
    found, times = _read_objects(open_store(source), work, config)
    rows = _image_rows(work, found, ingested_at, config.product_id_pattern)
    parts = []
    if rows.num_rows:
        with writing.busy():
            parts = [lake.images.write_part(rows, f"{run_id}-{shard.number:05d}")]
    elapsed = time.perf_counter() - started
    done = IngestedShard(
        parts=tuple(parts),
        ingested=sum(read is not None and read.picture is not None for read in found),
        rejected=sum(read is not None and read.picture is None for read in found),
        failed=found.count(None),
        failed_known=sum(read is None and known for read, known in zip(found, work["known"].to_pylist(), strict=True)),
        times=tuple(
            replace(spent, waiting_s=elapsed - spent.busy_s) for spent in (loading.read(), *times, writing.read())
        ),
    )
    level = logging.WARNING if done.failed else logging.INFO
    message = "shard %d: %d ingested, %d rejected, %d not fetched, %.0f objects/s"
    logger.log(level, message, shard.number, done.ingested, done.rejected, done.failed, work.num_rows / elapsed)
    return done


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


def are_pictures(listed: pa.RecordBatch) -> pa.BooleanArray:
    """Which objects of a listing are taken for pictures by their names: a picture's suffix, or none at all.

    Pictures of kinds that are not read here count, too: they are pictures to their owner, and are rejected with a
    reason rather than passed over.
    """
    paths = listed["path"]
    suffixed = pc.match_substring_regex(paths, _PICTURE_NAME, ignore_case=True)
    # An empty object without a suffix is how S3 browsers mark a folder.
    bare = pc.and_(pc.match_substring_regex(paths, _NO_SUFFIX), pc.greater(listed["size_bytes"], 0))
    hidden = pc.match_substring_regex(paths, _HIDDEN)
    return pc.and_not(pc.or_(suffixed, bare), hidden)


_PICTURE_NAME = rf"(?:{'|'.join(map(re.escape, sorted(PICTURE_SUFFIXES | UNREADABLE_SUFFIXES)))})$"
_NO_SUFFIX = r"(?:^|/)(?:[^/.]+|[^/]*\.)$"
_HIDDEN = r"(?:^|/)\."


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
            rows = pa.table(
                {
                    name: keys["image_key"] if name == "image_key" else pa.nulls(keys.num_rows, IMAGES.field(name).type)
                    for name in IMAGES.names
                }
            )
            rows = _filled(_filled(rows, "status", "deleted"), "ingested_at", ingested_at)
            yield self._lake.images.write_part(rows, f"{run_id}-deleted-{number:05d}")

    def _count(self, relation: str) -> int:
        found = self._sql.execute(f"SELECT count(*) FROM {relation}").fetchone()
        return 0 if found is None else int(found[0])


@contextmanager
def _compared(lake: Lake, source: str, config: IngestConfig) -> Iterator[_Comparison]:
    with (
        tempfile.TemporaryDirectory(prefix="vitrine-") as folder,
        catalogue.workbench(lake) as sql,
    ):
        comparison = _Comparison(lake, source, config, sql)
        comparison.load(Path(folder))
        yield comparison


def open_source(source: str) -> Store:
    """The pictures' store. Raises SourceError where there is none."""
    try:
        return open_store(source)
    except ObjectNotFound as error:
        raise SourceError(f"the source {source} does not exist: expected a directory or s3://bucket/prefix") from error


def require_pictures(source: str) -> None:
    """Raise SourceError where the source is not there or holds no picture; stops listing at the first one."""
    skipped = 0
    for page in open_source(source).listing():
        if any(are_pictures(page).to_pylist()):
            return
        skipped += page.num_rows
    raise _no_pictures(source, skipped)


def _no_pictures(source: str, skipped: int) -> SourceError:
    passed = f"; {skipped} objects there have other names" if skipped else ""
    return SourceError(f"the source {source} has no pictures{passed}: expected files such as .jpg, .png or .webp")


def _check_source(plan: IngestPlan, config: IngestConfig) -> None:
    if plan.listed == 0:
        raise _no_pictures(plan.source, plan.skipped)
    if plan.deleted > config.max_deleted_share * plan.known:
        raise SourceError(
            f"the source {plan.source} lacks {plan.deleted} of the {plan.known} pictures that the lake knows: "
            "if that is meant, allow it with --max-deleted-share 1; another catalogue needs a lake of its own"
        )


def _read_objects(
    pictures: Store, work: pa.Table, config: IngestConfig
) -> tuple[list[ReadObject | None], tuple[StageTime, ...]]:
    """What each object of the shard is, None where it could not be fetched; and how long the stages took."""
    keys, sizes = work["image_key"].to_pylist(), work["size_bytes"].to_pylist()
    too_large = [size > config.max_object_bytes for size in sizes]
    outage = _Outage()

    def fetch(number: int) -> bytes | LakeError | None:
        if too_large[number]:
            return None
        return outage.watched(_fetched(pictures, keys[number]))

    def read(number: int, data: bytes | LakeError | None) -> ReadObject | None:
        progress.advance(1)
        if data is None:
            return ReadObject(reason=_too_large(sizes[number], config.max_object_bytes))
        if isinstance(data, LakeError):
            logger.info("%s was not fetched and will be tried again: %s", keys[number], data)
            return None
        return _read(data)

    lanes = Lanes(config.fetch_threads or fetch_threads(pictures), config.decode_threads, config.bytes_in_flight)
    to_fetch = [0 if large else size for size, large in zip(sizes, too_large, strict=True)]
    return Pipeline(to_fetch, fetch, read, lanes).run()


def fetch_threads(source: Store) -> int:
    """How many objects of a shard are best read at once from where they lie."""
    return REMOTE_FETCH_THREADS if source.directory is None else LOCAL_FETCH_THREADS


def _fetched(pictures: Store, key: str) -> bytes | LakeError:
    try:
        return pictures.get(key)
    except LakeError as error:
        return error


class _Outage:
    """Notices that the source itself is gone: so many objects in a row could not be fetched."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._lock = threading.Lock()

    def watched(self, fetched: bytes | LakeError) -> bytes | LakeError:
        """What was fetched, as it is. Raises StoreUnavailable where nothing comes any more."""
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if isinstance(fetched, StoreUnavailable) else 0
        if isinstance(fetched, StoreUnavailable) and self._in_a_row > MAX_FAILED_IN_A_ROW:
            raise StoreUnavailable(f"{self._in_a_row} objects in a row could not be fetched, the last: {fetched}")
        return fetched


def _too_large(size_bytes: int, most_bytes: int) -> str:
    return f"too large: {size_bytes / 2**20:.0f} MB, at most {most_bytes // 2**20} MB"


def _read(data: bytes) -> ReadObject:
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        return ReadObject(sha256, picture=read_picture(data))
    except Undecodable as error:
        return ReadObject(sha256, error.reason)


def _image_rows(
    work: pa.Table, found: Sequence[ReadObject | None], ingested_at: datetime, pattern: str | None
) -> pa.Table:
    """Rows of `images` for the objects that could be fetched."""
    listed = work.select(list(LISTED)).filter(pa.array([read is not None for read in found], pa.bool_()))
    reads = [read for read in found if read is not None]
    pictures = [read.picture for read in reads]
    columns: dict[str, Any] = {name: listed[name] for name in LISTED}
    columns |= {
        "sha256": [read.sha256 for read in reads],
        "product_id": [product_id(key, pattern) for key in listed["image_key"].to_pylist()],
        "status": ["rejected" if picture is None else "ok" for picture in pictures],
        "reason": [read.reason for read in reads],
        "ingested_at": pa.repeat(pa.scalar(ingested_at, UTC_TIME), len(reads)),
    }
    for name in ("width", "height", "format", "pixels"):
        columns[name] = [getattr(picture, name, None) for picture in pictures]
    return pa.table({name: columns[name] for name in IMAGES.names}, schema=IMAGES)


def product_id(image_key: str, pattern: str | None) -> str | None:
    """The product that a key names: the pattern's first group, None where it does not match."""
    match = re.search(pattern, image_key) if pattern else None
    return match[1] if match else None


def _filled(rows: pa.Table, column: str, value: Any) -> pa.Table:
    """The rows with one column set to one value throughout."""
    kind = IMAGES.field(column).type
    filled = pa.repeat(pa.scalar(value, kind), rows.num_rows)
    return rows.set_column(rows.schema.get_field_index(column), column, filled)
