"""Rows of stored pictures in, rows of `embeddings` and `scores` out. Knows Parquet; not the lake, not the network."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lake.parquet import round_to_bfloat16
from lake.schemas import EMBEDDINGS, UTC_TIME
from tasks.located_rows import Opener, read_column
from tasks.timing import Stopwatch

if TYPE_CHECKING:
    from model.predict import Predictions


def read_pixels(rows: pa.Table, open_: Opener, watch: Stopwatch) -> Iterator[bytes]:
    """The JPEGs of rows that are sorted by `url` and `row`, one row group in memory at a time."""
    for values in read_column(rows, "pixels", open_, watch):
        with watch.busy():
            jpegs = values.to_pylist()
        yield from jpegs


def embedding_rows(rows: pa.Table, embedding: NDArray[np.float32]) -> pa.Table:
    """Embeddings, N×E, as rows of `embeddings`, without the partition column.

    Rounded to bfloat16, which compresses well and stays ordinary float32 for every reader.
    """
    rounded = round_to_bfloat16(embedding)
    offsets = pa.array(np.arange(0, rounded.size + 1, rounded.shape[1], dtype=np.int32))
    columns = {
        "sha256": rows["sha256"],
        "embedding": pa.ListArray.from_arrays(
            offsets, pa.array(rounded.reshape(-1)), type=EMBEDDINGS.field("embedding").type
        ),
        "embedded_at": _now(rows.num_rows),
    }
    return pa.table(columns)


def score_rows(rows: pa.Table, predictions: Predictions) -> pa.Table:
    """The predictions as rows of `scores`, without the partition column."""
    from model.network import CLASSES

    columns = {
        "sha256": rows["sha256"],
        "polarity": predictions.polarity,
        "logit": predictions.logit,
        "label": pa.array(CLASSES).take(pa.array(predictions.labels)),
        "positive_intensity": predictions.positive_intensity,
        "negative_intensity": predictions.negative_intensity,
        "scored_at": _now(rows.num_rows),
    }
    return pa.table(columns)


def _now(rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(datetime.now(UTC), UTC_TIME), rows)
