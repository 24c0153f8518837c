"""The lake's small JSON objects, manifests and log entries: each names its format and is written once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from lake.errors import DamagedDocument, LakeError, ObjectExists
from lake.retries import retried
from lake.store import Store

FORMAT = 1  # raised when a reader of the one before would misread what is written

Document = TypeVar("Document")


def encode(body: Mapping[str, Any]) -> bytes:
    """A document as bytes, its format named."""
    return json.dumps({"format": FORMAT, **body}, indent=2, sort_keys=True).encode()


def read(store: Store, path: str, kind: type[Document]) -> Document:
    """The document at the path, as the dataclass whose fields it holds.

    Raises ObjectNotFound, DamagedDocument for one that is not whole, LakeError for one of a later format.
    """
    data = store.get(path)
    try:
        _check_format(data, path)
        document: Document = _adapter(cast(Any, kind)).validate_json(data, strict=True)
        return document
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (ValueError, RecursionError) as error:
        why = str(error) if data else "it is empty"
    raise DamagedDocument(
        f"{path} in {store.uri} is damaged ({' '.join(why.split())}): `vitrine doctor` says what can be done"
    )


def _check_format(data: bytes, path: str) -> None:
    body = json.loads(data)
    written_as = body.get("format") if isinstance(body, dict) else None
    if type(written_as) is int and written_as > FORMAT:
        raise LakeError(f"{path} has format {written_as}, this Vitrine reads {FORMAT}: update Vitrine")
    if written_as != FORMAT:
        raise ValueError("it names no format")


@lru_cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def write_once(store: Store, path: str, body: Mapping[str, Any]) -> bool:
    """Put-if-absent; False where another's document is there, or what was one.

    The body has a random `write_id`, by which a writer whose answer was lost, however often, knows its own document
    again.
    """
    data = encode(body)

    def write() -> bool:
        try:
            store.put_new(path, data)
        except ObjectExists:
            return store.get(path) == data
        return True

    return retried(write)
