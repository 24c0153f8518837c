"""The bounded map and the regrouping of tables, held against a plain list and a plain concatenation."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.parallel import bounded_map, read_ahead
from tasks.workspace import in_tables


class Watched:
    """An iterator that counts how many items were taken from it."""

    def __init__(self, count: int, fails_at: int | None = None) -> None:
        self._count = count
        self._fails_at = fails_at
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        for item in range(self._count):
            if item == self._fails_at:
                raise OSError("the listing broke off")
            self.taken += 1
            yield item


def ended(before: int, seconds: float = 10) -> bool:
    """Whether the threads started since then have all ended."""
    deadline = time.monotonic() + seconds
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.005)
    return threading.active_count() <= before


workers, windows = st.integers(1, 6), st.integers(1, 12)


@settings(deadline=None)
@given(items=st.lists(st.integers()), workers=workers, window=windows)
def test_the_results_are_those_of_a_plain_map_in_the_same_order(items: list[int], workers: int, window: int) -> None:
    assert list(bounded_map(lambda item: item * item, items, workers=workers, window=window)) == [i * i for i in items]


def test_order_holds_where_the_first_item_is_the_slowest() -> None:
    others_done = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert others_done.wait(10)
        if item == 7:
            others_done.set()
        return item

    assert list(bounded_map(work, range(8), workers=8, window=8)) == list(range(8))


@settings(deadline=None)
@given(count=st.integers(0, 40), workers=workers, window=windows)
def test_no_more_than_a_window_of_items_is_taken_ahead_of_the_consumer(count: int, workers: int, window: int) -> None:
    items = Watched(count)
    received = 0
    for _ in bounded_map(lambda item: item, items, workers=workers, window=window):
        received += 1
        assert items.taken - received < window
    assert received == items.taken == count


@settings(max_examples=25, deadline=None)
@given(workers=st.integers(1, 4), window=st.integers(1, 8))
def test_no_more_calls_run_at_once_than_there_are_workers(workers: int, window: int) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def work(item: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.0005)
        with lock:
            running -= 1
        return item

    assert list(bounded_map(work, range(12), workers=workers, window=window)) == list(range(12))
    assert most <= min(workers, window)


def test_items_are_worked_on_at_the_same_time() -> None:
    together = threading.Barrier(4)  # broken unless four calls run at once
    assert len(list(bounded_map(lambda _: together.wait(10), range(8), workers=4, window=4))) == 8


def test_nothing_is_taken_before_the_first_result_is_asked_for() -> None:
    items = Watched(5)
    results = bounded_map(lambda item: item, items, workers=2, window=3)
    assert items.taken == 0
    assert next(results) == 0
    assert items.taken == 3


@settings(deadline=None)
@given(bad=st.integers(0, 19), workers=workers, window=windows)
def test_an_exception_is_raised_where_its_result_was_due_and_nothing_hangs(bad: int, workers: int, window: int) -> None:
    def work(item: int) -> int:
        if item == bad:
            raise ValueError(f"item {item}")
        return item

    before = threading.active_count()
    items, received = Watched(20), []
    with pytest.raises(ValueError, match=f"^item {bad}$"):
        for result in bounded_map(work, items, workers=workers, window=window):
            received.append(result)
    assert received == list(range(bad))
    assert items.taken <= bad + window
    assert ended(before)


def test_of_two_exceptions_the_earlier_items_is_raised() -> None:
    later_failed = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert later_failed.wait(10)
            raise ValueError("first")
        later_failed.set()
        raise KeyError("second")

    with pytest.raises(ValueError, match="first"):
        list(bounded_map(work, range(2), workers=2, window=2))


def test_an_exception_of_the_items_themselves_surfaces_and_nothing_hangs() -> None:
    before = threading.active_count()
    with pytest.raises(OSError, match="broke off"):
        list(bounded_map(lambda item: item, Watched(10, fails_at=5), workers=3, window=4))
    assert ended(before)


def test_a_consumer_that_stops_early_leaves_no_thread_and_no_work_behind() -> None:
    before, called, stopped = threading.active_count(), [], threading.Event()

    def work(item: int) -> int:
        called.append(item)
        return item if item == 0 else int(stopped.wait(10))

    results = bounded_map(work, Watched(1000), workers=1, window=6)
    assert next(results) == 0
    threading.Timer(0.2, stopped.set).start()
    results.close()  # type: ignore[attr-defined]
    assert ended(before)
    assert called in ([0], [0, 1])  # the others were taken but never begun


def test_one_map_feeds_another_without_a_deadlock() -> None:
    inner = bounded_map(lambda item: item + 1, Watched(200), workers=3, window=5)
    outer = bounded_map(lambda item: item * 2, inner, workers=3, window=5)
    assert list(outer) == [2 * (item + 1) for item in range(200)]


# in_tables


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 30), max_size=12), rows=st.integers(1, 40))
def test_regrouped_tables_are_the_concatenation_cut_at_every_so_many_rows(sizes: list[int], rows: int) -> None:
    batches, start = [], 0
    for size in sizes:
        batches.append(pa.record_batch({"n": pa.array(range(start, start + size), pa.int64())}))
        start += size
    tables = list(in_tables(iter(batches), rows))
    assert [value for table in tables for value in table["n"].to_pylist()] == list(range(start))
    full, rest = divmod(start, rows)
    assert [table.num_rows for table in tables] == [rows] * full + ([rest] if rest else [])


@pytest.mark.parametrize("sizes", [[], [0], [0, 0, 0]])
def test_no_rows_make_no_table(sizes: list[int]) -> None:
    batches = [pa.record_batch({"n": pa.array([0] * size, pa.int64())}) for size in sizes]
    assert list(in_tables(iter(batches), 5)) == []


def test_regrouping_reads_no_further_than_the_table_it_gives() -> None:
    taken = Watched(100)
    tables = in_tables((pa.record_batch({"n": [item] * 4}) for item in taken), 10)
    assert next(tables).num_rows == 10
    assert taken.taken == 3


def test_regrouping_keeps_the_schema_and_nulls() -> None:
    schema = pa.schema([("key", pa.string()), ("at", pa.timestamp("us", tz="UTC"))])
    batch = pa.record_batch(
        [pa.array(["a", None, "c"]), pa.array([1, 2, None], schema.field("at").type)], schema=schema
    )
    tables = list(in_tables(iter([batch, batch]), 4))
    assert pa.concat_tables(tables).combine_chunks().equals(pa.Table.from_batches([batch, batch]).combine_chunks())
    assert all(table.schema.equals(schema) for table in tables)


def test_reading_ahead_keeps_order_and_takes_no_more_than_it_may() -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    ahead = read_ahead(source(), 3)
    assert next(ahead) == 0
    time.sleep(0.05)
    assert len(taken) <= 4
    assert list(ahead) == list(range(1, 20))
    assert list(read_ahead([], 3)) == []


def test_a_source_that_fails_fails_where_its_item_was_due() -> None:
    def source() -> Iterator[int]:
        yield from range(5)
        raise OSError("gone")

    ahead = read_ahead(source(), 2)
    assert [next(ahead) for _ in range(5)] == list(range(5))
    with pytest.raises(OSError, match="gone"):
        next(ahead)


def test_a_consumer_that_stops_ends_the_reading() -> None:
    ahead = read_ahead(iter(range(1_000_000)), 2)
    next(ahead)
    before = threading.active_count()
    ahead.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before - 1
