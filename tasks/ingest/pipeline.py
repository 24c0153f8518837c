"""Fetch and decode side by side: many objects in flight, no more bytes than allowed, a slow object holds up no other.

Fetching waits on the network and wants many threads; decoding wants the cores, and its codecs release the GIL. The
next object is fetched only when its bytes fit beside those not yet decoded: a backlog there slows fetching down.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from tasks.budget import Budget
from tasks.timing import StageTime, Stopwatch

TOGETHER, TOGETHER_BYTES = 16, 2**20  # objects that one decoder takes at once, and from how many bytes on no more

Fetched = TypeVar("Fetched")
Decoded = TypeVar("Decoded")


@dataclass(frozen=True)
class Lanes:
    """How much is done at once."""

    fetch_threads: int
    decode_threads: int
    bytes_in_flight: int  # of objects that are being fetched, or are fetched and not yet decoded


class Pipeline(Generic[Fetched, Decoded]):
    """`fetch(n)` for each n whose object's size is given, then `decode` of it with its number. Runs once.

    `decode` gets what is there: one object, or some small ones together, and gives a result for each.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        fetch: Callable[[int], Fetched],
        decode: Callable[[Sequence[tuple[int, Fetched]]], Sequence[Decoded]],
        lanes: Lanes,
    ) -> None:
        self._sizes = sizes
        self._fetch = fetch
        self._decode = decode
        self._fetchers = min(lanes.fetch_threads, max(1, len(sizes)))
        self._decoders = min(lanes.decode_threads, max(1, len(sizes)))
        self._budget = Budget(lanes.bytes_in_flight)
        self._ready: queue.SimpleQueue[tuple[int, Fetched] | None] = queue.SimpleQueue()
        self._results: dict[int, Decoded] = {}
        self._lock = threading.Lock()
        self._next = 0
        self._fetching = self._fetchers  # threads that may still put something into `ready`
        self._stopping = False

    def run(self) -> tuple[list[Decoded], tuple[StageTime, StageTime]]:
        """The results in the order of n, and the times of the two stages.

        The first exception of either function is raised; what is in flight then is finished, nothing else begun.
        """
        fetch_time = Stopwatch("fetch", workers=self._fetchers)
        decode_time = Stopwatch("decode", workers=self._decoders)
        with ThreadPoolExecutor(self._fetchers + self._decoders) as pool:
            try:
                lanes = [partial(self._fetch_all, fetch_time)] * self._fetchers
                lanes += [partial(self._decode_all, decode_time)] * self._decoders
                workers = [pool.submit(copy_context().run, lane) for lane in lanes]  # of this run, which may be stopped
                for worker in as_completed(workers):
                    worker.result()
            finally:
                self._stop()
        results = [self._results[number] for number in range(len(self._sizes))]
        return results, (fetch_time.read(), decode_time.read())

    def _fetch_all(self, watch: Stopwatch) -> None:
        try:
            for number in self._numbers():
                if not self._budget.take(self._sizes[number]):
                    return
                with watch.busy():
                    fetched = self._fetch(number)
                self._ready.put((number, fetched))
        finally:
            with self._lock:
                self._fetching -= 1
                last = self._fetching == 0
            if last:
                self._end_decoders()

    def _decode_all(self, watch: Stopwatch) -> None:
        while (first := self._ready.get()) is not None and not self._stopping:
            batch = self._with_others(first)
            with watch.busy():
                results = self._decode(batch)
            for (number, _), result in zip(batch, results, strict=True):
                self._results[number] = result
            size = sum(self._sizes[number] for number, _ in batch)
            del first, batch
            self._budget.give_back(size)

    def _with_others(self, first: tuple[int, Fetched]) -> list[tuple[int, Fetched]]:
        """The object and what is ready behind it, a fair share of it, as long as they are few and small."""
        batch, size = [first], self._sizes[first[0]]
        most = min(TOGETHER, 1 + self._ready.qsize() // self._decoders)
        while len(batch) < most and size < TOGETHER_BYTES:
            try:
                item = self._ready.get_nowait()
            except queue.Empty:
                break
            if item is None:
                self._ready.put(None)  # the end, for whoever asks next
                break
            batch.append(item)
            size += self._sizes[item[0]]
        return batch

    def _numbers(self) -> Iterator[int]:
        """What this thread is to fetch, one at a time."""
        while not self._stopping:
            with self._lock:
                number = self._next
                self._next += 1
            if number >= len(self._sizes):
                return
            yield number

    def _stop(self) -> None:
        self._stopping = True
        self._budget.close()
        self._end_decoders()

    def _end_decoders(self) -> None:
        for _ in range(self._decoders):
            self._ready.put(None)
