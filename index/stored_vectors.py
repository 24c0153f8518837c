"""The fp16 vectors of an index, memory-mapped shard by shard and seen as one matrix of the rows that live.

Shapes: N rows, D dimension. Deleted rows lie in the files and are never counted, gathered or compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import faiss
import numpy as np

from index.arrays import Floats, Halves, Mask, Rows, blocks, widen
from index.faiss_index import untyped

CACHED_BYTES = 4 << 20  # of float32: they stay in the processor's cache between being widened and being compared
SMALLEST = np.float32(1e-30)  # a squared length that no row has: its largest value is at least 1/√D
FEW_ROWS = 500  # fewer are gathered quicker one by one than shard by shard
COPIED_BYTES = 256 << 20  # of fp16 at most are copied into memory, for single queries to be compared with all of it
FEW_QUERIES = 16  # more are compared quicker as matrices of float32
SCANNED = 54  # candidates beyond k, among which one almost always is too far to be of the k nearest


class StoredVectors:
    """The live rows of several shards, numbered from 0 without gaps in the shards' order.

    With `unit` every vector is given length 1 again. Rounding to fp16 changes the length by as much as 3e-4 where few
    dimensions hold most of it, and a cosine taken of that is wrong by more than nearly identical pictures differ.
    """

    def __init__(self, shards: Sequence[Halves], live: Sequence[Mask], *, unit: bool, copied: bool = False) -> None:
        """Take each shard's vectors, n×D, and one bool a row of it; `copied` allows `nearest` a copy in memory."""
        self._shards = shards
        self._unit = unit
        self._copied = copied
        self._at = [None if mask.all() else np.flatnonzero(mask) for mask in live]  # None: all of them
        counts = [int(np.count_nonzero(mask)) for mask in live]
        self._starts = np.cumsum([0, *counts])[:-1]
        self._counts = counts

    def __len__(self) -> int:
        return sum(self._counts)

    def gather(self, rows: Rows, dimension: int) -> Floats:
        """The vectors of rows, N×D, in the order asked for."""
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        halves = np.empty((len(rows), dimension), dtype=np.float16)
        if len(rows) < FEW_ROWS:
            for line, (shard, row) in enumerate(zip(shards.tolist(), rows.tolist(), strict=True)):
                halves[line] = self._shards[shard][self._stored(shard, row - self._starts[shard])]
            return self._compared(halves)
        order = np.argsort(rows, kind="stable")
        ends = np.searchsorted(shards[order], np.arange(len(self._shards) + 1))
        for shard in np.flatnonzero(np.diff(ends)).tolist():
            here = order[ends[shard] : ends[shard + 1]]
            halves[here] = self._shards[shard][self._stored(shard, rows[here] - self._starts[shard])]
        return self._compared(halves)

    def blocks(self, mask: Mask | None) -> Iterator[tuple[Rows, Floats]]:
        """Every row that `mask` keeps, a block at a time: the rows and their vectors."""
        for shard, (start, count) in enumerate(zip(self._starts, self._counts, strict=True)):
            kept = np.arange(count) if mask is None else np.flatnonzero(mask[start : start + count])
            stored = self._shards[shard]
            in_one_sweep = mask is None and self._at[shard] is None
            for block in blocks(len(kept), stored.shape[1], CACHED_BYTES):
                # A slice reads in one sweep; a list of rows makes numpy fetch them one by one.
                at = block if in_one_sweep else self._stored(shard, kept[block])
                yield kept[block] + start, self._compared(stored[at])

    def nearest(self, queries: Floats, k: int, mask: Mask | None) -> Rows | None:
        """Rows among which are each query's k nearest of those that `mask` keeps, −1 where a line has fewer.

        Compares a copy of the fp16 as it is, several times as fast as `blocks` where queries are few; None where they
        are many, or the copy would be too large. With `unit` a length is off by its rounding to fp16: every row comes
        back that could be among the nearest for all that.
        """
        rows, dimension = len(self), queries.shape[1]
        kept = rows if mask is None else int(np.count_nonzero(mask))
        few = len(queries) <= FEW_QUERIES and 8 * kept >= rows
        if not few or not self._copied or 2 * rows * dimension > COPIED_BYTES:
            return None
        selector = None if mask is None else untyped.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        wanted = k + SCANNED
        while wanted < kept:
            apart, at = self._scanned.search(queries, wanted, params=untyped.SearchParameters(sel=selector))
            last = apart[:, k - 1 : k]
            # Half of an fp16's last bit on either side, what values near 0 lose, and the rounding of the sums.
            slack = 2 * (2**-11 + 2**-25 * dimension**0.5) + 1e-5
            near = apart >= last - slack if self._unit else apart <= last * (1 + 1e-4)
            if not near[:, -1].any():
                found: Rows = np.where(near, at, -1)[:, : near.sum(axis=1).max()]
                return found
            wanted *= 8
        return None

    @cached_property
    def _scanned(self) -> Any:
        """The live rows' fp16 as an index of faiss's, without which Python could not have them compared as they are."""
        kind = faiss.METRIC_INNER_PRODUCT if self._unit else faiss.METRIC_L2
        index: Any = faiss.IndexScalarQuantizer(self._shards[0].shape[1], faiss.ScalarQuantizer.QT_fp16, kind)
        for stored, at in zip(self._shards, self._at, strict=True):
            halves = np.ascontiguousarray(stored if at is None else stored[at])
            index.add_sa_codes(halves.view(np.uint8), None)
        return index

    def _compared(self, halves: Halves) -> Floats:
        vectors = widen(halves)
        if self._unit:
            squared = np.vecdot(vectors, vectors)[:, None]  # row by row, so the same whatever else is gathered
            vectors /= np.sqrt(np.maximum(squared, SMALLEST), out=squared)
        return vectors

    def _stored(self, shard: int, rows: Any) -> Any:
        """Where a shard's live rows, or one of them, lie in its file."""
        at = self._at[shard]
        return rows if at is None else at[rows]
