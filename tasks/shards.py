"""A run's own place in the lake, where shards are handed from the planner to the workers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from lake.store import Store


@dataclass(frozen=True)
class Shard:
    """Some thousands of rows of work, stored in the lake; this reference is all that travels."""

    number: int
    path: str  # of a Parquet file below the lake's root
    rows: int


def write_shard(store: Store, run_id: str, kind: str, number: int, rows: pa.Table) -> Shard:
    """Store the rows of one shard under the run's workspace."""
    path = f"work/{run_id}/{kind}-{number:05d}.parquet"
    sink = io.BytesIO()
    pq.write_table(rows, sink, compression="zstd")
    store.put(path, sink.getvalue(), durable=False)  # of no use to anyone once the run has died
    return Shard(number, path, rows.num_rows)


def read_shard(store: Store, shard: Shard) -> pa.Table:
    """The shard's rows."""
    return pq.read_table(pa.BufferReader(store.get(shard.path)))


def clear(store: Store, run_id: str) -> None:
    """Remove the run's workspace once its work is committed."""
    store.delete(store.names(f"work/{run_id}"))


def in_tables(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Regroup a stream of record batches into tables of exactly `rows` rows (the last may have fewer)."""
    waiting: list[pa.RecordBatch] = []
    held = 0
    for batch in batches:
        offset = 0
        while held + batch.num_rows - offset >= rows:
            take = rows - held
            yield pa.Table.from_batches([*waiting, batch.slice(offset, take)])
            waiting, held, offset = [], 0, offset + take
        if offset < batch.num_rows:
            waiting.append(batch.slice(offset))
            held += batch.num_rows - offset
    if waiting:
        yield pa.Table.from_batches(waiting)
