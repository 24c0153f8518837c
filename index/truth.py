"""The exact neighbours of held-out queries, brought up to date from version to version.

A row's vector never changes, so what is nearest to it stays so until it leaves or something nearer comes: a night
compares its queries with the rows that came, not with the catalogue. More neighbours are remembered than are judged,
so that some may leave; a query that is left with too few is compared with every row again.

Shapes: N rows, Q queries, T ≤ DEPTH neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from index.arrays import Floats, Rows
from index.errors import CorruptIndex
from index.searching import K, Neighbours, Searcher

DEPTH = 24  # neighbours that are remembered
TRUTH = "truth.parquet"
SCHEMA = pa.schema(
    [
        pa.field("query", pa.int32(), nullable=False),  # rows of the open index
        pa.field("floor", pa.float32(), nullable=False),
        pa.field("neighbours", pa.list_(pa.int32()), nullable=False),
        pa.field("similarity", pa.list_(pa.float32()), nullable=False),
    ]
)


@dataclass(frozen=True)
class Truth:
    """The nearest others of some rows of an open index, nearest first.

    Of every query all rows are known that are more similar than its `floor`. `neighbours` is Q×T; lines that know fewer
    end in rows −1 of similarity −∞.
    """

    queries: Rows
    neighbours: Neighbours
    floor: Floats

    @classmethod
    def empty(cls) -> Truth:
        """A truth that holds no query."""
        none = Neighbours(np.empty((0, 0), np.int64), np.empty((0, 0), np.float32))
        return cls(np.empty(0, np.int64), none, np.empty(0, np.float32))

    def nearest(self, k: int) -> Neighbours:
        """The k nearest others, Q×min(k, T)."""
        return Neighbours(self.neighbours.rows[:, :k], self.neighbours.similarity[:, :k])

    def of(self, chosen: NDArray[Any]) -> Truth:
        """The truth of some of the queries, by their places or a mask."""
        neighbours = Neighbours(self.neighbours.rows[chosen], self.neighbours.similarity[chosen])
        return Truth(self.queries[chosen], neighbours, self.floor[chosen])

    def moved(self, to: Rows) -> Truth:
        """The truth by the row numbers of another version: `to` says where each row is there, −1 where it left."""
        rows = np.where(self.neighbours.rows < 0, -1, to[self.neighbours.rows])
        here = to[self.queries] >= 0
        return Truth(to[self.queries], _nearest(rows, self.neighbours.similarity), self.floor).of(here)

    def write(self, directory: Path) -> str:
        """Write the truth beside the index whose rows it names; return the file's name."""
        known = self.neighbours.rows >= 0
        offsets = pa.array(np.concatenate([[0], np.cumsum(known.sum(axis=1))]).astype(np.int32))
        columns = [
            pa.array(self.queries.astype(np.int32)),
            pa.array(self.floor),
            pa.ListArray.from_arrays(offsets, pa.array(self.neighbours.rows[known].astype(np.int32))),
            pa.ListArray.from_arrays(offsets, pa.array(self.neighbours.similarity[known])),
        ]
        table = pa.table(columns, names=SCHEMA.names).cast(SCHEMA)
        parquet.write_table(table, directory / TRUTH, compression="zstd", use_dictionary=False)
        return TRUTH

    @classmethod
    def read(cls, data: bytes, rows: int) -> Truth:
        """Read what `write` wrote beside an index of so many rows.

        Raises:
            CorruptIndex: not such a file, or of another index.
        """
        try:
            table = parquet.read_table(pa.BufferReader(data))
        except (OSError, pa.ArrowException) as error:
            raise CorruptIndex(f"{TRUTH} cannot be read: {error}") from error
        if table.schema != SCHEMA:
            raise CorruptIndex(f"{TRUTH} has other columns than expected: {table.column_names}")
        lists, similarity = (table[name].combine_chunks() for name in ("neighbours", "similarity"))
        lengths = np.asarray(lists.value_lengths(), dtype=np.int64)
        flat = np.asarray(lists.flatten(), dtype=np.int64)
        queries = table["query"].to_numpy().astype(np.int64)
        named = np.concatenate([queries, flat])
        if not np.array_equal(lengths, np.asarray(similarity.value_lengths())):
            raise CorruptIndex(f"{TRUTH} has other numbers of neighbours than of similarities")
        if len(named) and not 0 <= named.min() <= named.max() < rows:
            raise CorruptIndex(f"{TRUTH} names rows beyond the {rows} of its index")
        shape = (len(queries), int(lengths.max(initial=0)))
        places = np.arange(shape[1]) < lengths[:, None]
        neighbours = Neighbours(np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32))
        neighbours.rows[places], neighbours.similarity[places] = flat, np.asarray(similarity.flatten())
        return cls(queries, neighbours, table["floor"].to_numpy())


