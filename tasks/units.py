"""How a unit of work runs under Prefect: what is retried, what is never persisted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import copy_context
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from lake.errors import StoreUnavailable
from tasks.errors import NoDeviceSlot

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


@contextmanager
def device_slot(name: str | None) -> Iterator[None]:
    """Hold one slot of a Prefect concurrency limit while the block uses a device; None holds nothing.

    `strict`: a limit that does not exist is an error, not a free pass.
    """
    if name is None:
        yield
        return
    from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
    from prefect.concurrency.sync import concurrency

    with ExitStack() as held:
        try:
            held.enter_context(concurrency(name, occupy=1, strict=True))
        except ConcurrencySlotAcquisitionError as error:
            raise NoDeviceSlot(
                f"no slot of the concurrency limit {name!r}: create it with `prefect gcl create {name} --limit 1`, "
                "or unset VITRINE_DEVICE_SLOT"
            ) from error
        yield


class _SharedSlots:
    """Slots of limits that several units of work in this process hold together, each limit's slot once.

    A slot given back and asked for again between two shards would leave the device idle for seconds: Prefect's
    server is asked again only now and then.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, tuple[int, ExitStack]] = {}

    def take(self, name: str) -> None:
        with self._lock:
            count, held = self._held.get(name, (0, ExitStack()))
            if count == 0:
                held.enter_context(_in_its_own_thread(device_slot(name)))
            self._held[name] = (count + 1, held)

    def give_back(self, name: str) -> None:
        with self._lock:
            count, held = self._held.pop(name)
            if count > 1:
                self._held[name] = (count - 1, held)
            else:
                held.close()


_shared_slots = _SharedSlots()


@contextmanager
def shared_device_slot(name: str | None) -> Iterator[None]:
    """As `device_slot`, but units that overlap in this process hold one slot between them."""
    if name is None:
        yield
        return
    _shared_slots.take(name)
    try:
        yield
    finally:
        _shared_slots.give_back(name)


@contextmanager
def _in_its_own_thread(context: AbstractContextManager[None]) -> Iterator[None]:
    """The context, entered and left by one thread, whoever asks for either: Prefect's are bound to their thread."""
    leaving = threading.Event()
    entered: Future[None] = Future()

    def hold() -> None:
        try:
            with context:
                entered.set_result(None)
                leaving.wait()
        except BaseException as error:
            if entered.done():
                raise
            entered.set_exception(error)

    holder = threading.Thread(target=copy_context().run, args=(hold,), daemon=True)
    holder.start()
    entered.result()
    try:
        yield
    finally:
        leaving.set()
        holder.join()
