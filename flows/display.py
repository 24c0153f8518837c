"""How a run shows itself: bars in a terminal, progress artifacts on a Prefect server, a log line a stage."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tasks import progress

logger = logging.getLogger(__name__)

ARTIFACT_SECONDS = 2.0  # between two updates of a progress artifact


@dataclass
class Stage:
    """One stage of a run and how long it took."""

    name: str
    pictures: int = 0
    seconds: float = 0.0


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
    bars = _terminal.bars
    if bars is None:
        yield done
    else:
        row = bars.add_task(name, total=total or None)
        try:
            with progress.listening(lambda pictures: bars.advance(row, pictures)):
                yield done
        finally:
            bars.remove_task(row)
    done.seconds = time.monotonic() - started
    logger.info("%s: %d pictures in %.1f s", done.name, done.pictures, done.seconds)


class ProgressArtifact:
    """A stage's progress on the Prefect server, in percent; updated at most every two seconds."""

    def __init__(self, key: str, total: int, description: str) -> None:
        from prefect.artifacts import create_progress_artifact

        self._total = total
        self._done = 0
        self._told = time.monotonic()
        self._id: Any = create_progress_artifact(progress=0.0, key=key, description=description) if total else None

    def advance(self, count: int) -> None:
        """So many more are done."""
        from prefect.artifacts import update_progress_artifact

        self._done += count
        is_last = self._done >= self._total
        if self._id is not None and (is_last or time.monotonic() - self._told > ARTIFACT_SECONDS):
            update_progress_artifact(self._id, progress=100.0 * self._done / self._total)
            self._told = time.monotonic()
