"""Embeddings read from where they lie: a file of their table and a row in it. Only what is asked for is read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lake.errors import LakeError
from lake.store import Store
from tasks.located_rows import opener, read_column
from tasks.timing import Stopwatch


def read_embeddings(store: Store, located: pa.Table, dimension: int) -> NDArray[np.float32]:
    """The vectors of rows, float32 N×D, in their order.

    `located` has the columns url and row. Each file is opened once, and a row group of it is in memory at a time.
    """
    vectors = np.empty((located.num_rows, dimension), dtype=np.float32)
    order = located.append_column("at", pa.array(np.arange(located.num_rows))).sort_by(
        [("url", "ascending"), ("row", "ascending")]
    )
    places, start = order["at"].to_numpy(), 0
    for values in read_column(order, "embedding", opener(store), Stopwatch("read embeddings")):
        vectors[places[start : start + len(values)]] = _matrix(values, dimension)
        start += len(values)
    return vectors


def _matrix(column: pa.ChunkedArray, dimension: int) -> NDArray[np.float32]:
    values = pa.concat_arrays(column.chunks).flatten().to_numpy(zero_copy_only=False)
    if len(values) != len(column) * dimension:
        raise LakeError(
            f"embeddings of {dimension} numbers were expected, found {len(values)} in {len(column)} rows: register "
            "a new look"
        )
    matrix: NDArray[np.float32] = values.reshape(-1, dimension)
    return matrix
