"""Rows of stored pictures in, rows of `scores` out. Knows Parquet; not the lake, not the network, not Prefect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lake.tables import SCORES, round_to_bfloat16
from tasks.stage_times import Stopwatch

if TYPE_CHECKING:
    from model.predict import Predictions

CLASSES = ("negative", "positive")  # the order of the network's two outputs

Opener = Callable[[str], Any]
"""Gives for a URL what pyarrow reads: a path, or a file."""


def read_pixels(rows: pa.Table, open_: Opener, watch: Stopwatch) -> Iterator[bytes]:
    """The JPEGs of rows (`url`, `row` in that file) that are sorted by file, one row group in memory at a time."""
    urls, numbers = rows["url"].to_pylist(), rows["row"].to_numpy()
    start = 0
    while start < len(urls):
        end = start + urls[start:].count(urls[start])
        with watch.busy():
            source = open_(urls[start])
        with pq.ParquetFile(source) as file:
            yield from _read_rows(file, numbers[start:end], watch)
        start = end


def score_rows(rows: pa.Table, predictions: Predictions) -> pa.Table:
    """The predictions as rows of `scores`, without the partition column."""
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


def _read_rows(file: pq.ParquetFile, wanted: np.ndarray, watch: Stopwatch) -> Iterator[bytes]:
    first = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        inside = wanted[(wanted >= first) & (wanted < first + count)] - first
        if len(inside):
            with watch.busy():
                pixels = file.read_row_group(group, columns=["pixels"])["pixels"].take(pa.array(inside)).to_pylist()
            yield from pixels
        first += count
