"""How a run shows itself on a Prefect server: its name, its log, its state, and what it outlives there."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from importlib.metadata import version
from inspect import signature
from typing import Any, TypeVar, cast

from prefect import Flow, flow, get_client, get_run_logger
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import MissingContextError
from prefect.runtime import flow_run
from prefect.states import Completed, Failed, Running
from prefect.task_runners import TaskRunner

from flows.display import best_effort
from flows.errors import EXPECTED, for_people
from flows.parameters import FlowParameters

Asked = TypeVar("Asked", bound=FlowParameters)
Summary = TypeVar("Summary")


def stated(
    name: str, *, task_runner: TaskRunner[Any] | None = None
) -> Callable[[Callable[[Asked], Summary]], Flow[[Asked], Summary]]:
    """A flow that is named by what it does, and whose last state says in one line what came of it."""

    def decorate(function: Callable[[Asked], Summary]) -> Flow[[Asked], Summary]:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> State[Any]:
            try:
                summary = function(*args, **kwargs)
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
        made = flow(name=name, flow_run_name=_run_name, version=version("vitrine"), task_runner=task_runner)(run)
        return cast("Flow[[Asked], Summary]", made)

    return decorate


def _run_name() -> str:
    """What runs, for which night, on which lake: "nightly 2026-11-27 02:00 shop"."""
    at = flow_run.scheduled_start_time or datetime.now(UTC)
    words = [str(flow_run.flow_name), f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"]
    with best_effort():  # a wrong setting is the run's to report
        words.append(flow_run.parameters["parameters"].lake_uri.rstrip("/").rpartition("/")[2])
    return " ".join(words)


def is_deployed() -> bool:
    """Whether this is a deployment's run; a part of one is not.

    `prefect.runtime.deployment` would ask the server for it, and give up where that is being started again.
    """
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None


def log(message: str, *args: object) -> None:
    """A line of the flow run's own log, which Prefect's page shows."""
    try:
        get_run_logger().info(message, *args)
    except MissingContextError:
        logging.getLogger(__name__).info(message, *args)


@contextmanager
def waiting() -> Iterator[Callable[[str], None]]:
    """While a run waits its state says for what: the block is given the way to say it."""
    said: list[str] = []

    def say(message: str) -> None:
        if message not in said:
            said.append(message)
            log(message)
            _set_state(Running(name="Waiting", message=message))

    yield say
    if said:
        _set_state(Running())


def _set_state(state: State[Any]) -> None:
    with best_effort(), get_client(sync_client=True) as client:
        client.set_flow_run_state(cast(Any, flow_run.id), state)  # which the server refuses for a run being cancelled


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
