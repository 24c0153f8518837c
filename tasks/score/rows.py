"""Rows of stored pictures in, rows of `scores` out. Knows Parquet; not the lake, not the network, not Prefect."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lake.parquet import round_to_bfloat16
from lake.schemas import SCORES
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


def score_rows(rows: pa.Table, predictions: Predictions) -> pa.Table:
    """The predictions as rows of `scores`, without the partition column."""
    from model.network import CLASSES

    embedding = round_to_bfloat16(predictions.embedding)
    offsets = pa.array(np.arange(0, embedding.size + 1, embedding.shape[1], dtype=np.int32))
    columns = {
        "image_key": rows["image_key"],
        "sha256": rows["sha256"],
        "polarity": predictions.polarity,
        "label": pa.array(CLASSES).take(pa.array(predictions.labels)),
        "positive_intensity": predictions.positive_intensity,
        "negative_intensity": predictions.negative_intensity,
        "embedding": pa.ListArray.from_arrays(
            offsets, pa.array(embedding.reshape(-1)), type=SCORES.field("embedding").type
        ),
        "scored_at": pa.repeat(pa.scalar(datetime.now(UTC), SCORES.field("scored_at").type), rows.num_rows),
    }
    return pa.table(columns)
