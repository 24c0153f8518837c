"""The fp16 vectors of an index, memory-mapped shard by shard and seen as one matrix of the rows that live.

Shapes: N rows, D dimension. Masked rows lie in the files and are never counted, gathered or compared.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from index.building import blocks

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class StoredVectors:
    """The live rows of several shards, numbered from 0 without gaps in the shards' order."""

    def __init__(self, shards: Sequence[Halves], live: Sequence[Mask]) -> None:
        """Take each shard's vectors, n×D, and one bool a row of it."""
        self._shards = shards
        self._at = [None if mask.all() else np.flatnonzero(mask) for mask in live]  # None: all of them
        counts = [int(np.count_nonzero(mask)) for mask in live]
        self._starts = np.cumsum([0, *counts])[:-1]
        self._counts = counts

    def __len__(self) -> int:
        return sum(self._counts)

    def gather(self, rows: Rows, dimension: int) -> Floats:
        """The vectors of rows, N×D, in the order asked for."""
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        vectors = np.empty((len(rows), dimension), dtype=np.float32)
        for shard in np.unique(shards):
            here = shards == shard
            vectors[here] = self._shards[shard][self._stored(shard, rows[here] - self._starts[shard])]
        return vectors

    def blocks(self, mask: Mask | None) -> Iterator[tuple[Rows, Floats]]:
        """Every row that `mask` keeps, a block at a time: the rows and their vectors."""
        for shard, (start, count) in enumerate(zip(self._starts, self._counts, strict=True)):
            kept = np.arange(count) if mask is None else np.flatnonzero(mask[start : start + count])
            stored = self._shards[shard]
            in_one_sweep = mask is None and self._at[shard] is None
            for block in blocks(len(kept), stored.shape[1]):
                # A slice reads in one sweep; a list of rows makes numpy fetch them one by one.
                at = block if in_one_sweep else self._stored(shard, kept[block])
                yield kept[block] + start, stored[at].astype(np.float32)

    def _stored(self, shard: int, rows: Rows) -> Rows:
        """Where a shard's live rows lie in its file."""
        at = self._at[shard]
        return rows if at is None else at[rows]
