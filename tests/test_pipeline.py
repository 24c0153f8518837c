"""Fetching and decoding side by side, held against a plain loop, with bounds that are watched."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.ingest.pipeline import Lanes, Pipeline


def each(decode: Callable[[int, int], int]) -> Callable[[Sequence[tuple[int, int]]], list[int]]:
    """The function for one object at a time, as a pipeline calls it."""
    return lambda batch: [decode(number, fetched) for number, fetched in batch]


WIDE = Lanes(fetch_threads=4, decode_threads=2, bytes_in_flight=1000)


@dataclass
class Watched:
    """What is in flight, and the most that ever was."""

    sizes: list[int]
    lock: threading.Lock = field(default_factory=threading.Lock)
    flying: int = 0
    most: int = 0
    alone: int = 0  # the largest single object that flew

    def fetch(self, number: int) -> int:
        with self.lock:
            self.flying += self.sizes[number]
            self.most = max(self.most, self.flying)
        time.sleep(0.0003)
        return number * number

    def decode(self, number: int, fetched: int) -> int:
        assert fetched == number * number
        with self.lock:
            self.flying -= self.sizes[number]
        return fetched + 1


def ended(before: int, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.005)
    return threading.active_count() <= before


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 40), max_size=40),
    fetchers=st.integers(1, 6),
    decoders=st.integers(1, 3),
    limit=st.integers(1, 60),
)
def test_the_results_are_those_of_a_plain_loop_and_no_more_bytes_fly_than_allowed(
    sizes: list[int], fetchers: int, decoders: int, limit: int
) -> None:
    watched = Watched(sizes)
    results, _ = Pipeline(sizes, watched.fetch, each(watched.decode), Lanes(fetchers, decoders, limit)).run()
    assert results == [number * number + 1 for number in range(len(sizes))]
    assert watched.most <= max([limit, *sizes])  # one that is larger than the limit flies alone
    assert watched.flying == 0


def test_a_slow_object_holds_up_no_other() -> None:
    others, decoded = threading.Event(), []

    def fetch(number: int) -> int:
        if number == 0:
            assert others.wait(10)  # would time out if the others stood in line behind it
        return number

    def decode(number: int, fetched: int) -> int:
        decoded.append(number)
        if len(decoded) == 99:
            others.set()
        return fetched

    results, _ = Pipeline([1] * 100, fetch, each(decode), WIDE).run()
    assert results == list(range(100))
    assert decoded[-1] == 0


def test_a_backlog_before_decoding_stops_fetching() -> None:
    fetched, release = [], threading.Event()

    def fetch(number: int) -> int:
        fetched.append(number)
        return number

    def decode(number: int, _: int) -> int:
        assert release.wait(10)
        return number

    pipeline = Pipeline([10] * 50, fetch, each(decode), Lanes(4, 1, 40))
    thread = threading.Thread(target=pipeline.run)
    thread.start()
    time.sleep(0.2)
    assert len(fetched) == 4
    release.set()
    thread.join(10)
    assert len(fetched) == 50


def _fails_in_fetch(number: int) -> int:
    if number == 30:
        raise ValueError("object 30")
    return number


def _fails_in_decode(number: int, fetched: int) -> int:
    return _fails_in_fetch(number) + fetched


@pytest.mark.parametrize(
    ("fetch", "decode"),
    [(_fails_in_fetch, lambda number, _: number), (lambda number: number, _fails_in_decode)],
    ids=["fetch", "decode"],
)
def test_a_failure_ends_everything_and_is_raised(
    fetch: Callable[[int], int], decode: Callable[[int, int], int]
) -> None:
    before, begun = threading.active_count(), []

    def counted(number: int) -> int:
        begun.append(number)
        return fetch(number)

    with pytest.raises(ValueError, match="object 30"):
        Pipeline([10] * 100_000, counted, each(decode), Lanes(4, 2, 100)).run()
    assert ended(before)
    assert len(begun) < 1000


def test_an_interrupt_leaves_no_thread_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()

    def interrupted(_: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("tasks.ingest.pipeline.as_completed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Pipeline([10] * 100_000, lambda number: number, each(lambda number, _: number), WIDE).run()
    assert ended(before)


def test_the_times_tell_which_stage_the_other_waited_for() -> None:
    def slow(number: int, _: int) -> int:
        time.sleep(0.01)
        return number

    _, (fetch, decode) = Pipeline([1] * 40, lambda number: number, each(slow), Lanes(2, 2, 4)).run()
    assert (fetch.name, decode.name) == ("fetch", "decode")
    assert decode.busy_share > 0.7
    assert fetch.busy_share < 0.3
    assert decode.busy_s + decode.waiting_s == pytest.approx(fetch.busy_s + fetch.waiting_s, abs=0.05)
