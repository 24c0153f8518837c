"""Single files and objects that a person names: labels, weights."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from lake.errors import LakeError, ObjectNotFound
from lake.store import open_store


def read_object(uri: str) -> bytes:
    """One file or object by its path or URI. Raises LakeError where there is none."""
    if uri.startswith("file://"):
        uri = unquote(uri.removeprefix("file://"))
    elif not uri.startswith("s3://"):
        uri = str(Path(uri).expanduser().absolute())
    folder, _, name = uri.rpartition("/")
    try:
        # Nothing but the one object is asked for: its neighbours may be none of ours to list.
        return open_store(folder or "/", check=False).get(name)
    except ObjectNotFound as error:
        raise LakeError(f"{uri} does not exist") from error
