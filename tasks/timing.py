"""How long the stages of a pipeline worked and how long they waited, and which of them held up the others.

Stages that run side by side are compared by the same wall clock: a stage of several workers counts the mean of them,
so that `busy_s + waiting_s` is the time that the pipeline ran, and `busy_s` the time that it would have needed if
every other stage had been free.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
Result = TypeVar("Result")


@dataclass(frozen=True)
class StageTime:
    """One stage's time. A name is unique within a night: ingest decodes, scoring prepares."""

    name: str
    busy_s: float
    waiting_s: float  # for something to work on, or for room to put it

    @property
    def busy_share(self) -> float:
        """Of the time that its pipeline ran, 0 … 1."""
        whole = self.busy_s + self.waiting_s
        return self.busy_s / whole if whole else 0.0


def merged(times: Iterable[StageTime]) -> tuple[StageTime, ...]:
    """The times of several shards or flows added up by name, in the order in which the names first come."""
    times_of: dict[str, StageTime] = {}
    for time_ in times:
        before = times_of.get(time_.name, StageTime(time_.name, 0.0, 0.0))
        times_of[time_.name] = StageTime(time_.name, before.busy_s + time_.busy_s, before.waiting_s + time_.waiting_s)
    return tuple(times_of.values())


def within(times: Iterable[StageTime], seconds: float) -> tuple[StageTime, ...]:
    """The times of stages that ran side by side, in shards perhaps several at once, as parts of so many seconds."""
    return tuple(
        StageTime(time_.name, time_.busy_share * seconds, (1 - time_.busy_share) * seconds) for time_ in merged(times)
    )


def bottleneck(times: Iterable[StageTime]) -> str | None:
    """The stage that would have taken longest alone: making any other one faster gains less. None without stages."""
    slowest = max(times, key=lambda time_: time_.busy_s, default=None)
    return None if slowest is None or slowest.busy_s == 0 else slowest.name


class Stopwatch:
    """Counts when a stage's workers are busy; the rest of the time since it was made, they waited."""

    def __init__(self, name: str, *, workers: int = 1) -> None:
        self.name = name
        self._workers = workers
        self._lock = threading.Lock()
        self._busy_s = 0.0
        self._started = time.perf_counter()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """One worker works while the block runs. Safe from any thread."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(time.perf_counter() - started)

    def add(self, busy_s: float) -> None:
        """One worker has worked so long: where a block can't be put around it, as in another process."""
        with self._lock:
            self._busy_s += busy_s

    def timed(self, function: Callable[P, Result]) -> Callable[P, Result]:
        """The function, each of whose calls counts as work."""

        def call(*args: P.args, **kwargs: P.kwargs) -> Result:
            with self.busy():
                return function(*args, **kwargs)

        return call

    def read(self) -> StageTime:
        """The time so far."""
        elapsed = time.perf_counter() - self._started
        busy_s = min(self._busy_s / self._workers, elapsed)
        return StageTime(self.name, busy_s, elapsed - busy_s)
