"""One writer at a time: a lease on the lake, made of put-if-absent alone.

    lease/000000000012.json      epoch 12: which run writes, what it does and since when
    lease/000000000012.released  that run is done
    running/RUN.json             a sign of life, overwritten every few seconds while the run lives

Who wants to write creates the next epoch. It may where the newest one is released, or where its run is dead: its sign
of life has grown old by the store's own clock, or its process is gone from this machine.

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

from lake.errors import LakeBusy, LakeError, ObjectExists, ObjectNotFound, lost
from lake.lake import Lake
from lake.store import Store

logger = logging.getLogger(__name__)

LEASE_SECONDS = 90.0  # after its last sign of life a run counts as dead; with the next try, within two minutes
BEATS = 6  # signs of life in that time
POLL_SECONDS = 5.0  # between two tries of a run that waits
EPOCHS_KEPT = 10
_EPOCH = re.compile(r"lease/(\d{12})\.(json|released)$")


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
        return cls(**body | {"open_runs": tuple(OpenRun(**run) for run in body["open_runs"])})

    def to_json(self) -> bytes:
        """As an object of the lake."""
        return json.dumps(asdict(self), indent=2, sort_keys=True).encode()

    @property
    def process_is_gone(self) -> bool:
        """Whether it ran on this very machine and its process has ended."""
        if self.process is None or self.process.rsplit("/", 1)[0] != _machine():
            return False
        return _process(self.pid) != self.process


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
            self.beat()

    def closed(self, run_id: str) -> None:
        """A flow run has left its row itself."""
        self._runs.pop(run_id, None)

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self._writer, name) for name in Writer.__dataclass_fields__ if name != "open_runs"}

    def _keep_beating(self) -> None:
        while not self._stopped.wait(self._writer.lease_seconds / BEATS):
            try:
                self.beat()
            except LakeError as error:
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

    def release(self) -> None:
        """Let the next one write."""
        self.lake.store.put(f"lease/{self.epoch:012d}.released", b"")


def acquire(
    lake: Lake, presence: Presence, *, wait: timedelta = timedelta(0), on_wait: Callable[[Writer], None] | None = None
) -> Lease:
    """The lease for the run that gives these signs of life.

    `on_wait` is told who holds it, at each try that fails. Raises LakeBusy where it is still held after `wait`.
    """
    until = time.monotonic() + wait / timedelta(seconds=1)
    while True:
        holder = _holder(lake.store)
        if holder is None or holder[1] is None or not _lives(holder[1], presence):
            lease = _claim(lake, presence, holder)
            if lease is not None:
                return lease
            continue
        if time.monotonic() >= until:
            waited = f", waited {wait / timedelta(minutes=1):.0f} minutes" if wait else ""
            raise LakeBusy(f"{lake.uri} is being written by {holder[1]}{waited}: run this again when that is done")
        if on_wait is not None:
            on_wait(holder[1])
        time.sleep(min(POLL_SECONDS, presence.writer.lease_seconds / BEATS))


@contextmanager
def leased(lake: Lake, what: str) -> Iterator[Lake]:
    """The lake to write to while the block runs, for a program that is no flow run. Raises LakeBusy."""
    presence = Presence(lake.store, uuid.uuid4().hex, what)
    presence.start()
    try:
        lease = acquire(lake, presence)
        try:
            yield lease.lake
        finally:
            lease.release()
    finally:
        presence.stop()


def _claim(lake: Lake, presence: Presence, holder: tuple[int, Writer | None] | None) -> Lease | None:
    """The next epoch; None where another run was quicker."""
    epoch, released = (1, True) if holder is None else (holder[0] + 1, holder[1] is None)
    path, body = f"lease/{epoch:012d}.json", presence.writer.to_json()
    try:
        lake.store.put_new(path, body)
    except ObjectExists:
        if Writer.from_json(lake.store.get(path)).run_id != presence.writer.run_id:  # else our own, its answer lost
            return None
    lease = Lease(lake.under(epoch), epoch)
    lease.check()  # a claim that slept so long that later epochs came and this one's number was cleared away
    if not released:
        lease.lake.fence()
        logger.info("epoch %d: taken over from a run that did not end", epoch)
    old = [path for number, paths in _epochs(lake.store).items() if number <= epoch - EPOCHS_KEPT for path in paths]
    lake.store.delete(old)
    return lease


def _holder(store: Store) -> tuple[int, Writer | None] | None:
    """The newest epoch and who holds it, None where it is released; None where nobody ever wrote."""
    epochs = _epochs(store)
    if not epochs:
        return None
    newest = max(epochs)
    if any(path.endswith(".released") for path in epochs[newest]):
        return newest, None
    return newest, Writer.from_json(store.get(f"lease/{newest:012d}.json"))


def held_by(store: Store) -> Writer | None:
    """Which run holds the lease, whether it still lives or not; None where it is free."""
    holder = _holder(store)
    return None if holder is None else holder[1]


def _epochs(store: Store) -> dict[int, list[str]]:
    epochs: dict[int, list[str]] = {}
    for path in store.names("lease"):
        if match := _EPOCH.match(path):
            epochs.setdefault(int(match[1]), []).append(path)
    return epochs


def dead_runs(presence: Presence) -> list[tuple[Writer, datetime]]:
    """The runs that gave signs of life and give none any more, each with the time of its last."""
    seen = _last_seen(presence)
    dead = []
    for run_id, at in seen.items():
        try:
            writer = Writer.from_json(presence.store.get(_presence(run_id)))
        except (ObjectNotFound, ValueError, TypeError):  # it has just ended, or is none of ours
            continue
        if run_id != presence.writer.run_id and _is_dead(writer, at, seen[presence.writer.run_id]):
            dead.append((writer, at))
    return dead


def forget(store: Store, writers: Sequence[Writer]) -> None:
    """Remove the signs of life of dead runs, whose rows are written."""
    store.delete([_presence(writer.run_id) for writer in writers])


def _lives(writer: Writer, presence: Presence) -> bool:
    seen = _last_seen(presence)
    at = seen.get(writer.run_id)
    return at is not None and not _is_dead(writer, at, seen[presence.writer.run_id])


def _is_dead(writer: Writer, last_seen: datetime, now: datetime) -> bool:
    return writer.process_is_gone or now - last_seen > timedelta(seconds=writer.lease_seconds)


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
