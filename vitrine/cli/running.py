"""How a command carries out a run: checked first, with bars in the terminal, in this process or on a server."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vitrine.cli.output import TERMINATED

if TYPE_CHECKING:
    from vitrine.cli.preflight import Parameters
    from vitrine.cli.preview import Previewed


def run(parameters: Parameters) -> Any:
    """Carry out what a flow is asked for; its summary."""
    from vitrine.cli.preflight import check

    check(parameters)
    from flows.here import run_here

    with at_work():
        return run_here(parameters)


def preview(parameters: Previewed) -> dict[str, Any]:
    """What a flow would do."""
    from vitrine.cli.preview import preview

    return preview(parameters)


@contextmanager
def at_work() -> Iterator[None]:
    """Around a run: bars in the terminal, which it outlives; a signal ends it as Ctrl-C does."""
    from vitrine.cli.bars import in_terminal
    from vitrine.cli.printing import to_stderr

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Says nothing itself: it may come in the middle of whatever else writes to the terminal, or where that has gone.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    with in_terminal(to_stderr):
        yield


@contextmanager
def torchrun() -> Iterator[bool]:
    """Whether this process runs the flow; of those that torchrun started, rank 0 does and the others help it."""
    from flows.settings import started_by_torchrun

    if not started_by_torchrun():
        yield True
        return
    from tasks.retrain.torchrun import help_to_train, processes

    with processes() as distributed:
        if not distributed.leads:
            help_to_train()
        yield distributed.leads
