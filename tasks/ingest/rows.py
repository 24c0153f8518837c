"""Rows of `images`: of objects that were read, and of pictures that the source no longer has."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from lake.schemas import IMAGES, UTC_TIME
from tasks.ingest.objects import ReadObject
from tasks.ingest.products import product_id

LISTED = ("etag", "size_bytes", "last_modified")  # what a row takes from the listing where the store gave no answer


def image_rows(
    work: pa.Table, objects: Sequence[ReadObject | None], ingested_at: datetime, pattern: str | None
) -> pa.Table:
    """Rows of `images` for the objects of which there is something new to say."""
    rows = [
        _row(listed, read, pattern)
        for listed, read in zip(work.drop_columns(["stored"]).to_pylist(), objects, strict=True)
        if read is not None and not (read.is_refused and _is_said(listed, read))
    ]
    at = {"ingested_at": ingested_at}
    return pa.Table.from_pylist([row | at for row in rows], schema=IMAGES)


def _is_said(listed: dict[str, Any], read: ReadObject) -> bool:
    """Whether the table's last row says already that this object can't be read, for this reason."""
    return bool(listed["last_reason"] == read.reason and listed["last_etag"] == listed["etag"])


def _row(listed: dict[str, Any], read: ReadObject, pattern: str | None) -> dict[str, Any]:
    source = {name: listed[name] if read.found is None else getattr(read.found, name) for name in LISTED}
    content = {name: _of_content(read, name) for name in ("width", "height", "format")}
    return {
        "image_key": listed["image_key"],
        "sha256": read.sha256,
        "product_id": product_id(listed["image_key"], pattern),
        "status": read.status,
        "reason": read.reason,
        "pixels": None if read.picture is None else read.picture.pixels,
        "pixels_elsewhere": read.stored is not None,
        **source,
        **content,
    }


def _of_content(read: ReadObject, name: str) -> Any:
    return read.stored[name] if read.stored is not None else getattr(read.picture, name, None)


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
