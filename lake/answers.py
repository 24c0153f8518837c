"""What a store answers to a read: the bytes, and what they are the bytes of. A listing may be older than they are."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lake.errors import ObjectUnreadable, StoreUnavailable
from lake.listing import TIME_AS_ETAG
from lake.walking import etag_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Answer:
    """An object's bytes with the etag and time that came with them."""

    data: bytes
    etag: str
    last_modified: datetime


def bare_etag(etag: str) -> str:
    """An etag as the tables hold it: without quotes, and without the mark of those that gateways weaken."""
    return etag.removeprefix("W/").strip('"')


def from_obstore(result: Any) -> Answer:
    """What obstore's `get` came back with, its body read. Raises whatever obstore does."""
    meta = result.meta
    etag = meta["e_tag"] or meta["last_modified"].strftime(TIME_AS_ETAG)
    return Answer(bytes(result.bytes()), bare_etag(etag), meta["last_modified"])


def read_file(path: Path) -> Answer:
    """A file's bytes. Raises OSError, ObjectUnreadable for a pipe or a device, StoreUnavailable while it is written to.

    It is opened without waiting: a pipe that has taken a picture's place since the listing has no other end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        before = os.fstat(descriptor)
        if stat.S_ISDIR(before.st_mode):
            raise IsADirectoryError(path)
        if not stat.S_ISREG(before.st_mode):
            raise ObjectUnreadable(f"{path} is a pipe or a device: expected a file", "a pipe or a device, no file")
        data = file.read()
        after = os.fstat(descriptor)
    if etag_of(before) != etag_of(after) or len(data) != after.st_size:
        raise StoreUnavailable(f"{path} was written to while it was read")
    return Answer(data, etag_of(after), EPOCH + timedelta(microseconds=after.st_mtime_ns // 1000))
