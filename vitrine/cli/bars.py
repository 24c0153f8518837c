"""Stages as bars in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tasks import progress


@contextmanager
def in_terminal(console: Console) -> Iterator[None]:
    """Show stages as bars on the console while the block runs; on no terminal, show nothing."""
    if not console.is_terminal:
        yield
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bars:

        @contextmanager
        def show(name: str, pictures: int) -> Iterator[None]:
            row = bars.add_task(name, total=pictures or None)

            def advance(count: int) -> None:
                with suppress(KeyError):  # a straggler, after its stage has ended
                    bars.advance(row, count)

            try:
                with progress.listening(advance):
                    yield
            finally:
                bars.remove_task(row)

        with progress.watched_by(show):
            yield
