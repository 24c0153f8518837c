"""Fetching objects: so many at once as the link bears, each held against its listing, and a source that is away."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from lake.answers import Answer
from lake.errors import LakeError, ObjectNotFound, ObjectUnreadable, StoreUnavailable
from lake.store import Store

MAX_FAILED_IN_A_ROW = 64
ATTEMPTS = 3  # at an object that did not answer, each beside fewer others
# An object store answers many requests at once, each after tens of milliseconds. A directory answers at once, and more
# threads would only wait for each other and for the decoders.
REMOTE_FETCH_THREADS, LOCAL_FETCH_THREADS = 64, 4


class Torn(StoreUnavailable):
    """What the store answers is not what it lists, nor twice the same: the object is being written, or altered."""


@dataclass(frozen=True)
class _Listed:
    key: str
    etag: str
    size_bytes: int

    def agrees(self, answer: Answer) -> bool:
        return answer.etag == self.etag and len(answer.data) == self.size_bytes

    def contradicts(self, answer: Answer) -> bool:
        """Whether the answer claims to be what was listed, at another length."""
        return answer.etag == self.etag and len(answer.data) != self.size_bytes


class Fetcher:
    """Fetches the objects of a shard, from several threads."""

    def __init__(self, pictures: Store, work: pa.Table, threads: int) -> None:
        self._pictures = pictures
        columns = (work[name].to_pylist() for name in ("image_key", "etag", "size_bytes"))
        self._listed = [_Listed(*row) for row in zip(*columns, strict=True)]
        self._flow = Flow(threads)
        self._outage = _Outage()

    def fetch(self, number: int) -> Answer | LakeError:
        """The object, or why it was not fetched: StoreUnavailable where it may be later.

        Raises StoreUnavailable where nothing comes any more, LakeError where the source refuses whoever asks.
        """
        for _ in range(ATTEMPTS):
            with self._flow.slot() as slot:
                fetched = self._fetched(self._listed[number])
            if isinstance(fetched, Torn) or not isinstance(fetched, StoreUnavailable):
                self._flow.went_well()
                self._outage.ended()
                break
            self._flow.stalled(slot)
            self._outage.went_on(fetched)
        return fetched

    def _fetched(self, listed: _Listed) -> Answer | LakeError:
        try:
            return self._held_against(listed, self._pictures.read(listed.key))
        except (ObjectNotFound, ObjectUnreadable, StoreUnavailable) as error:
            return error

    def _held_against(self, listed: _Listed, answer: Answer) -> Answer:
        """The answer where it is the object that was listed, or a later one that is answered twice. Raises Torn."""
        if listed.agrees(answer):
            return answer
        again = self._pictures.read(listed.key)
        if listed.agrees(again) or (again == answer and not listed.contradicts(again)):
            return again
        raise Torn(
            f"{listed.key}: listed with {listed.size_bytes} bytes and etag {listed.etag}, answered with "
            f"{len(again.data)} bytes and etag {again.etag}"
        )


class Flow:
    """How many requests are in flight: half as many after one that stalled, one more after a round that went well."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._allowed = float(most)
        self._in_flight = 0
        self._halvings = 0
        self._changed = threading.Condition()

    @property
    def allowed(self) -> int:
        """So many at once."""
        return max(1, int(self._allowed))

    @contextmanager
    def slot(self) -> Iterator[int]:
        """Wait for a turn; gives what `stalled` is to be told."""
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight < self.allowed)
            self._in_flight += 1
            began = self._halvings
        try:
            yield began
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def stalled(self, slot: int) -> None:
        """A request did. Of those that were in flight together only the first counts."""
        with self._changed:
            if slot == self._halvings:
                self._allowed = max(1.0, self._allowed / 2)
                self._halvings += 1

    def went_well(self) -> None:
        """A request did."""
        with self._changed:
            self._allowed = min(float(self._most), self._allowed + 1 / self._allowed)
            self._changed.notify_all()


class _Outage:
    """Notices that the source itself is gone: so many requests in a row were in vain."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._lock = threading.Lock()

    def ended(self) -> None:
        with self._lock:
            self._in_a_row = 0

    def went_on(self, error: StoreUnavailable) -> None:
        """Raise StoreUnavailable where that was one too many."""
        with self._lock:
            self._in_a_row += 1
            in_a_row = self._in_a_row
        if in_a_row > MAX_FAILED_IN_A_ROW:
            raise StoreUnavailable(f"{in_a_row} objects in a row could not be fetched, the last: {error}")


def fetch_threads(source: Store) -> int:
    """How many objects of a shard are best read at once from where they lie."""
    return REMOTE_FETCH_THREADS if source.directory is None else LOCAL_FETCH_THREADS
