"""Rows of `images`: of objects that were read, and of pictures that the source no longer has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from lake.schemas import IMAGES, UTC_TIME
from tasks.ingest.objects import ReadObject

LISTED = ("image_key", "etag", "size_bytes", "last_modified")  # what a row of `images` takes from the listing


def image_rows(
    work: pa.Table, objects: Sequence[ReadObject | None], ingested_at: datetime, pattern: str | None
) -> pa.Table:
    """Rows of `images` for the objects that could be fetched."""
    listed = work.select(list(LISTED)).filter(pa.array([read is not None for read in objects], pa.bool_()))
    reads = [read for read in objects if read is not None]
    pictures = [read.picture for read in reads]
    columns: dict[str, Any] = {name: listed[name] for name in LISTED}
    columns |= {
        "sha256": [read.sha256 for read in reads],
        "product_id": [product_id(key, pattern) for key in listed["image_key"].to_pylist()],
        "status": ["rejected" if picture is None else "ok" for picture in pictures],
        "reason": [read.reason for read in reads],
        "ingested_at": pa.repeat(pa.scalar(ingested_at, UTC_TIME), len(reads)),
    }
    for name in ("width", "height", "format", "pixels"):
        columns[name] = [getattr(picture, name, None) for picture in pictures]
    return pa.table({name: columns[name] for name in IMAGES.names}, schema=IMAGES)


def product_id(image_key: str, pattern: str | None) -> str | None:
    """The product that a key names: the pattern's first group, None where it does not match."""
    match = re.search(pattern, image_key) if pattern else None
    return match[1] if match else None


def tombstones(image_keys: pa.ChunkedArray, deleted_at: datetime) -> pa.Table:
    """A row for each picture that is gone: its key, when that was seen, and nothing else."""
    count = len(image_keys)
    columns = {
        "image_key": image_keys,
        "status": pa.repeat(pa.scalar("deleted", IMAGES.field("status").type), count),
        "ingested_at": pa.repeat(pa.scalar(deleted_at, UTC_TIME), count),
    }
    nulls = {field.name: pa.nulls(count, field.type) for field in IMAGES if field.name not in columns}
    return pa.table(columns | nulls).select(IMAGES.names).cast(IMAGES)
