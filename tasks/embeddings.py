"""Embeddings read from where they lie: a file of the scores table and a row in it. Only what is asked for is read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lake.errors import LakeError
from lake.store import Store


def read_embeddings(store: Store, located: pa.Table, dimension: int) -> np.ndarray:
    """The vectors of rows, float32 N×D, in their order.

    `located` has the columns url and row. Each file is opened once, and a row group of it is in memory at a time.
    """
    vectors = np.empty((located.num_rows, dimension), dtype=np.float32)
    order = located.append_column("at", pa.array(np.arange(located.num_rows))).sort_by(
        [("url", "ascending"), ("row", "ascending")]
    )
    rows, places = order["row"].to_numpy(), order["at"].to_numpy()
    for url, here in _runs(order["url"]):
        file = _open(store, url)
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            chosen = (rows[here] >= first) & (rows[here] < first + count)
            if chosen.any():
                matrix = _matrix(file.read_row_group(group, columns=["embedding"])["embedding"], dimension)
                vectors[places[here][chosen]] = matrix[rows[here][chosen] - first]
            first += count
    return vectors


def _runs(urls: pa.ChunkedArray) -> Iterator[tuple[str, slice]]:
    """Where each file's rows begin and end, in a sorted column."""
    if not len(urls):
        return
    encoded = pa.concat_arrays(urls.chunks).dictionary_encode()
    indices = encoded.indices.to_numpy()
    starts = [0, *(np.flatnonzero(np.diff(indices)) + 1).tolist(), len(indices)]
    for start, end in pairwise(starts):
        if end > start:
            yield encoded.dictionary[int(indices[start])].as_py(), slice(start, end)


def _open(store: Store, url: str) -> pq.ParquetFile:
    if store.directory is not None:
        return pq.ParquetFile(url)
    return pq.ParquetFile(pa.BufferReader(store.get(url.removeprefix(store.url().rstrip("/") + "/"))))


def _matrix(column: pa.ChunkedArray, dimension: int) -> np.ndarray:
    values = pa.concat_arrays(column.chunks).flatten().to_numpy(zero_copy_only=False)
    if len(values) != len(column) * dimension:
        raise LakeError(
            f"embeddings of {dimension} numbers were expected, found {len(values)} in {len(column)} rows: score the "
            "catalogue again under a new model"
        )
    matrix: np.ndarray = values.reshape(-1, dimension)
    return matrix
