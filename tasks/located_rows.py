"""Rows of Parquet files read from where they lie: a file's URL and a row in it. Only what is asked for is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lake.store import Store
from tasks.timing import Stopwatch

Opener = Callable[[str], Any]
"""Gives for a URL what pyarrow reads: a path, or a file."""


def opener(store: Store) -> Opener:
    """Local files are read where they lie, others into memory."""
    root = store.url().rstrip("/") + "/"

    def open_(url: str) -> Any:
        path = url.removeprefix(root)
        return store.directory / path if store.directory is not None else pa.BufferReader(store.get(path))

    return open_


def read_column(located: pa.Table, column: str, open_: Opener, watch: Stopwatch) -> Iterator[pa.ChunkedArray]:
    """A column's values of rows that are sorted by `url` and `row`, in their order.

    Each file is opened once, and one row group of it is in memory at a time.
    """
    numbers = located["row"].to_numpy()
    for url, here in _files(located["url"]):
        with watch.busy():
            source = open_(url)
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            yield from _row_groups(file, column, numbers[here], watch)


def _files(urls: pa.ChunkedArray) -> Iterator[tuple[str, slice]]:
    """Where each file's rows begin and end, in a sorted column."""
    if not len(urls):
        return
    encoded = pa.concat_arrays(urls.chunks).dictionary_encode()
    indices = encoded.indices.to_numpy()
    starts = [0, *(np.flatnonzero(np.diff(indices)) + 1).tolist(), len(indices)]
    for start, end in pairwise(starts):
        yield encoded.dictionary[int(indices[start])].as_py(), slice(start, end)


def _row_groups(
    file: pq.ParquetFile, column: str, wanted: NDArray[np.int64], watch: Stopwatch
) -> Iterator[pa.ChunkedArray]:
    first = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        inside = wanted[(wanted >= first) & (wanted < first + count)] - first
        if len(inside):
            with watch.busy():
                values = file.read_row_group(group, columns=[column])[column].take(pa.array(inside))
            yield values
        first += count
