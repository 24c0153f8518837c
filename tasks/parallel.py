"""Reading in a thread of its own, with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

Item = TypeVar("Item")


def read_ahead(items: Iterable[Item], ahead: int) -> Iterator[Item]:
    """The items, taken by a thread of their own; at most `ahead` of them wait for the consumer.

    An exception of the items is raised where the item was due.
    """
    iterator, end = iter(items), object()
    waiting: deque[Future[Item | object]] = deque()
    with ThreadPoolExecutor(1) as reader:
        try:
            waiting.extend(reader.submit(next, iterator, end) for _ in range(ahead))
            while (item := waiting.popleft().result()) is not end:
                waiting.append(reader.submit(next, iterator, end))
                yield cast(Item, item)
        finally:
            for future in waiting:
                future.cancel()
