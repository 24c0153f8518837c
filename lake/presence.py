"""A run's sign of life: one small object, overwritten every few seconds while the run lives.

    running/RUN.json             which run, on which machine, and the flow runs that it has open

A run is dead when its sign of life has grown old by the store's own clock, or when its process is gone from this
machine. Two machines' clocks are never compared.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import TypeAdapter

from lake.errors import LakeError, ObjectNotFound
from lake.lease_policy import LEASE_SECONDS
from lake.store import Store

logger = logging.getLogger(__name__)

BEATS = 6  # signs of life in that time
_MOST_SECONDS = 1e9  # without a sign of life, that anybody may have set


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
        """What `to_json` wrote; a later Vitrine's may say more. Raises ValueError for anything else."""
        writer = TypeAdapter(cls).validate_json(data, strict=True)
        if "/" in writer.run_id or not 0 < writer.lease_seconds < _MOST_SECONDS:
            raise ValueError(f"no run writes such a sign of life: {writer}")
        return writer

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
        return replace(self._writer, open_runs=tuple(self._runs.values()))

    def start(self) -> None:
        """Give the first sign of life, then go on doing so. Raises LakeError where the lake can't be written."""
        self.beat()
        self._thread.start()

    def stop(self) -> None:
        """The run has ended and left its row: its sign of life is removed."""
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
                self.store.put(_presence(self._writer.run_id), self.writer.to_json(), durable=False)

    def opened(self, run: OpenRun) -> None:
        """A flow run of this process has begun: should the process die, a later run writes its row."""
        self._runs[run.run_id] = run
        if self._thread.ident is not None:
            self._try_to_beat()

    def closed(self, run_id: str) -> None:
        """A flow run has left its row itself."""
        self._runs.pop(run_id, None)

    def _keep_beating(self) -> None:
        while not self._stopped.wait(self._writer.lease_seconds / BEATS):
            self._try_to_beat()

    def _try_to_beat(self) -> None:
        try:
            self.beat()
        except Exception as error:  # whatever it is, the next may succeed, and a commit is refused if it has to be
            logger.warning("no sign of life could be given: %s", error)


def is_at_work(store: Store, writer: Writer) -> bool:
    """Whether nothing speaks of the run's death: its sign of life is there, its process is not known to be gone."""
    return not writer.process_is_gone and store.exists(_presence(writer.run_id))


def dead_runs(presence: Presence) -> list[tuple[Writer, datetime]]:
    """The runs that gave signs of life and give none any more, each with the time of its last."""
    seen = last_seen(presence)
    now = seen.get(presence.writer.run_id, datetime.min.replace(tzinfo=UTC))  # unknown: nobody counts as dead
    dead = []
    for run_id, at in seen.items():
        try:
            writer = Writer.from_json(presence.store.get(_presence(run_id)))
        except (ObjectNotFound, ValueError):  # it has just ended, or is none of ours
            continue
        if writer.run_id == run_id != presence.writer.run_id and (writer.process_is_gone or is_old(writer, at, now)):
            dead.append((writer, at))
    return dead


def forget(store: Store, writers: Sequence[Writer]) -> None:
    """Remove the signs of life of dead runs, whose rows are written."""
    store.delete([_presence(writer.run_id) for writer in writers])


def is_old(writer: Writer, at: datetime, now: datetime) -> bool:
    """Whether a sign of life given at one time counts as none at another, both by the store's clock."""
    return now - at > timedelta(seconds=writer.lease_seconds)


def last_seen(presence: Presence) -> dict[str, datetime]:
    """When each run gave its last sign of life, by the store's clock; the caller's own is of this moment."""
    presence.beat()
    signs = (each for page in presence.store.pages("running") for each in page if each.path.endswith(".json"))
    return {each.path.removeprefix("running/").removesuffix(".json"): each.last_modified for each in signs}


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
    """A name that no other process of any machine ever has; None where it has ended or /proc does not say."""
    machine = _machine()
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    started = fields[18]  # clock ticks since the machine's start
    return None if machine is None or state == "Z" else f"{machine}/{pid}-{started}"
