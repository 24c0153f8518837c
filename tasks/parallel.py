"""Work in threads whose memory is bounded: no more than a window of items is in flight."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")


def bounded_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, window: int
) -> Iterator[Result]:
    """The results in the items' order. At most `window` items are taken ahead of the consumer.

    The first exception of `function` is raised where its result was due; the items in flight are let finish.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= window:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def read_ahead(items: Iterable[Item], ahead: int) -> Iterator[Item]:
    """The items, taken by a thread of their own; at most `ahead` of them wait for the consumer.

    An exception of the items is raised where the item was due.
    """
    iterator, end = iter(items), object()
    waiting: deque[Future[Item | object]] = deque()
    with ThreadPoolExecutor(1) as reader:
        try:
            while True:
                while len(waiting) < ahead:
                    waiting.append(reader.submit(next, iterator, end))
                item = waiting.popleft().result()
                if item is end:
                    return
                yield cast(Item, item)
        finally:
            for future in waiting:
                future.cancel()
