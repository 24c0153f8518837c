"""The keys and columns of an index's rows in memory: rows by number, and the row of a key, both quick at any size.

Beside the table itself it holds 8 bytes a row. Shapes: N rows, Q keys asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from index.arrays import Rows
from index.checking import repeated_keys

MISSING = -1  # in place of the row of a key that is not there
LARGEST_COLUMN = 2**31 - 1  # bytes of text that 32-bit offsets reach
BATCH = 1 << 16  # keys that are Python strings at the same time


class KeyTable:
    """N rows with their `image_key` and other columns; never changes, so that threads may share it."""

    def __init__(self, table: pa.Table) -> None:
        self.table = in_one_piece(table)
        names = self.table["image_key"]
        batches = (names.slice(start, BATCH).to_pylist() for start in range(0, len(names), BATCH))
        hashes = np.concatenate([np.empty(0, np.uint32), *map(_hashes, batches)])
        order = np.argsort(hashes, kind="stable").astype(np.uint32)
        self._hashes, self._rows = hashes[order], order

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def take(self, rows: ArrayLike) -> pa.Table:
        """The keys and columns of rows, in the order asked for."""
        return self.table.take(pa.array(rows))

    def find(self, keys: Sequence[str]) -> Rows:
        """The row of each key, int64 Q; MISSING for one that is not there."""
        hashes = _hashes(keys)
        at, end = (np.searchsorted(self._hashes, hashes, side) for side in ("left", "right"))
        found = np.full(len(keys), MISSING, dtype=np.int64)
        sought = np.flatnonzero(at < end)
        while sought.size:  # more than once only where two keys have one hash
            rows = self._rows[at[sought]]
            names = self.table["image_key"].take(pa.array(rows)).to_pylist()
            same = np.array([name == keys[line] for name, line in zip(names, sought.tolist(), strict=True)])
            found[sought[same]] = rows[same]
            at += 1
            sought = sought[~same & (at < end)[sought]]
        return found

    def repeated(self) -> list[str]:
        """The keys that are there more than once: those of one hash are compared, a few in a million."""
        same = self._hashes[1:] == self._hashes[:-1]
        rows = self._rows[np.r_[False, same] | np.r_[same, False]] if len(self) else self._rows
        return repeated_keys(self.table["image_key"].take(pa.array(rows)))


def in_one_piece(table: pa.Table) -> pa.Table:
    """The same rows with one chunk a column: of several, single rows are taken a hundred times as slowly."""
    for number, column in enumerate(table.columns):
        if pa.types.is_string(column.type) and column.nbytes > LARGEST_COLUMN:
            table = table.set_column(number, table.column_names[number], column.cast(pa.large_string()))
    return table.combine_chunks()


def _hashes(keys: Iterable[str]) -> NDArray[np.uint32]:
    """The low half of Python's own hashes, which nobody can aim at: they differ from process to process."""
    return np.fromiter(map(hash, keys), np.int64).astype(np.uint32)
