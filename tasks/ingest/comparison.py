"""The source's listing beside the images table, both in DuckDB, which spills what does not fit."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from lake.listing import LISTING, PassedOver
from tasks.ingest.source import TWICE, Passed, Source
from tasks.timing import Stopwatch

logger = logging.getLogger(__name__)

MOST_WITNESSES = 3

# Each name once: a store that lists one twice (two spellings of it, a gateway's fault) would give it two rows.
TWICE_LISTED = """
    CREATE TEMP TABLE twice AS SELECT path, count(*) - 1 AS more FROM {listing} GROUP BY path HAVING count(*) > 1
"""
LISTED = """
    CREATE OR REPLACE VIEW listing AS
    SELECT path AS image_key, * EXCLUDE (path) FROM '{file}' ANTI JOIN twice USING (path)
    UNION ALL
    SELECT path, * EXCLUDE (path) FROM '{file}' SEMI JOIN twice USING (path)
    QUALIFY row_number() OVER (PARTITION BY path ORDER BY size_bytes DESC, etag) = 1
"""
# What the table says of each key that it does not hold as deleted.
KNOWN = """
    CREATE TEMP TABLE known AS
    SELECT image_key, etag, size_bytes, status, CASE WHEN status = 'unreadable' THEN reason END AS refused
    FROM newest_images WHERE status <> 'deleted'
"""
# What an unreadable object was when it could still be read: no row where it never could.
BEFORE = """
    CREATE TEMP TABLE before AS
    SELECT image_key, status FROM {history}
    SEMI JOIN (SELECT image_key FROM known WHERE status = 'unreadable') USING (image_key)
    WHERE status <> 'unreadable'
    QUALIFY row_number() OVER (PARTITION BY image_key ORDER BY ingested_at DESC) = 1
"""
# `was`: ok or rejected, NULL where nothing is known of what the object holds.
STATES = """
    CREATE VIEW states AS
    SELECT known.image_key, known.etag, known.size_bytes,
           CASE WHEN known.status <> 'unreadable' THEN known.status
                WHEN before.status <> 'deleted' THEN before.status END AS was
    FROM known LEFT JOIN before USING (image_key)
"""
TO_READ = """
    CREATE TEMP TABLE to_read AS
    SELECT listing.*, known.image_key IS NOT NULL AS known, known.refused AS last_reason, known.etag AS last_etag
    FROM listing LEFT JOIN known USING (image_key)
    WHERE known.image_key IS NULL OR known.status = 'unreadable' OR known.etag IS DISTINCT FROM listing.etag
       OR known.size_bytes IS DISTINCT FROM listing.size_bytes
"""
# Beside each object to be read: what its last row says, and which content it most likely has again, which is that of
# a row with its etag and size (renamed, put back), else its own (a touched file).
WORK = """
    CREATE TEMP TABLE work AS
    WITH
    contents AS (
        SELECT image_key, etag, size_bytes, ingested_at, {{'sha256': sha256, 'width': width, 'height': height,
               'format': format, 'reason': reason}} AS stored
        FROM {history} WHERE status = 'ok'),
    twins AS (
        SELECT etag, size_bytes, arg_max(stored, ingested_at) AS stored
        FROM contents SEMI JOIN to_read USING (etag, size_bytes) GROUP BY etag, size_bytes),
    own AS (
        SELECT image_key, arg_max(stored, ingested_at) AS stored
        FROM contents SEMI JOIN to_read USING (image_key) GROUP BY image_key)
    SELECT to_read.*, states.was, own.stored.sha256 AS own_sha256,
           coalesce(twins.stored, own.stored) AS stored
    FROM to_read LEFT JOIN states USING (image_key) LEFT JOIN twins
         ON twins.etag = to_read.etag AND twins.size_bytes = to_read.size_bytes
    LEFT JOIN own ON own.image_key = to_read.image_key
"""
# Known and no longer listed, unless it lies where nobody could look.
GONE = """
    CREATE TEMP TABLE missing AS
    SELECT image_key, was, EXISTS (
        FROM unlisted WHERE missing.image_key = folder OR starts_with(missing.image_key, folder || '/')) AS is_unlisted
    FROM (FROM states ANTI JOIN listing USING (image_key)) AS missing
"""
PRODUCTS = """
    SELECT image_key, product_id FROM known_images
    WHERE status <> 'deleted' AND image_key NOT IN (SELECT image_key FROM work)
      AND image_key NOT IN (SELECT image_key FROM missing WHERE NOT is_unlisted)
