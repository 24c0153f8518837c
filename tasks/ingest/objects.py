"""Reading objects: what each turns out to be, fetched and decoded side by side."""

from __future__ import annotations

import hashlib
import logging
import threading
from dataclasses import dataclass

import pyarrow as pa

from lake.errors import LakeError, StoreUnavailable
from lake.store import Store
from model.errors import Undecodable
from tasks import progress
from tasks.ingest.config import IngestConfig
from tasks.ingest.pipeline import Lanes, Pipeline
from tasks.pictures import StoredPicture, read_picture
from tasks.timing import StageTime

logger = logging.getLogger(__name__)

MAX_FAILED_IN_A_ROW = 64
# An object store answers many requests at once, each after tens of milliseconds. A directory answers at once, and more
# threads would only wait for each other and for the decoders.
REMOTE_FETCH_THREADS, LOCAL_FETCH_THREADS = 64, 4


@dataclass(frozen=True)
class ReadObject:
    """What was found out about one object by reading it."""

    sha256: str | None = None  # None where it was not even fetched
    reason: str | None = None  # why it is no picture; of one, what is odd about it
    picture: StoredPicture | None = None


def read_objects(
    pictures: Store, work: pa.Table, config: IngestConfig
) -> tuple[list[ReadObject | None], tuple[StageTime, ...]]:
    """What each object of the shard is, None where it could not be fetched; and how long the stages took."""
    keys, sizes = work["image_key"].to_pylist(), work["size_bytes"].to_pylist()
    too_large = [size > config.max_object_bytes for size in sizes]
    outage = _Outage()

    def fetch(number: int) -> bytes | LakeError | None:
        if too_large[number]:
            return None
        return outage.watched(_fetched(pictures, keys[number]))

    def read(number: int, data: bytes | LakeError | None) -> ReadObject | None:
        progress.advance(1)
        if data is None:
            return ReadObject(reason=_too_large(sizes[number], config.max_object_bytes))
        if isinstance(data, LakeError):
            logger.info("%s was not fetched and will be tried again: %s", keys[number], data)
            return None
        return _read(data)

    lanes = Lanes(config.fetch_threads or fetch_threads(pictures), config.decode_threads, config.bytes_in_flight)
    to_fetch = [0 if large else size for size, large in zip(sizes, too_large, strict=True)]
    return Pipeline(to_fetch, fetch, read, lanes).run()


def fetch_threads(source: Store) -> int:
    """How many objects of a shard are best read at once from where they lie."""
    return REMOTE_FETCH_THREADS if source.directory is None else LOCAL_FETCH_THREADS


def _fetched(pictures: Store, key: str) -> bytes | LakeError:
    try:
        return pictures.get(key)
    except LakeError as error:
        return error


class _Outage:
    """Notices that the source itself is gone: so many objects in a row could not be fetched."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._lock = threading.Lock()

    def watched(self, fetched: bytes | LakeError) -> bytes | LakeError:
        """What was fetched, as it is. Raises StoreUnavailable where nothing comes any more."""
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if isinstance(fetched, StoreUnavailable) else 0
        if isinstance(fetched, StoreUnavailable) and self._in_a_row > MAX_FAILED_IN_A_ROW:
            raise StoreUnavailable(f"{self._in_a_row} objects in a row could not be fetched, the last: {fetched}")
        return fetched


def _too_large(size_bytes: int, most_bytes: int) -> str:
    return f"too large: {size_bytes / 2**20:.0f} MB, at most {most_bytes // 2**20} MB"


def _read(data: bytes) -> ReadObject:
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        picture = read_picture(data)
    except Undecodable as error:
        return ReadObject(sha256, error.reason)
    return ReadObject(sha256, picture.remark, picture)
