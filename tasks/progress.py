"""How far a unit of work has come, told to whoever listens in this process; told to nobody elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[int], None]

_listeners: list[Listener] = []


def advance(pictures: int) -> None:
    """Say that so many more pictures are done. Cheap, and safe from any thread."""
    for listener in tuple(_listeners):
        listener(pictures)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call the listener at every advance while the block runs."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
