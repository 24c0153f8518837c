"""Which rows a search may answer with: filters, the query's own picture or product left out, one row a product.

What depends on the query is done by looking deeper, never by dropping neighbours from an answer that then lacks
some: the nearest rows in order, without those that are left out, are the nearest of the others in order.

Shapes: Q queries, N rows, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike

from index.arrays import Mask, Rows
from index.errors import UnknownColumn
from index.searching import Neighbours, Searcher

NONE = -1  # of a query: no row, or no group, of its own
FIRST_LOOK = 200  # neighbours to look at beyond k before it is known how many are needed


@dataclass(frozen=True)
class Groups:
    """Which rows belong together, such as the pictures of one product.

    `of_row` is each row's group, int64 N of 0..G−1; a row without a value is a group of its own. `sizes` counts
    the rows of each group, int64 G.
    """

    of_row: Rows
    sizes: Rows

    @classmethod
    def of(cls, searcher: Searcher, column: str) -> Groups:
        """Rows with the same value of `column` belong together.

        Raises:
            UnknownColumn: the index was built without it.
        """
        values = pa.chunked_array(_column(searcher, column)).unify_dictionaries().combine_chunks()
        encoded = (values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values).dictionary_encode()
        of_row = pc.fill_null(encoded.indices, NONE).to_numpy(zero_copy_only=False).astype(np.int64)
        alone = np.flatnonzero(of_row == NONE)
        of_row[alone] = len(encoded.dictionary) + np.arange(len(alone))
        return cls(of_row, np.bincount(of_row))


@dataclass(frozen=True)
class RowFilter:
    """Which rows may answer: for every query those of `keep`, one bool a row; for each query none of its own.

    `own_row` and `own_group` are int64 Q, NONE where a query has none; no query is answered with its own row or any
    row of its own group. With `one_per_group` each group answers with its nearest row only.
    """

    keep: Mask | None = None
    own_row: Rows | None = None
    groups: Groups | None = None
    own_group: Rows | None = None
    one_per_group: bool = False

    def __post_init__(self) -> None:
        if self.groups is None and (self.one_per_group or self.own_group is not None):
            raise ValueError("filtering by group needs the groups")


class Searchable(Protocol):
    """N rows that are searched by likeness: an index, or anything that answers as it does."""

    def __len__(self) -> int:
        """N."""

    def search(
        self,
        queries: ArrayLike,
        k: int,
        *,
        keep: ArrayLike | None = None,
        thorough: bool = False,
    ) -> Neighbours:
        """As `Searcher.search`."""


def search_filtered(
    searcher: Searchable,
    queries: ArrayLike,
    k: int,
    rows: RowFilter,
    *,
    thorough: bool = False,
) -> list[Neighbours]:
    """The `k` nearest rows of each query that the filter lets through: one answer of one line a query.

    An answer is shorter than `k` only where fewer rows are let through. With any filter but the query's own row left
    out, or `thorough`, the search is as thorough as `Searcher.search` can be.

    Raises:
        BadVectors: as `Searcher.search`.
    """
    array = np.asarray(queries, dtype=np.float32)
    most = len(searcher) if rows.keep is None else int(np.count_nonzero(rows.keep))
    answers: dict[int, Neighbours] = {}
    short = np.arange(len(array))
    depth = k + min(FIRST_LOOK, _passed_over(rows, k))
    while short.size:
        nearest = searcher.search(array[short], depth, keep=rows.keep, thorough=thorough)
        answers |= {int(query): _filtered(nearest, line, int(query), k, rows) for line, query in enumerate(short)}
        if depth >= most:
            break
        short = np.array([query for query in short.tolist() if answers[query].rows.size < k], dtype=np.int64)
        depth *= 4
    return [answers[query] for query in range(len(array))]


def _passed_over(rows: RowFilter, k: int) -> int:
    """How many rows to expect among the nearest that the filter leaves out."""
    left_out = 0 if rows.own_row is None else 1
    if rows.groups is not None and rows.own_group is not None:
        left_out += int(rows.groups.sizes[rows.own_group[rows.own_group >= 0]].max(initial=0))
    if rows.groups is not None and rows.one_per_group and len(rows.groups.sizes):
        left_out += int(k * (len(rows.groups.of_row) / len(rows.groups.sizes) - 1))
    return left_out


def _filtered(nearest: Neighbours, line: int, query: int, k: int, rows: RowFilter) -> Neighbours:
    """The first k of one line of neighbours that the filter lets through."""
    near = nearest.rows[line]
    stays = np.ones(len(near), dtype=np.bool_)
    if rows.own_row is not None:
        stays &= near != rows.own_row[query]
    if rows.groups is not None:
        groups = rows.groups.of_row[near]
        if rows.own_group is not None:
            stays &= groups != rows.own_group[query]
        if rows.one_per_group:
            # Only among the rows that stay: a query's own row must not stand for its product.
            at = np.flatnonzero(stays)
            stays[:] = False
            stays[at[np.unique(groups[at], return_index=True)[1]]] = True
    at = np.flatnonzero(stays)[:k]
    return Neighbours(near[at][None], nearest.similarity[line, at][None])


def _column(searcher: Searcher, name: str) -> pa.ChunkedArray:
    if name not in searcher.table.column_names:
        raise UnknownColumn(f"this index has no column {name!r}, only {', '.join(searcher.table.column_names)}")
    return searcher.table[name]