@dataclass(frozen=True)
class EarlierTruth:
    """What an earlier version knew, and where each of its rows is now: −1 where it left."""

    truth: Truth
    to: Rows


def find_truth(searcher: Searcher, queries: Rows, earlier: EarlierTruth | None = None) -> Truth:
    """The DEPTH nearest others of each query.

    Args:
        searcher: an open index.
        queries: rows of it, sorted, each once.
        earlier: what was known of an earlier version; without it every query is compared with every row.
    """
    if earlier is None:
        return _by_comparison(searcher, queries)
    known = _brought_up_to_date(searcher, queries, earlier)
    both = _joined(known, _by_comparison(searcher, queries[~np.isin(queries, known.queries)]))
    return replace(both, neighbours=both.nearest(len(searcher) - 1))  # a smaller index has no more than these


def without_self(neighbours: Neighbours, own: Rows) -> Neighbours:
    """Drop each query's own row, or its last neighbour where its own row was not among them."""
    drop = neighbours.rows == own[:, None]
    if drop.shape[1]:
        drop[~drop.any(axis=1), -1] = True
    shape = (len(own), max(0, neighbours.rows.shape[1] - 1))
    return Neighbours(neighbours.rows[~drop].reshape(shape), neighbours.similarity[~drop].reshape(shape))


def _by_comparison(searcher: Searcher, queries: Rows) -> Truth:
    """The truth of queries of which nothing is known: each is compared with every row."""
    neighbours = without_self(searcher.exact(searcher.vectors(queries), DEPTH + 1), queries)
    is_all = neighbours.rows.shape[1] >= len(searcher) - 1
    floor = np.full(len(queries), -np.inf, np.float32) if is_all else neighbours.similarity[:, -1]
    return Truth(queries, neighbours, floor)


def _brought_up_to_date(searcher: Searcher, queries: Rows, earlier: EarlierTruth) -> Truth:
    """The queries of which the earlier truth still tells enough, with what came."""
    moved = earlier.truth.moved(earlier.to)
    old = moved.of(np.isin(moved.queries, queries))
    came = np.ones(len(searcher), dtype=np.bool_)  # rows that the earlier version did not have
    came[earlier.to[earlier.to >= 0]] = False
    # One more than is remembered: it bounds all that came and is farther still.
    new = searcher.exact(searcher.vectors(old.queries), DEPTH + 1, keep=came)
    near = np.where(new.similarity < old.floor[:, None], -np.inf, new.similarity)  # as near may have been forgotten
    merged = _nearest(
        np.hstack([old.neighbours.rows, np.where(np.isneginf(near), -1, new.rows)]),
        np.hstack([old.neighbours.similarity, near]),
    )
    dropped = merged.similarity[:, DEPTH:].max(axis=1, initial=-np.inf)
    kept = Neighbours(merged.rows[:, :DEPTH], merged.similarity[:, :DEPTH])
    known = Truth(old.queries, kept, np.maximum(old.floor, dropped))
    return known.of((kept.rows >= 0).sum(axis=1) >= min(K, len(searcher) - 1))


def _joined(one: Truth, other: Truth) -> Truth:
    """Both truths as one, in the order of their queries."""
    width = max(one.neighbours.rows.shape[1], other.neighbours.rows.shape[1])
    shape = (len(one.queries) + len(other.queries), width)
    both = Neighbours(np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32))
    for part, lines in ((one, slice(len(one.queries))), (other, slice(len(one.queries), None))):
        here = (lines, slice(part.neighbours.rows.shape[1]))
        both.rows[here], both.similarity[here] = part.neighbours.rows, part.neighbours.similarity
    queries, floor = np.concatenate([one.queries, other.queries]), np.concatenate([one.floor, other.floor])
    return Truth(queries, both, floor).of(np.argsort(queries))


def _nearest(rows: Rows, similarity: Floats) -> Neighbours:
    """Each line in order, the nearest first, equally near ones by row; last those of row −1, as far as can be."""
    near = np.where(rows < 0, np.float32(-np.inf), similarity)
    order = np.lexsort((rows, -near), axis=1)
    return Neighbours(np.take_along_axis(rows, order, axis=1), np.take_along_axis(near, order, axis=1))
