"""What a flow is around the engine: its name, its last state, and what a deployed run outlives."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import wraps
from importlib.metadata import version
from inspect import signature
from typing import Any, TypeVar, cast

from prefect import Flow, flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.errors import EXPECTED, for_people
from flows.parameters import FlowParameters
from flows.runners import is_deployed

Asked = TypeVar("Asked", bound=FlowParameters)
Summary = TypeVar("Summary")


def stated(name: str) -> Callable[[Callable[[Asked], Summary]], Flow[[Asked], Summary]]:
    """A flow that is named by what it does, and whose last state says in one line what came of it."""

    def decorate(function: Callable[[Asked], Summary]) -> Flow[[Asked], Summary]:
        @wraps(function)
        def run(parameters: Asked) -> State[Any]:
            try:
                if is_deployed():
                    prepare_deployed_run()
                    parameters.require_absolute()
                summary = function(parameters)
            except Exception as error:
                known = for_people(error)
                if known is None:
                    raise
                if known is not error:
                    known.__cause__ = error
                return Failed(data=known, message=str(known))
            return Completed(data=summary, message=str(summary))

        # Prefect reads the parameters' types from here; by name they would be looked for in this module.
        run.__signature__ = signature(function, eval_str=True)  # type: ignore[attr-defined]
        del run.__wrapped__
        made = flow(name=name, flow_run_name=_run_name, version=version("vitrine"))(run)
        return cast("Flow[[Asked], Summary]", made)

    return decorate


def _run_name() -> str:
    """What runs, for which night, on which lake: "nightly 2026-11-27 02:00 shop"."""
    at = flow_run.scheduled_start_time or datetime.now(UTC)
    words = [str(flow_run.flow_name), f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"]
    with suppress(Exception):  # a wrong setting is the run's to report
        words.append(flow_run.parameters["parameters"].lake_uri.rstrip("/").rpartition("/")[2])
    return " ".join(words)


def prepare_deployed_run() -> None:
    """What a run of a worker needs: to outlive the worker that reads its output, and to give a reason once."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if _is_no_known_traceback not in logger.filters:
            logger.addFilter(_is_no_known_traceback)
    for known in (logging.getLogger(), *map(logging.getLogger, ("prefect", "prefect.flow_runs", "prefect.task_runs"))):
        for handler in known.handlers:
            console = getattr(handler, "console", None)
            if console is not None:
                # rich's own way raises SystemExit in whichever thread happens to log.
                console.on_broken_pipe = lambda console=console: _silence(console)


def _is_no_known_traceback(record: logging.LogRecord) -> bool:
    """False for the traceback of an error whose one line the state gives."""
    return not (record.exc_info and isinstance(record.exc_info[1], EXPECTED))


def _silence(console: Any) -> None:
    console.quiet = True
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # a worker reads both through one pipe
        os.dup2(null, stream)
    os.close(null)
