"""What the sequence of a stage needs from outside: where its units of work run, and who is told how it goes.

A sequence is the same on every runner. `Inline` runs units in this process; `flows/runners.py` has the one on Prefect.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from pydantic.dataclasses import dataclass as checked_dataclass

from lake.errors import StoreUnavailable
from lake.lease_policy import LeasePolicy
from tasks import progress

if TYPE_CHECKING:
    from tasks.runs import Run

logger = logging.getLogger(__name__)

RETRIES = 2
RETRY_SECONDS = 2.0  # before the first retry; twice as long before the next

P = ParamSpec("P")
Work = TypeVar("Work")
Result = TypeVar("Result")


@checked_dataclass(frozen=True, kw_only=True)
class LeaseTerms(LeasePolicy):
    """How a run takes its turn at a lake that one run writes to at a time."""

    waits: bool = False  # or fails at once where another run writes


class Runner(Protocol):
    """Runs the units of work of one run at a time."""

    lease: LeaseTerms
    current: Run | None  # the run at work, of which the next one is a part

    def run_id(self) -> str:
        """The name of a new run, unique for all time."""

    def call(self, unit: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Run one unit of work; what is transient is tried again."""

    def map(self, unit: Callable[[Work], Result], work: Sequence[Work], *, at_once: int, key: str) -> list[Result]:
        """Run a unit of work for each reference, so many at once in this process; the results in their order.

        `unit` is a function of a module, or a `functools.partial` of one: it may have to travel. After an error nothing
        new begins; what has begun ends first. `key` names the progress that is shown, as "ingest-progress".
        """

    def say(self, message: str, *args: object) -> None:
        """A line for whoever reads this run's log."""

    def waiting(self) -> AbstractContextManager[Callable[[str], None]]:
        """While the block runs, the run may have to wait: it is given the way to say for what."""

    def show(
        self,
        key: str,
        markdown: str,
        *,
        table: Sequence[Mapping[str, Any]] = (),
        links: Mapping[str, str] | None = None,
    ) -> None:
        """A result for people, where there is a page to show it on; links by their texts."""


@dataclass
class Inline:
    """Units run in this process, shards in threads of it: they release the GIL."""

    lease: LeaseTerms = field(default_factory=LeaseTerms)
    retry_seconds: float = RETRY_SECONDS
    current: Run | None = field(default=None, init=False, repr=False)

    def run_id(self) -> str:
        """A random one."""
        return uuid.uuid4().hex

    def call(self, unit: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Run the unit in the calling thread. Retries StoreUnavailable twice."""
        for attempt in range(RETRIES):
            try:
                return unit(*args, **kwargs)
            except StoreUnavailable as error:
                seconds = self.retry_seconds * 2**attempt * random.uniform(1, 1.5)  # noqa: S311 (no secret)
                logger.warning("trying again in %.0f s: %s", seconds, error)
                time.sleep(seconds)
        return unit(*args, **kwargs)

    def map(self, unit: Callable[[Work], Result], work: Sequence[Work], *, at_once: int, key: str) -> list[Result]:
        """Run the units in threads, or in the calling one where they come one after another."""
        if at_once == 1 or len(work) == 1:
            return [self.call(unit, reference) for reference in work]
        results: dict[int, Result] = {}
        running: dict[Future[Result], int] = {}
        with progress.stoppable() as stop, ThreadPoolExecutor(at_once, thread_name_prefix=key) as pool:
            try:
                for number, reference in enumerate(work):
                    if len(running) == at_once:
                        _gather(running, results)
                    running[pool.submit(copy_context().run, partial(self.call, unit, reference))] = number
                while running:
                    _gather(running, results)
            except Exception:
                pool.shutdown(cancel_futures=True)
                raise
            except BaseException:  # Ctrl-C: nobody waits for a shard of thousands of pictures
                stop()
                pool.shutdown(cancel_futures=True)
                raise
        return [results[number] for number in range(len(work))]

    def say(self, message: str, *args: object) -> None:
        """A line of the process's log."""
        logger.info(message, *args)

    @contextmanager
    def waiting(self) -> Iterator[Callable[[str], None]]:
        """Say it in the log, once each."""
        said: set[str] = set()

        def say(message: str) -> None:
            if message not in said:
                said.add(message)
                logger.warning("%s", message)

        yield say

    def show(
        self,
        key: str,
        markdown: str,
        *,
        table: Sequence[Mapping[str, Any]] = (),
        links: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing: the caller has the summary, and there is no page."""


def _gather(running: dict[Future[Result], int], results: dict[int, Result]) -> None:
    """Wait until one has ended and keep its result. Raises its error."""
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        results[running.pop(future)] = future.result()
