"""The rows that live and the rows that the last version's shards hold, compared by their keys and contents in DuckDB.

Nothing of a vector is read here. Each function works on the temporary tables that the ones before it made: `live`,
then `held` and `alive`, then `kept`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from lake import catalogue
from lake.errors import LakeError

MEMORY_LIMIT = "4GB"
KEY_COLUMNS = "image_key, product_id, sha256"

LIVE = """
    CREATE TEMP TABLE live AS FROM located_embeddings_of({look})
"""
# md5 is no security here: it spells the same number on every machine, and XOR does not mind the order.
CONTENT = """
    SELECT count(*), coalesce(bit_xor(md5_number(concat_ws(chr(0), image_key, sha256, coalesce(product_id, '')))), 0)
    FROM live
"""
# The rows of the last version's shards, deleted ones too: a picture that comes back finds its row again.
HELD = """
    CREATE OR REPLACE TEMP TABLE held AS
    SELECT files.shard, stored.file_row_number AS row, image_key, sha256, product_id
    FROM read_parquet({urls}, filename = true, file_row_number = true) AS stored JOIN files USING (filename)
"""
NOTHING_HELD = """
    CREATE OR REPLACE TEMP TABLE held (shard INTEGER, row BIGINT, image_key TEXT, sha256 TEXT, product_id TEXT)
"""
ALIVE = """
    CREATE OR REPLACE TEMP TABLE alive AS
    SELECT image_key, place.shard AS shard, place.row AS row
    FROM (SELECT live.image_key, min({'shard': held.shard, 'row': held.row}) AS place
          FROM held JOIN live ON held.image_key = live.image_key AND held.sha256 = live.sha256
               AND held.product_id IS NOT DISTINCT FROM live.product_id
          GROUP BY live.image_key)
"""
NEW = """
    FROM live ANTI JOIN (SELECT image_key FROM alive) USING (image_key)
"""
TO_WRITE = f"""
    SELECT {KEY_COLUMNS}, url, row
    FROM live ANTI JOIN (FROM alive SEMI JOIN kept USING (shard)) USING (image_key) ORDER BY url, row, image_key
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
    rows, content = sql.execute(CONTENT).fetchone()
    (live,) = sql.execute("SELECT count(*) FROM images").fetchone()
    if rows != live:
        raise LakeError(
            f"{live - rows} of {live} live pictures have no embedding under look {look}: run `vitrine score` first"
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
