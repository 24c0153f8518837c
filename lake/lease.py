"""One writer at a time: a lease on the lake, made of put-if-absent alone.

    lease/000000000012.json      epoch 12: which run writes, what it does and since when
    lease/000000000012.released  that run is done, and has no commit on its way any more
    lease/000000000012.ended     that run failed; a commit of its may still be on its way
    running/RUN.json             a sign of life, overwritten every few seconds while the run lives

Who wants to write creates the next epoch. It may where the newest one's run has ended or is dead: its sign of life has
grown old by the store's own clock and stays as it is, or its process is gone from this machine.

A run that was only paused may wake up and go on. So whoever takes over from a run that did not release writes its
epoch into each log that a commit goes through, and a commit under an older epoch is refused by that log itself.
Readers ask for none of this.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lake.errors import LakeBusy, LakeError, ObjectExists, ObjectNotFound, StoreUnavailable, lost
from lake.lake import Lake
from lake.store import Store

logger = logging.getLogger(__name__)

LEASE_SECONDS = 75.0  # a sign of life is old after so long; with the wait to make sure, a dead run holds for 105 s
BEATS = 6  # signs of life in that time
POLL_SECONDS = 5.0  # between two tries of a run that waits
EPOCHS_KEPT = 10
_EPOCH = re.compile(r"lease/(\d{12})\.(json|released|ended)$")


@dataclass(frozen=True)
class OpenRun:
    """A flow run that has not ended: what its row in `runs` would begin with."""

    run_id: str
    parent_run_id: str | None
    flow: str
    source: str | None
    started_at: str  # ISO 8601


@dataclass(frozen=True)
class Writer:
    """Who is at work on a lake: a flow run and the process that it is in."""

    run_id: str
    what: str  # for people: "nightly", or what the run is called
    since: str  # ISO 8601
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    process: str | None = field(default_factory=lambda: _process(os.getpid()))
    lease_seconds: float = LEASE_SECONDS  # without a sign of life after which it counts as dead
    open_runs: tuple[OpenRun, ...] = ()

    def __str__(self) -> str:
        return f"{self.what} since {self.since[:16].replace('T', ' ')} UTC (process {self.pid} on {self.host})"

    @classmethod
    def from_json(cls, data: bytes) -> Writer:
        """What `to_json` wrote."""
        body = json.loads(data)
        known = {name: value for name, value in body.items() if name in cls.__dataclass_fields__}
        return cls(**known | {"open_runs": tuple(OpenRun(**run) for run in body["open_runs"])})

    def to_json(self) -> bytes:
        """As an object of the lake."""
        return json.dumps(asdict(self), indent=2, sort_keys=True).encode()

    @property
    def process_is_gone(self) -> bool:
        """Whether it ran on this very machine and its process has ended."""
        if self.process is None or self.process.rsplit("/", 1)[0] != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's: there it is
            pass
        now = _process(self.pid)  # None where another user's processes are hidden from this one
        return now is not None and now != self.process


class Presence:
    """A run's sign of life, given every few seconds by a thread until `stop`."""

    def __init__(self, store: Store, run_id: str, what: str, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self.store = store
        since = datetime.now(UTC).isoformat()
        self._writer = Writer(run_id, what, since, lease_seconds=lease_seconds)
        self._runs: dict[str, OpenRun] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name=f"alive-{run_id}", daemon=True)

    @property
    def writer(self) -> Writer:
        """The run as others see it."""
        return Writer(**self._fields(), open_runs=tuple(self._runs.values()))

    def start(self) -> None:
        """Give the first sign of life, then go on doing so. Raises LakeError where the lake can't be written."""
        self.beat()
        self._thread.start()

    def stop(self) -> None:
        """The run has ended and left its row: nothing is to be found of it."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()
        try:
            self.store.delete([_presence(self._writer.run_id)])
        except LakeError as error:
            logger.warning("a run's sign of life was left behind: %s", error)

    def beat(self) -> None:
        """Give a sign of life now."""
        with self._lock:
            if not self._stopped.is_set():
                self.store.put(_presence(self._writer.run_id), self.writer.to_json())

    def opened(self, run: OpenRun) -> None:
        """A flow run of this process has begun: should the process die, a later run writes its row."""
        self._runs[run.run_id] = run
        if self._thread.ident is not None:
            self._try_to_beat()

    def closed(self, run_id: str) -> None:
        """A flow run has left its row itself."""
        self._runs.pop(run_id, None)

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self._writer, name) for name in Writer.__dataclass_fields__ if name != "open_runs"}

    def _keep_beating(self) -> None:
        while not self._stopped.wait(self._writer.lease_seconds / BEATS):
            self._try_to_beat()

    def _try_to_beat(self) -> None:
        try:
            self.beat()
        except Exception as error:  # whatever it is, the next may succeed, and a commit is refused if it has to be
            logger.warning("no sign of life could be given: %s", error)


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

    `on_wait` is told who holds it, at each try that fails. Raises LakeBusy where it is still held after `wait`.
    """
    until = time.monotonic() + wait / timedelta(seconds=1)
    watch = _Watch(presence)
    while True:
        pause = POLL_SECONDS
        try:
            last = _last(lake.store)
            if last is None or last.has_ended or watch.is_dead(last.writer):
                lease = _claim(lake, presence, last)
                if lease is not None:
                    return lease
                continue
        except StoreUnavailable as error:
            if not wait or time.monotonic() >= until:
                raise
            logger.warning("waiting on: %s", error)
        else:
            if time.monotonic() >= until and not watch.suspects(last.writer):
                waited = f", waited {wait / timedelta(minutes=1):.0f} minutes" if wait else ""
                raise LakeBusy(
                    f"{lake.uri} is being written by {last.writer}{waited}: run this again when that is done"
                )
            if on_wait is not None:
                on_wait(last.writer)
            pause = min(pause, last.writer.lease_seconds / BEATS)
        time.sleep(pause)


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
        seen = _last_seen(self._presence)
        at, now = seen.get(writer.run_id), seen.get(self._presence.writer.run_id)
        if at is not None and (now is None or not _is_old(writer, at, now)):
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


