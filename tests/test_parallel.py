"""Reading ahead and the regrouping of tables, held against a plain list and a plain concatenation."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.parallel import read_ahead
from tasks.shards import in_tables


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


@given(items=st.lists(st.integers()), ahead=st.integers(1, 6))
def test_what_is_read_ahead_is_what_there_is_in_order(items: list[int], ahead: int) -> None:
    assert list(read_ahead(items, ahead)) == items


def test_no_more_is_read_ahead_than_may_be() -> None:
    source = Watched(100)
    ahead = read_ahead(source, 3)
    for consumed in range(20):
        assert next(ahead) == consumed
        time.sleep(0.005)
        assert source.taken <= consumed + 1 + 3
    ahead.close()  # type: ignore[attr-defined]


def test_a_source_that_fails_fails_where_its_item_was_due() -> None:
    before = threading.active_count()
    ahead = read_ahead(Watched(100, fails_at=5), 2)
    assert [next(ahead) for _ in range(5)] == list(range(5))
    with pytest.raises(OSError, match="broke off"):
        next(ahead)
    assert ended(before)


def test_a_consumer_that_stops_ends_the_reading() -> None:
    before = threading.active_count()
    ahead = read_ahead(Watched(1_000_000), 2)
    next(ahead)
    ahead.close()  # type: ignore[attr-defined]
    assert ended(before)


# in_tables


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
