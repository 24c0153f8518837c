"""Which rows of a version's shards are deleted: they lie in the shards' files, and search never answers with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from index.arrays import Mask, Rows
from index.errors import CorruptIndex

DELETED = "deleted.parquet"


def write_deleted_rows(directory: Path, deleted: Sequence[Rows]) -> str:
    """Write which rows of each shard are deleted; return the file's name."""
    shards = [np.full(len(rows), number, dtype=np.int32) for number, rows in enumerate(deleted)]
    nothing = np.empty(0, dtype=np.int32)
    table = pa.table(
        {
            "shard": np.concatenate([nothing, *shards]),
            "row": np.concatenate([nothing, *(np.sort(rows).astype(np.int32) for rows in deleted)]),
        }
    )
    encoding = dict.fromkeys(table.column_names, "DELTA_BINARY_PACKED")
    parquet.write_table(table, directory / DELETED, compression="zstd", use_dictionary=False, column_encoding=encoding)
    return DELETED


def live_rows(deleted: pa.Table, counts: Sequence[int], what: str) -> list[Mask]:
    """One bool a row of each shard, by the table that `write_deleted_rows` wrote and `what` names in errors.

    Raises:
        CorruptIndex: it names rows that no shard has.
    """
    live = [np.ones(count, dtype=np.bool_) for count in counts]
    shards, rows = (deleted[name].to_numpy().astype(np.int64) for name in ("shard", "row"))
    held = np.asarray(counts, dtype=np.int64)
    if len(rows) and (min(shards.min(), rows.min()) < 0 or shards.max() >= len(counts) or (rows >= held[shards]).any()):
        raise CorruptIndex(f"{what} deletes rows that no shard has")
    for number, mask in enumerate(live):
        mask[rows[shards == number]] = False
    return live