def _claim(lake: Lake, presence: Presence, last: _Epoch | None) -> Lease | None:
    """The next epoch; None where another run was quicker."""
    epoch = 1 if last is None else last.number + 1
    path, body = f"lease/{epoch:012d}.json", presence.writer.to_json()
    try:
        lake.store.put_new(path, body)
    except ObjectExists:
        if Writer.from_json(lake.store.get(path)).run_id != presence.writer.run_id:  # else our own, its answer lost
            return None
    lease = Lease(lake.under(epoch), epoch)
    lease.check()  # a claim that slept so long that later epochs came and this one's number was cleared away
    if last is not None and not last.released:
        lease.lake.fence()
        logger.info("epoch %d: taken over from %s, which did not end well", epoch, last.writer)
    old = [path for number, paths in _epochs(lake.store).items() if number <= epoch - EPOCHS_KEPT for path in paths]
    lake.store.delete(old)
    return lease


def _last(store: Store) -> _Epoch | None:
    """The newest epoch; None where nobody ever wrote."""
    epochs = _epochs(store)
    if not epochs:
        return None
    number = max(epochs)
    ends = {path.rpartition(".")[2] for path in epochs[number]} - {"json"}
    writer = Writer.from_json(store.get(f"lease/{number:012d}.json"))
    return _Epoch(number, writer, "released" in ends, bool(ends))


def held_by(store: Store) -> Writer | None:
    """Which run holds the lease, whether it still lives or not; None where it is free."""
    last = _last(store)
    return None if last is None or last.has_ended else last.writer


def is_at_work(store: Store, writer: Writer) -> bool:
    """Whether nothing speaks of the run's death: its sign of life is there, its process is not known to be gone."""
    return not writer.process_is_gone and store.exists(_presence(writer.run_id))


def _epochs(store: Store) -> dict[int, list[str]]:
    epochs: dict[int, list[str]] = {}
    for path in store.names("lease"):
        if match := _EPOCH.match(path):
            epochs.setdefault(int(match[1]), []).append(path)
    return epochs


def dead_runs(presence: Presence) -> list[tuple[Writer, datetime]]:
    """The runs that gave signs of life and give none any more, each with the time of its last."""
    seen = _last_seen(presence)
    now = seen.get(presence.writer.run_id, datetime.min.replace(tzinfo=UTC))  # unknown: nobody counts as dead
    dead = []
    for run_id, at in seen.items():
        try:
            writer = Writer.from_json(presence.store.get(_presence(run_id)))
        except (ObjectNotFound, ValueError, TypeError):  # it has just ended, or is none of ours
            continue
        if run_id != presence.writer.run_id and (writer.process_is_gone or _is_old(writer, at, now)):
            dead.append((writer, at))
    return dead


def forget(store: Store, writers: Sequence[Writer]) -> None:
    """Remove the signs of life of dead runs, whose rows are written."""
    store.delete([_presence(writer.run_id) for writer in writers])


def _is_old(writer: Writer, last_seen: datetime, now: datetime) -> bool:
    return now - last_seen > timedelta(seconds=writer.lease_seconds)


def _last_seen(presence: Presence) -> dict[str, datetime]:
    """When each run gave its last sign of life, by the store's clock; the caller's own is of this moment."""
    presence.beat()
    found = (each for page in presence.store.pages("running") for each in page if each.path.endswith(".json"))
    return {each.path.removeprefix("running/").removesuffix(".json"): each.last_modified for each in found}


def _presence(run_id: str) -> str:
    return f"running/{run_id}.json"


def _machine() -> str | None:
    """This machine since its last start, and this container on it; None where the kernel does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116 (follows the link, which names no file)
    except OSError:
        return None


def _process(pid: int) -> str | None:
    """A name that no other process of any machine ever has; None where it has ended or can't be told."""
    machine = _machine()
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    started = fields[18]  # clock ticks since the machine's start
    return None if machine is None or state == "Z" else f"{machine}/{pid}-{started}"
