"""The runner on Prefect: each unit of work is a task run, and what happens is told on the flow run's page."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Task, get_client, get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext
from prefect.exceptions import MissingContextError
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Running
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff
from prefect.utilities.annotations import quote

from flows.errors import for_people
from flows.settings import Settings
from lake.errors import StoreUnavailable
from tasks import progress
from tasks.runner import RETRIES, RETRY_SECONDS, LeaseTerms
from tasks.runs import Run

logger = logging.getLogger(__name__)

SUBMITTED_AT_ONCE = 64  # thousands of task runs at once are more than a Prefect server bears
ARTIFACT_SECONDS = 2.0  # between two updates of a progress artifact

P = ParamSpec("P")
Work = TypeVar("Work")
Result = TypeVar("Result")

TaskRunners = Callable[[int], TaskRunner[Any]]


@dataclass
class PrefectRunner:
    """Runs the units of one flow run as task runs, on any of Prefect's task runners.

    `task_runners` makes the one for so many units at once; threads of this process by default.
    """

    lease: LeaseTerms
    task_runners: TaskRunners = ThreadPoolTaskRunner
    current: Run | None = field(default=None, init=False, repr=False)

    def run_id(self) -> str:
        """The flow run's. A second attempt of a run must never overwrite what the first has committed."""
        return f"{flow_run.id}-{flow_run.run_count}"

    def call(self, unit: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Run the unit as a task run, and wait for it."""
        with _server_named():
            return cast(Result, _task(unit)(quote(partial(unit, *args, **kwargs))))

    def map(self, unit: Callable[[Work], Result], work: Sequence[Work], *, at_once: int, key: str) -> list[Result]:
        """A task run for each reference, a bounded number submitted at a time; progress as an artifact."""
        shown = _ProgressArtifact(key, len(work))
        results: dict[int, Result] = {}
        submitted: dict[PrefectFuture[Result], int] = {}
        ended: SimpleQueue[PrefectFuture[Result]] = SimpleQueue()
        task = _task(unit)

        def gather() -> None:
            future = ended.get()
            results[submitted.pop(future)] = future.result()
            shown.advance()

        with _server_named(), progress.stoppable() as stop, self.task_runners(at_once) as runner:
            try:
                for number, reference in enumerate(work):
                    future = runner.submit(task, {"unit": quote(partial(unit, reference))})
                    submitted[future] = number
                    future.add_done_callback(ended.put)
                    while len(submitted) >= SUBMITTED_AT_ONCE or not ended.empty():
                        gather()
                while submitted:
                    gather()
            except Exception:
                raise  # the task runner begins no more of what is submitted
            except BaseException:  # Ctrl-C: units in threads of this process end at their next step
                stop()
                raise
        return [results[number] for number in range(len(work))]

    def say(self, message: str, *args: object) -> None:
        """A line of the flow run's log."""
        _log(logging.INFO, message, *args)

    @contextmanager
    def waiting(self) -> Iterator[Callable[[str], None]]:
        """The flow run's state says for what it waits."""
        said: list[str] = []

        def say(message: str) -> None:
            if message not in said:
                said.append(message)
                _log(logging.WARNING, "%s", message)
                _set_state(Running(name="Waiting", message=message))

        yield say
        if said:
            _set_state(Running())

    def show(
        self,
        key: str,
        markdown: str,
        *,
        table: Sequence[Mapping[str, Any]] = (),
        links: Mapping[str, str] | None = None,
    ) -> None:
        """Artifacts of the flow run: the text, the table, the links."""
        with _best_effort():
            create_markdown_artifact(markdown, key=key)
            if table:
                create_table_artifact([dict(row) for row in table], key=f"{key}-counts")
            for text, link in (links or {}).items():
                stem = text.partition(".")[0]
                create_link_artifact(link, link_text=text, key=f"{key}-{'page' if stem == key else stem}")


def prefect_runner(settings: Settings, *, task_runners: TaskRunners = ThreadPoolTaskRunner) -> PrefectRunner:
    """The runner of the flow run that is at work here; one of a deployment waits for the lease on the lake."""
    return PrefectRunner(replace(settings.config(LeaseTerms), waits=is_deployed()), task_runners)


def is_deployed() -> bool:
    """Whether the flow run at work here is a deployment's.

    `prefect.runtime.deployment` would ask the server for it, and give up where that is being started again.
    """
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None


async def _is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Only what may succeed the next time is tried again: a store that did not answer."""
    try:
        await state.aresult()
    except StoreUnavailable:
        return True
    except Exception:
        return False
    return False


def _task(unit: Callable[..., Any]) -> Task[..., Any]:
    """The unit as a Prefect task, named by its function. Nothing in its arguments is hashed or looked through."""
    name = (unit.func if isinstance(unit, partial) else unit).__name__
    return Task(
        _run_unit,
        name=name.replace("_", " "),
        retries=RETRIES,
        retry_delay_seconds=exponential_backoff(backoff_factor=RETRY_SECONDS),
        retry_jitter_factor=0.5,
        retry_condition_fn=_is_transient,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


def _run_unit(unit: Callable[[], Result]) -> Result:
    return unit()


def _log(level: int, message: str, *args: object) -> None:
    """A line of the flow run's log; where a command keeps that quiet, of the process's, as without Prefect."""
    try:
        of_the_run = get_run_logger()
    except MissingContextError:
        of_the_run = logger
    (of_the_run if of_the_run.isEnabledFor(level) else logger).log(level, message, *args)


def _set_state(state: State[Any]) -> None:
    with _best_effort(), get_client(sync_client=True) as client:
        client.set_flow_run_state(cast(Any, flow_run.id), state)  # which the server refuses for a run being cancelled


@contextmanager
def _server_named() -> Iterator[None]:
    """A server that went away is named. Raises PrefectUnavailable, and what the block raises."""
    try:
        yield
    except Exception as error:
        known = for_people(error)
        if known is None or known is error:
            raise
        raise known from error


@contextmanager
def _best_effort() -> Iterator[None]:
    """What is shown on a Prefect server must not fail the work that it shows."""
    try:
        yield
    except Exception:
        logger.debug("an artifact was not written", exc_info=True)


class _ProgressArtifact:
    """A stage's progress in percent; updated at most every two seconds."""

    def __init__(self, key: str, total: int) -> None:
        self._total = total
        self._done = 0
        self._updated = time.monotonic()
        self._id: Any = None
        if total:
            with _best_effort():
                self._id = create_progress_artifact(progress=0.0, key=key)

    def advance(self) -> None:
        """One more is done."""
        self._done += 1
        is_last = self._done == self._total
        if self._id is None or not (is_last or time.monotonic() - self._updated > ARTIFACT_SECONDS):
            return
        with _best_effort():
            update_progress_artifact(self._id, progress=100.0 * self._done / self._total)
            self._updated = time.monotonic()
