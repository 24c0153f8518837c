"""How a run shows itself: bars in a terminal, progress artifacts on a Prefect server, a log line a stage."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tasks import progress
from tasks.timing import StageTime

logger = logging.getLogger(__name__)

ARTIFACT_SECONDS = 2.0  # between two updates of a progress artifact


@dataclass
class Stage:
    """One stage of a run and how long it took; `times` tell what went on within it, where more is known."""

    name: str
    pictures: int = 0
    seconds: float = 0.0
    times: tuple[StageTime, ...] = ()


class _Terminal:
    """The terminal's bars, where there is a terminal. One display serves nested flows."""

    def __init__(self) -> None:
        self.bars: Progress | None = None


_terminal = _Terminal()


@contextmanager
def in_terminal(console: Console) -> Iterator[None]:
    """Show stages as bars on the console while the block runs; on no terminal, show nothing."""
    if not console.is_terminal:
        yield
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        _terminal.bars = bars
        try:
            yield
        finally:
            _terminal.bars = None


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Say what is being waited for, where someone looks on."""
    bars = _terminal.bars
    if bars is None:
        yield
        return
    row = bars.add_task(what, total=None)
    try:
        yield
    finally:
        bars.remove_task(row)


@contextmanager
def stage(name: str, total: int) -> Iterator[Stage]:
    """Time a stage of so many pictures and show how far it is."""
    done = Stage(name, total)
    started = time.monotonic()
    try:
        with _bar(name, total):
            yield done
    finally:
        done.seconds = time.monotonic() - started
    logger.info("%s: %d pictures in %.1f s", done.name, done.pictures, done.seconds)


@contextmanager
def _bar(name: str, total: int) -> Iterator[None]:
    bars = _terminal.bars
    if bars is None:
        yield
        return
    row = bars.add_task(name, total=total or None)

    def advance(pictures: int) -> None:
        with suppress(KeyError):  # a straggler, after its stage has ended
            bars.advance(row, pictures)

    try:
        with progress.listening(advance):
            yield
    finally:
        bars.remove_task(row)


@contextmanager
def best_effort() -> Iterator[None]:
    """What is shown on a Prefect server must not fail the work that it shows."""
    try:
        yield
    except Exception:
        logger.debug("an artifact was not written", exc_info=True)


class ProgressArtifact:
    """A stage's progress on the Prefect server, in percent; updated at most every two seconds."""

    def __init__(self, key: str, total: int, description: str) -> None:
        self._total = total
        self._done = 0
        self._told = time.monotonic()
        self._id: Any = None
        if total:
            with best_effort():
                from prefect.artifacts import create_progress_artifact

                self._id = create_progress_artifact(progress=0.0, key=key, description=description)

    def advance(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        is_last = self._done >= self._total
        if self._id is None or not (is_last or time.monotonic() - self._told > ARTIFACT_SECONDS):
            return
        with best_effort():
            from prefect.artifacts import update_progress_artifact

            update_progress_artifact(self._id, progress=100.0 * self._done / self._total)
            self._told = time.monotonic()
