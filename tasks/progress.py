"""How far the work has come, told to whoever watches in this process; told to nobody elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

Listener = Callable[[int], None]


Watcher = Callable[[str, int], AbstractContextManager[None]]  # shows a stage of so many pictures (0: nobody knows)


class Stopped(BaseException):
    """Raised in a unit of work whose run was interrupted. No error to be caught on the way, and retried by nobody."""


class _State:
    """Of this process."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self.watcher: Watcher | None = None
        self.stopping = threading.Event()


_state = _State()


def advance(pictures: int) -> None:
    """Say that so many more pictures are done. Cheap, and safe from any thread. Raises Stopped after Ctrl-C."""
    if _state.stopping.is_set():
        raise Stopped
    for listener in tuple(_state.listeners):
        listener(pictures)


@contextmanager
def stopped() -> Iterator[None]:
    """Have every unit end at its next advance while the block runs."""
    _state.stopping.set()
    try:
        yield
    finally:
        _state.stopping.clear()


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
