"""Reading objects: what each turns out to be, fetched and decoded side by side."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from lake.answers import Answer
from lake.errors import LakeError, ObjectUnreadable, StoreUnavailable
from lake.store import ObjectInfo, Store
from tasks import progress
from tasks.decoders.pool import DecodingLimits, decoders
from tasks.ingest.config import IngestConfig
from tasks.ingest.fetching import Fetcher, fetch_threads
from tasks.ingest.pipeline import Lanes, Pipeline
from tasks.pictures import StoredPicture
from tasks.timing import StageTime

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadObject:
    """What was found out about one object by reading it."""

    sha256: str | None = None  # None where it was not fetched
    reason: str | None = None  # why it is no picture, or can't be read; of a picture, what is odd about it
    picture: StoredPicture | None = None
    stored: dict[str, Any] | None = None  # the row of the table that has this very content
    found: ObjectInfo | None = None  # as the store answered: what is known of the object from here on
    is_refused: bool = False  # by the store, and would be again

    @property
    def status(self) -> str:
        """As its row has it."""
        if self.is_refused:
            return "unreadable"
        return "rejected" if self.picture is None and self.stored is None else "ok"


def read_objects(
    pictures: Store, work: pa.Table, config: IngestConfig
) -> tuple[list[ReadObject | None], tuple[StageTime, ...]]:
    """What each object of the shard is, None where it could not be fetched; and how long the stages took."""
    keys, sizes, stored = (work[name].to_pylist() for name in ("image_key", "size_bytes", "stored"))
    most = config.max_object_bytes
    threads = config.fetch_threads or fetch_threads(pictures)
    fetcher = Fetcher(pictures, work, threads)
    pool = decoders(DecodingLimits(config.max_pixels, config.decode_bytes, config.decode_seconds))

    def fetch(number: int) -> Answer | LakeError | None:
        return None if sizes[number] > most else fetcher.fetch(number)

    def read(batch: Sequence[tuple[int, Answer | LakeError | None]]) -> list[ReadObject | None]:
        reads = {number: known(number, fetched) for number, fetched in batch}
        to_decode = {
            number: (keys[number], fetched.data)
            for number, fetched in batch
            if isinstance(fetched, Answer) and (read := reads[number]) and not (read.reason or read.stored)
        }
        outcomes = pool.read_all(list(to_decode.values()))
        decoded = {
            number: {"reason": outcome} if isinstance(outcome, str) else {"reason": outcome.remark, "picture": outcome}
            for number, outcome in zip(to_decode, outcomes, strict=True)
        }
        progress.advance(len(batch))
        return [read and replace(read, **decoded.get(number, {})) for number, read in reads.items()]

    def known(number: int, fetched: Answer | LakeError | None) -> ReadObject | None:
        """What is known of an object without decoding it."""
        if fetched is None:
            return ReadObject(reason=_too_large(sizes[number], most))
        if isinstance(fetched, LakeError):
            return _not_fetched(keys[number], fetched)
        found = ObjectInfo(keys[number], len(fetched.data), fetched.etag, fetched.last_modified)
        if len(fetched.data) > most:
            return ReadObject(reason=_too_large(len(fetched.data), most), found=found)
        return replace(_read(fetched.data, stored[number]), found=found)

    lanes = Lanes(threads, config.decode_threads, config.bytes_in_flight)
    to_fetch = [0 if size > most else size for size in sizes]
    return Pipeline(to_fetch, fetch, read, lanes).run()


def _not_fetched(key: str, error: LakeError) -> ReadObject | None:
    logger.info("%s was not fetched and will be tried again: %s", key, error)
    if isinstance(error, StoreUnavailable):
        return None
    if isinstance(error, ObjectUnreadable):
        return ReadObject(reason=error.reason, is_refused=True)
    is_directory = isinstance(error.__cause__, IsADirectoryError)
    gone = "a directory, no file" if is_directory else "gone: it was listed, and not there when it was to be read"
    return ReadObject(reason=gone, is_refused=True)


def _too_large(size_bytes: int, most_bytes: int) -> str:
    return f"too large: {size_bytes / 2**20:.0f} MB, at most {most_bytes // 2**20} MB"


def _read(data: bytes, stored: dict[str, Any] | None) -> ReadObject:
    """Which bytes these are; a picture that is stored already is not decoded again."""
    sha256 = hashlib.sha256(data).hexdigest()
    if stored is not None and stored["sha256"] == sha256:
        return ReadObject(sha256, stored["reason"], stored=stored)
    return ReadObject(sha256)
