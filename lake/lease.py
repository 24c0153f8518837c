"""One writer at a time: a lease on the lake, made of put-if-absent alone.

    lease/000000000012.json      epoch 12: which run writes, what it does and since when
    lease/000000000012.released  that run is done, and has no commit on its way any more
    lease/000000000012.ended     that run failed; a commit of its may still be on its way

Who wants to write creates the next epoch. It may where the newest one's run has ended or is dead (`lake/presence.py`):
its sign of life has grown old by the store's own clock and stays as it is, or its process is gone from this machine.

A run that was only paused may wake up and go on. So whoever takes over from a run that did not release writes its
epoch into each log that a commit goes through, and a commit under an older epoch is refused by that log itself.
Readers ask for none of this.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from lake.errors import LakeBusy, LakeError, ObjectExists, ObjectNotFound, StoreUnavailable, lost
from lake.lake import Lake
from lake.presence import BEATS, Presence, Writer, is_old, last_seen
from lake.retries import retried
from lake.store import Store

logger = logging.getLogger(__name__)

POLL_SECONDS = 5.0  # between two tries of a run that waits
EPOCHS_KEPT = 10
_EPOCH = re.compile(r"lease/([0-9]{12})\.(json|released|ended)")


@dataclass(frozen=True)
class Lease:
    """The right to write to a lake, until it is released or taken over."""

    lake: Lake  # whose commits carry the epoch
    epoch: int

    def check(self) -> None:
        """Raise LeaseLost where another run has taken over."""
        epochs = _epochs(self.lake.store)
        newest = max(epochs, default=0)
        if newest > self.epoch:
            raise lost(self.lake.uri, newest)

    def release(self, *, failed: bool = False) -> None:
        """Let the next one write. A run that `failed` may have a commit on its way, which the next one has refused."""
        try:
            self.lake.store.put(f"lease/{self.epoch:012d}.{'ended' if failed else 'released'}", b"")
        except LakeError as error:
            logger.warning("the lease could not be released, it runs out by itself: %s", error)


def acquire(
    lake: Lake, presence: Presence, *, wait: timedelta = timedelta(0), on_wait: Callable[[Writer], None] | None = None
) -> Lease:
    """The lease for the run that gives these signs of life.

    `on_wait` is called with the run that holds it, at each try that fails. Raises LakeBusy where it is still held
    after `wait`.
    """
    until = time.monotonic() + wait / timedelta(seconds=1)
    watch = _Watch(presence)
    while True:
        pause = POLL_SECONDS
        try:
            holder = _lease_or_holder(lake, presence, watch)
        except StoreUnavailable as error:
            if not wait or time.monotonic() >= until:
                raise
            logger.warning("waiting on: %s", error)
        else:
            if isinstance(holder, Lease):
                return holder
            if time.monotonic() >= until and not watch.suspects(holder):
                waited = f", waited {wait / timedelta(minutes=1):.0f} minutes" if wait else ""
                raise LakeBusy(f"{lake.uri} is being written by {holder}{waited}: run this again when that is done")
            if on_wait is not None:
                on_wait(holder)
            pause = min(pause, holder.lease_seconds / BEATS)
        time.sleep(pause)


def _lease_or_holder(lake: Lake, presence: Presence, watch: _Watch) -> Lease | Writer:
    while True:
        last = _last(lake.store)
        if last is not None and last.is_held_by_another(presence.writer) and not watch.is_dead(last.writer):
            return last.writer
        lease = _claim(lake, presence, last)
        if lease is not None:
            return lease


class _Watch:
    """Whether the holder of the lease lives, as one that waits for it finds out.

    A sign of life that looks old, or is missing, has to stay so for as long as its run takes for two more: a clock may
    have jumped, and a machine that slept has just woken up.
    """

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._suspect: tuple[str, datetime | None] | None = None
        self._since = 0.0

    def is_dead(self, writer: Writer) -> bool:
        if writer.process_is_gone:
            return True
        seen = last_seen(self._presence)
        at, now = seen.get(writer.run_id), seen.get(self._presence.writer.run_id)
        if at is not None and (now is None or not is_old(writer, at, now)):
            self._suspect = None
            return False
        if self._suspect != (writer.run_id, at):
            self._suspect, self._since = (writer.run_id, at), time.monotonic()
        return time.monotonic() - self._since > 2 * writer.lease_seconds / BEATS

    def suspects(self, writer: Writer) -> bool:
        return self._suspect is not None and self._suspect[0] == writer.run_id


@contextmanager
def leased(lake: Lake, what: str) -> Iterator[Lake]:
    """The lake to write to while the block runs, for a program that is no flow run. Raises LakeBusy."""
    presence = Presence(lake.store, uuid.uuid4().hex, what)
    try:
        presence.start()
        lease, failed = acquire(lake, presence), True
        try:
            yield lease.lake
            failed = False
        finally:
            lease.release(failed=failed)
    finally:
        presence.stop()


@dataclass(frozen=True)
class _Epoch:
    """The newest epoch, whose it is and how it ended."""

    number: int
    writer: Writer
    released: bool
    has_ended: bool

    def is_held_by_another(self, writer: Writer) -> bool:
        """Whether its run may be at work; an open epoch of the writer's own is a claim of its that was cut off."""
        return not self.has_ended and self.writer.run_id != writer.run_id


def _claim(lake: Lake, presence: Presence, last: _Epoch | None) -> Lease | None:
    """The next epoch; None where another run was quicker."""
    epoch = 1 if last is None else last.number + 1
    if not _create(lake.store, f"lease/{epoch:012d}.json", presence.writer):
        return None
    lease = Lease(lake.under(epoch), epoch)
    try:
        lease.check()  # a claim that slept so long that later epochs came and this one's number was cleared away
        if last is not None and not last.released:
            lease.lake.fence()
            logger.info("epoch %d: taken over from %s, which did not end well", epoch, last.writer)
        old = [path for number, paths in _epochs(lake.store).items() if number <= epoch - EPOCHS_KEPT for path in paths]
        lake.store.delete(old)
    except BaseException:
        lease.release(failed=True)  # or others would wait for a run that never began
        raise
    return lease


def _create(store: Store, path: str, writer: Writer) -> bool:
    """Whether the object is the writer's now: just made, or made before by a request whose answer was lost."""

    def create() -> bool:
        try:
            store.put_new(path, writer.to_json())
        except ObjectExists:
            return _writer(store, path).run_id == writer.run_id
        return True

    return retried(create)


def _last(store: Store) -> _Epoch | None:
    """The newest epoch; None where nobody ever wrote."""
    epochs = _epochs(store)
    if not epochs:
        return None
    number = max(epochs)
    ends = {path.rpartition(".")[2] for path in epochs[number]} - {"json"}
    return _Epoch(number, _writer(store, f"lease/{number:012d}.json"), "released" in ends, bool(ends))


def _writer(store: Store, path: str) -> Writer:
    """Who holds an epoch; of a damaged one nobody knows, and without a sign of life it is taken over like any other."""
    try:
        return Writer.from_json(store.get(path))
    except (ObjectNotFound, ValueError):
        return Writer("unknown", "a run whose lease entry is damaged", "unknown", "unknown", 0, None)


def held_by(store: Store) -> Writer | None:
    """Which run holds the lease, whether it still lives or not; None where it is free."""
    last = _last(store)
    return None if last is None or last.has_ended else last.writer


def _epochs(store: Store) -> dict[int, list[str]]:
    epochs: dict[int, list[str]] = {}
    for path in store.names("lease"):
        if match := _EPOCH.fullmatch(path):
            epochs.setdefault(int(match[1]), []).append(path)
    return epochs
