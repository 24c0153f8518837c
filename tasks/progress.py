"""How far the work has come, told to whoever watches in this process; told to nobody elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

Listener = Callable[[int], None]


Watcher = Callable[[str, int], AbstractContextManager[None]]  # shows a stage of so many pictures (0: nobody knows)


class Stopped(BaseException):
    """Raised in a unit of work whose run was interrupted. No error to be caught on the way, and retried by nobody."""


class _State:
    """Of this process."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self.watcher: Watcher | None = None


_state = _State()
_stopping: ContextVar[threading.Event | None] = ContextVar("stopping", default=None)


def advance(pictures: int) -> None:
    """Say that so many more pictures are done. Cheap, and safe from any thread. Raises Stopped after Ctrl-C."""
    stopping = _stopping.get()
    if stopping is not None and stopping.is_set():
        raise Stopped
    for listener in tuple(_state.listeners):
        listener(pictures)


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """Around units of work in threads that begin with a copy of this context; the call ends each at its next advance.

    So do threads within a unit, given a copy of its context. Units of other runs in this process go on.
    """
    stopping = threading.Event()
    token = _stopping.set(stopping)
    try:
        yield stopping.set
    finally:
        _stopping.reset(token)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call the listener at every advance while the block runs."""
    _state.listeners.append(listener)
    try:
        yield
    finally:
        _state.listeners.remove(listener)


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Have the watcher show every stage that begins while the block runs."""
    before, _state.watcher = _state.watcher, watcher
    try:
        yield
    finally:
        _state.watcher = before


def stage(name: str, pictures: int = 0) -> AbstractContextManager[None]:
    """Around a stage of so many pictures: the watcher shows it."""
    return nullcontext() if _state.watcher is None else _state.watcher(name, pictures)