"""
RESTATED = """
    SELECT known_images.* REPLACE (renamed.product_id AS product_id, known_images.status = 'ok' AS pixels_elsewhere)
    FROM known_images JOIN renamed USING (image_key) ORDER BY image_key
"""


class Comparison:
    """What a listing asks for, found out in DuckDB's tables `known`, `work` and `missing`."""

    def __init__(self, source: Source, sql: duckdb.DuckDBPyConnection) -> None:
        self._source = source
        self._sql = sql
        self.passed = Passed()
        self.listing = Stopwatch("list")

    def load(self, folder: Path) -> None:
        """List the source into a file and lay it beside the table."""
        file = folder / "listing.parquet"
        with self.listing.busy(), pq.ParquetWriter(file, LISTING) as writer:
            for page in self._source.pictures(self.passed):
                if page.num_rows:
                    writer.write_batch(page)
        # A directory has each name once: they need not be counted.
        counted = f"'{file}'" if self._source.store.directory is None else f"(FROM '{file}' LIMIT 0)"
        self._sql.execute(TWICE_LISTED.format(listing=counted))
        self._sql.execute(f"CREATE VIEW listing AS SELECT path AS image_key, * EXCLUDE (path) FROM '{file}'")
        if self.count("twice"):
            self._sql.execute(LISTED.format(file=file))
        for path, more in self._sql.execute("FROM twice ORDER BY path").fetchall():
            logger.warning("%s is listed %d times and taken once", path, more + 1)
            self.passed.some([path] * more, TWICE)
        unlisted = pa.table({"folder": pa.array([one.path for one in self.passed.unreadable], pa.string())})
        self._sql.register("unlisted", unlisted)
        self._sql.execute(KNOWN)
        self._sql.execute(BEFORE.format(history=self._history("known WHERE status = 'unreadable'")))
        self._sql.execute(STATES)
        self._sql.execute(TO_READ)
        self._sql.execute(WORK.format(history=self._history("to_read")))
        self._sql.execute(GONE)

    def _history(self, asked: str) -> str:
        """The images' history for whoever asks it about these rows: on most nights it is not read."""
        return "image_history" if self.count(asked) else "(FROM image_history LIMIT 0)"

    @property
    def unreadable(self) -> tuple[PassedOver, ...]:
        """The folders that could not be listed."""
        return tuple(sorted(self.passed.unreadable, key=lambda one: one.path))

    def count(self, relation: str) -> int:
        """How many rows a table has, perhaps under a condition."""
        found = self._sql.execute(f"SELECT count(*) FROM {relation}").fetchone()
        return 0 if found is None else int(found[0])

    def next_time(self) -> datetime:
        """A time later than every row's, whatever the clock does: "newest" is decided by it."""
        found = self._sql.execute("SELECT max(ingested_at) FROM image_history").fetchone()
        now = datetime.now(UTC)
        if found is None or found[0] is None:
            return now
        newest: datetime = found[0]
        return max(now, newest + timedelta(microseconds=1))

    def witnesses(self) -> tuple[str, ...]:
        """Some pictures that are as they were, the smallest: a source that still hands them out is there."""
        rows = self._sql.execute(
            "SELECT image_key FROM listing ANTI JOIN work USING (image_key) "
            f"ORDER BY size_bytes, image_key LIMIT {MOST_WITNESSES}"
        ).fetchall()
        return tuple(key for (key,) in rows)

    def work(self, rows: int) -> Iterator[pa.RecordBatch]:
        """What is to be read, in the keys' order."""
        yield from self._sql.execute("FROM work ORDER BY image_key").to_arrow_reader(rows)

    def gone(self, rows: int) -> Iterator[pa.RecordBatch]:
        """The keys of known pictures that the source no longer has."""
        query = "SELECT image_key FROM missing WHERE NOT is_unlisted ORDER BY image_key"
        yield from self._sql.execute(query).to_arrow_reader(rows)

    def products(self, rows: int) -> Iterator[pa.RecordBatch]:
        """The key and product of each known picture that stays as it is."""
        yield from self._sql.execute(PRODUCTS).to_arrow_reader(rows)

    def restated(self, renamed: pa.Table, rows: int) -> Iterator[pa.RecordBatch]:
        """Rows of `images` that say of these keys what they said before, with another product."""
        self._sql.register("renamed", renamed)
        yield from self._sql.execute(RESTATED).to_arrow_reader(rows)
