"""Files of keys as editors, spreadsheets and databases write them, against the keys that went in."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from index.errors import UnknownKey
from index.searching import Searcher
from index.spec import IndexSpec
from lake.errors import LakeError
from tasks.search.key_lists import KeyCounts, find_listed, read_keys
from tests.vectors import build, clustered

KEYS = [
    "mugs/blue/1.jpg",
    "mugs/blue, big.jpg",
    'mugs/24" wide.jpg',
    '"quoted".jpg"',
    '"in quotes.jpg"',
    "in quotes.jpg",
    " blank before.jpg",
    "blank before.jpg",
    "blank after.jpg ",
    "two  blanks; semicolon.jpg",
    "Große Tasse/ñ.jpg",
    "line\u2028separator.jpg",
    "🛍/𝔸.png",
]


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    keys = pa.table({"image_key": KEYS})
    vectors = clustered(len(KEYS), 8, seed=1)
    return build(tmp_path_factory.mktemp("index"), vectors, IndexSpec("flat", 8), shards=[5, 8], keys=keys)


def found(searcher: Searcher, path: Path) -> list[str]:
    mask = find_listed(searcher, read_keys(path)).mask
    return [KEYS[row] for row in np.flatnonzero(mask)]


def as_lines(keys: list[str]) -> str:
    return "".join(f"{key}\n" for key in keys)


def as_excel(keys: list[str]) -> str:
    """Quotes where they are needed, CRLF."""
    sink = io.StringIO()
    csv.writer(sink).writerows([[key] for key in keys])
    return sink.getvalue()


def as_all_quoted(keys: list[str]) -> str:
    sink = io.StringIO()
    csv.writer(sink, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([["image_key"], *([key] for key in keys)])
    return sink.getvalue()


def with_columns(delimiter: str) -> Callable[[list[str]], str]:
    def write(keys: list[str]) -> str:
        sink = io.StringIO()
        rows = [["polarity", "image_key", "note"], *(["0.5", key, "a, b; c"] for key in keys)]
        csv.writer(sink, delimiter=delimiter).writerows(rows)
        return sink.getvalue()

    return write


WRITERS: dict[str, Callable[[list[str]], str]] = {
    "lines": as_lines,
    "crlf": lambda keys: as_lines(keys).replace("\n", "\r\n"),
    "cr": lambda keys: as_lines(keys).replace("\n", "\r"),
    "no last line end": lambda keys: as_lines(keys).removesuffix("\n"),
    "header": lambda keys: "image_key\n" + as_lines(keys),
    "empty lines": lambda keys: "\n  \n" + as_lines(keys).replace("\n", "\n\n") + "\t\n",
    "excel": as_excel,
    "all quoted": as_all_quoted,
    "commas": with_columns(","),
    "semicolons": with_columns(";"),
    "tabs": with_columns("\t"),
}
LISTED = [KEYS[0], KEYS[1], KEYS[2], KEYS[6], KEYS[10], KEYS[11], KEYS[12]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("writer", WRITERS)
def test_however_a_list_is_written_its_keys_are_found(
    searcher: Searcher, tmp_path: Path, writer: str, encoding: str
) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""  # "utf-16" writes one by itself
    (tmp_path / "keys").write_bytes((mark + WRITERS[writer](LISTED)).encode(encoding))
    assert found(searcher, tmp_path / "keys") == LISTED


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(0, len(KEYS) - 1), max_size=20), writer=st.sampled_from(sorted(WRITERS)))
def test_any_list_of_any_writer_is_found(searcher: Searcher, tmp_path: Path, rows: list[int], writer: str) -> None:
    """As far as it says what it means: a key in quotes is itself, in a file that quotes the other keys too."""
    plain = [row for row in rows if writer not in ("excel", "all quoted") or "quote" not in KEYS[row]]
    (tmp_path / "keys").write_bytes(WRITERS[writer]([KEYS[row] for row in plain]).encode())
    listed = find_listed(searcher, read_keys(tmp_path / "keys"))
    assert np.flatnonzero(listed.mask).tolist() == sorted(set(plain))
    assert listed.counts == KeyCounts(len(set(plain)), len(plain) - len(set(plain)), 0, ())


@pytest.mark.parametrize("options", ["HEADER false", "HEADER true", "HEADER true, FORCE_QUOTE (image_key)"])
@pytest.mark.parametrize("columns", ["image_key", "1 AS polarity, image_key"])
def test_what_duckdb_copies_is_found(searcher: Searcher, tmp_path: Path, options: str, columns: str) -> None:
    if options == "HEADER false" and columns != "image_key":
        pytest.skip("nothing says which column it is")
    with duckdb.connect() as sql:
        sql.execute("CREATE TABLE t AS SELECT unnest($keys) AS image_key", {"keys": LISTED})
        sql.execute(f"COPY (SELECT {columns} FROM t) TO '{tmp_path}/keys.csv' ({options})")
        sql.execute(f"COPY (SELECT {columns} FROM t) TO '{tmp_path}/keys.parquet'")
    assert found(searcher, tmp_path / "keys.csv") == found(searcher, tmp_path / "keys.parquet") == LISTED


def test_a_line_is_first_tried_as_it_is(searcher: Searcher) -> None:
    def rows(*lines: str) -> list[str]:
        return [KEYS[row] for row in np.flatnonzero(find_listed(searcher, lines).mask)]

    assert rows('"in quotes.jpg"') == ['"in quotes.jpg"']
    assert rows("in quotes.jpg") == ["in quotes.jpg"]
    assert rows(' "in quotes.jpg" ') == ['"in quotes.jpg"']  # the blanks are taken off first
    assert rows('"""in quotes.jpg"""') == ['"in quotes.jpg"']
    assert rows(" blank before.jpg") == [" blank before.jpg"]
    assert rows("  blank before.jpg") == ["blank before.jpg"]
    assert rows('" blank before.jpg"') == [" blank before.jpg"]
    assert rows("blank after.jpg", KEYS[0]) == KEYS[:1]  # blanks are taken off, never added


def test_what_the_index_lacks_and_what_is_there_twice_is_counted(searcher: Searcher) -> None:
    lines = [KEYS[0], f" {KEYS[0]} ", "gone.jpg", '"gone.jpg"', "also gone.jpg", KEYS[1], f'"{KEYS[1]}"', KEYS[2]]
    assert find_listed(searcher, lines).counts == KeyCounts(5, 3, 2, ("gone.jpg", "also gone.jpg"))
    assert find_listed(searcher, []).counts == KeyCounts(0, 0, 0, ())
    assert not find_listed(searcher, []).mask.any()


def test_where_none_is_there_the_nearest_are_said(searcher: Searcher) -> None:
    with pytest.raises(
        UnknownKey, match=r"does not hold any of the 2 keys .* such as 'mugs/blu/1.jpg' \(similar keys: "
    ):
        find_listed(searcher, ['"mugs/blu/1.jpg"', "x"])
    with pytest.raises(UnknownKey, match=r"does not hold the one key to search among, such as 'x' \(no key is like it"):
        find_listed(searcher, ["x"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"mugs/\xff.jpg\n", "keys is not UTF-8 text: invalid start byte; save it as UTF-8"),
        (b"\xff\xfea", "keys is not UTF-16 text: truncated data; save it as UTF-8"),
        (b"PAR1 and no more", "keys is no Parquet table of keys"),
    ],
)
def test_what_is_no_list_of_keys_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(LakeError, match=message):
        read_keys(tmp_path / "keys")


def test_a_parquet_table_needs_the_column(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"image_key": pa.array(["a.jpg", None, ""])}), tmp_path / "keys")
    assert read_keys(tmp_path / "keys") == ("a.jpg",)
    parquet.write_table(pa.table({"key": ["a.jpg"], "n": [1]}), tmp_path / "keys")
    with pytest.raises(LakeError, match="keys has no column image_key, only key, n"):
        read_keys(tmp_path / "keys")
    with pytest.raises(LakeError, match="nowhere can't be read: No such file"):
        read_keys(tmp_path / "nowhere")
    (tmp_path / "empty").touch()
    assert read_keys(tmp_path / "empty") == ()
