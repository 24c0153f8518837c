"""How a unit of work runs under Prefect: what is retried, what is never persisted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from lake.errors import StoreUnavailable

RETRIES = 2

P = ParamSpec("P")
R = TypeVar("R")


async def _is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Only what may succeed the next time is tried again: a store that did not answer."""
    try:
        await state.aresult()
    except StoreUnavailable:
        return True
    except Exception:
        return False
    return False


def unit(function: Callable[P, R]) -> Task[P, R]:
    """The function as a Prefect task. Its arguments are small references, so nothing is hashed or pickled."""
    return task(
        retries=RETRIES,
        retry_delay_seconds=exponential_backoff(backoff_factor=2),
        retry_jitter_factor=0.5,
        retry_condition_fn=_is_transient,
        cache_policy=NO_CACHE,
        persist_result=False,
    )(function)
