"""The lake's small JSON objects, manifests and log entries: each names its format and is written once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lake.errors import LakeError, ObjectExists
from lake.store import Store

FORMAT = 1  # raised when a reader of the one before would misread what is written


def encode(body: Mapping[str, Any]) -> bytes:
    """A document as bytes, its format named."""
    return json.dumps({"format": FORMAT, **body}, indent=2, sort_keys=True).encode()


def read(store: Store, path: str, what: str = "") -> dict[str, Any]:
    """The document at the path, without its format. Raises ObjectNotFound, LakeError for one of a later format."""
    body: dict[str, Any] = json.loads(store.get(path))
    written_as = body.pop("format", None)
    if written_as != FORMAT:
        raise LakeError(f"{what or path} has format {written_as}, this Vitrine reads {FORMAT}: update Vitrine")
    return body


def write_once(store: Store, path: str, body: Mapping[str, Any]) -> bool:
    """Put-if-absent; False where another's document is there.

    The body has a random `write_id`, by which a writer whose answer was lost knows its own document again.
    """
    try:
        store.put_new(path, encode(body))
    except ObjectExists:
        return bool(json.loads(store.get(path))["write_id"] == body["write_id"])
    return True
