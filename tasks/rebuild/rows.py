"""The rows that live and the rows that the last version's shards hold, compared by their keys and contents in DuckDB.

Nothing of a vector is read here. Each function works on the temporary tables that the ones before it made: `live`,
then `held` and `alive`, then `kept`. Strings are compared once, where `held` is made; from there on a live picture is
its row in `live`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from lake import catalogue
from lake.errors import LakeError

MEMORY_LIMIT = "4GB"

LIVE = """
    CREATE TEMP TABLE live AS SELECT image_key, product_id, sha256, url, row
    FROM images LEFT JOIN located_embeddings({look}) USING (sha256)
"""
# md5 is no security here: it spells the same number on every machine, and XOR does not mind the order.
CONTENT = """
    SELECT count(*), count(url),
           coalesce(bit_xor(md5_number(concat_ws(chr(0), image_key, sha256, coalesce(product_id, '')))), 0)
    FROM live
"""
# The rows of the last version's shards, deleted ones too: a picture that comes back finds its row again. `live` is
# NULL where the row's picture has gone.
HELD = """
    CREATE OR REPLACE TEMP TABLE held AS
    SELECT files.shard, stored.file_row_number AS row, live.rowid AS live
    FROM read_parquet({urls}, filename = true, file_row_number = true, hive_partitioning = false) AS stored
    JOIN files USING (filename)
    LEFT JOIN live ON stored.image_key = live.image_key AND stored.sha256 = live.sha256
         AND stored.product_id IS NOT DISTINCT FROM live.product_id
"""
NOTHING_HELD = """
    CREATE OR REPLACE TEMP TABLE held (shard INTEGER, row BIGINT, live BIGINT)
"""
ALIVE = """
    CREATE OR REPLACE TEMP TABLE alive AS
    SELECT live, place.shard AS shard, place.row AS row
    FROM (SELECT live, min({'shard': shard, 'row': row}) AS place FROM held WHERE live IS NOT NULL GROUP BY live)
"""
NEW = """
    FROM live ANTI JOIN alive ON live.rowid = alive.live
"""
TO_WRITE = """
    SELECT image_key, product_id, sha256, url, row
    FROM live ANTI JOIN (FROM alive SEMI JOIN kept USING (shard)) AS alive ON live.rowid = alive.live
    ORDER BY url, row, image_key
"""
DELETED = """
    SELECT kept.number::INTEGER AS shard, row::INTEGER AS row
    FROM held JOIN kept USING (shard) ANTI JOIN alive ON held.shard = alive.shard AND held.row = alive.row
    ORDER BY 1, 2
"""


def read_live(sql: Any, look: int) -> tuple[int, int]:
    """Bring the live rows into `live`; how many, and a number for their content.

    Raises:
        LakeError: a live picture has no embedding under the look.
    """
    sql.execute(LIVE.format(look=int(look)))
    rows, embedded, content = sql.execute(CONTENT).fetchone()
    if embedded != rows:
        raise LakeError(
            f"{rows - embedded} of {rows} live pictures have no embedding under look {look}: run `vitrine score` first"
        )
    return int(rows), int(content)


def read_held(sql: Any, urls: Sequence[str]) -> None:
    """Bring the rows of shards into `held`, and those of them that live on into `alive`; a URL a shard's keys."""
    files = pa.table({"filename": pa.array(urls, pa.string()), "shard": pa.array(range(len(urls)), pa.int32())})
    sql.register("files", files)
    sql.execute(HELD.format(urls=catalogue.listed(urls)) if urls else NOTHING_HELD)
    sql.execute(ALIVE)
    sql.unregister("files")


def sample_of_new(sql: Any, most: int) -> tuple[int, pa.Table]:
    """How many live rows no shard holds, and where the vectors of some of them lie."""
    (count,) = sql.execute(f"SELECT count(*) {NEW}").fetchone()
    sample = sql.execute(f"SELECT url, row {NEW} ORDER BY md5_number(image_key) LIMIT {most}").to_arrow_table()
    return int(count), sample


def live_counts(sql: Any) -> dict[int, int]:
    """How many rows of each shard live; a shard without any is left out."""
    return dict(sql.execute("SELECT shard, count(*) FROM alive GROUP BY shard").fetchall())


def keep_shards(sql: Any, shards: Sequence[int]) -> None:
    """Write into `kept` which shards serve again; they are numbered anew in this order."""
    numbers = {"shard": pa.array(shards, pa.int32()), "number": pa.array(range(len(shards)), pa.int32())}
    sql.register("kept", pa.table(numbers))
