"""Rows by key and by number, and the keys like one that is not there, each against a plain dictionary or loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from index import key_table
from index.key_table import MISSING, KeyTable
from index.similar_keys import similar_keys

ODD = ["", " ", '"', "a", "A", "ä", "a\u0308", "a/b", "a\nb", "x" * 5_000, "x" * 5_000 + "y", "𝔸/🛍.jpg", "\ufeffa"]
TEXTS = st.one_of(st.sampled_from(ODD), st.text(max_size=6), st.text("ab/", max_size=8))


def table(keys: Sequence[str], shards: int = 1) -> pa.Table:
    """Keys cut into so many chunks, as an index's shards are; `number` says which row each is."""
    rows = pa.table({"image_key": pa.array(keys, pa.string()), "number": pa.array(range(len(keys)), pa.int64())})
    cuts = np.linspace(0, len(keys), shards + 1, dtype=int).tolist()
    return pa.concat_tables([rows.slice(a, b - a) for a, b in pairwise(cuts)])


def few_hashes(keys: Sequence[str]) -> NDArray[np.uint32]:
    return np.array([len(key) % 3 for key in keys], dtype=np.uint32)


@pytest.mark.parametrize("collide", [False, True])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.lists(TEXTS, unique=True, max_size=30), asked=st.lists(TEXTS, max_size=30), shards=st.integers(1, 4))
def test_keys_and_rows_are_those_of_a_dictionary(
    monkeypatch: pytest.MonkeyPatch, keys: list[str], asked: list[str], shards: int, *, collide: bool
) -> None:
    if collide:
        monkeypatch.setattr(key_table, "_hashes", few_hashes)
    rows = KeyTable(table(keys, shards))
    known = {key: row for row, key in enumerate(keys)}
    assert len(rows) == len(keys)
    assert rows.find(asked).tolist() == [known.get(key, MISSING) for key in asked]
    assert rows.find(keys).tolist() == list(range(len(keys)))
    backwards = list(range(len(keys)))[::-1]
    assert rows.take(np.array(backwards, np.int64)).column("image_key").to_pylist() == keys[::-1]
    assert rows.repeated() == []


@pytest.mark.parametrize("collide", [False, True])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.lists(st.sampled_from(ODD), max_size=20), shards=st.integers(1, 3))
def test_keys_that_are_there_twice_are_named(
    monkeypatch: pytest.MonkeyPatch, keys: list[str], shards: int, *, collide: bool
) -> None:
    if collide:
        monkeypatch.setattr(key_table, "_hashes", few_hashes)
    twice = {key for key, count in Counter(keys).items() if count > 1}
    assert set(KeyTable(table(keys, shards)).repeated()) == twice


def test_text_beyond_32_bit_offsets_is_in_one_piece_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_table, "LARGEST_COLUMN", 100)
    keys = [f"shop/{row:06d}.jpg" for row in range(50)]
    rows = KeyTable(table(keys, shards=4))
    assert rows.table["image_key"].type == pa.large_string()
    assert rows.table["image_key"].num_chunks == 1
    assert rows.find([keys[37], "shop"]).tolist() == [37, MISSING]


def test_a_name_that_is_no_text_is_not_found() -> None:
    rows = KeyTable(table(["a.jpg"]))
    assert rows.find(["\udcff.jpg"]).tolist() == [MISSING]
    assert similar_keys("a\udcff.jpg", rows.table["image_key"]) == ["a.jpg"]


def test_threads_find_what_one_finds() -> None:
    keys = [f"shop/{row:06d}.jpg" for row in range(3_000)]
    rows = KeyTable(table(keys, shards=3))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda key: rows.find([key])[0], keys[::7])) == list(range(0, 3_000, 7))


# Suggestions


def edits(one: str, other: str) -> int:
    """Levenshtein's distance by its definition."""
    above = list(range(len(other) + 1))
    for row, a in enumerate(one, start=1):
        line = [row]
        for column, b in enumerate(other, start=1):
            line.append(min(above[column] + 1, line[-1] + 1, above[column - 1] + (a != b)))
        above = line
    return above[-1]


@settings(max_examples=60)
@given(
    keys=st.lists(st.text("abc", min_size=10, max_size=14), unique=True, max_size=25),
    asked=st.text("abc", min_size=10, max_size=14),
)
def test_the_nearest_keys_are_suggested(keys: list[str], asked: str) -> None:
    near = sorted((edits(asked, key), key) for key in keys if edits(asked, key) <= 2)
    expected = [key for distance, key in near if distance <= 2 * near[0][0]][:3]
    assert similar_keys(asked, table(keys, 2)["image_key"]) == expected


CATALOGUE = [
    *(f"mugs/{name}/{number}.jpg" for name in ("blue-mug", "red-mug", "green-cup") for number in (1, 2, 3)),
    "plates/Große Teller/1.jpeg",
    "2.jpg",
    "lamps/desk/front.webp",
]


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        ("mugs/blue-mugg/1.jpg", "mugs/blue-mug/1.jpg"),
        ("mugs/bleu-mug/1.jpg", "mugs/blue-mug/1.jpg"),
        ("MUGS/Blue-Mug/1.JPG", "mugs/blue-mug/1.jpg"),
        ("mugs/blue-mug/1.jpeg", "mugs/blue-mug/1.jpg"),
        ("mugs/blue-mug/1.webp", "mugs/blue-mug/1.jpg"),
        ("./mugs/blue-mug/1.jpg", "mugs/blue-mug/1.jpg"),
        ("/mugs/blue-mug/1.jpg", "mugs/blue-mug/1.jpg"),
        ("/home/shop/pictures/mugs/blue-mug/1.jpg", "mugs/blue-mug/1.jpg"),
        ("/home/shop/pictures/mugs/blue-mugg/1.jpg", "mugs/blue-mug/1.jpg"),
        ("s3://bucket/mugs/blue-mug/1.jpg", "mugs/blue-mug/1.jpg"),
        ("s3://bucket/some/prefix/mugs/blue-mug/1.jpg", "mugs/blue-mug/1.jpg"),
        ("https://cdn.example.org/mugs/blue-mug/1.jpg?w=200", "mugs/blue-mug/1.jpg"),
        ("https://cdn.example.org/plates/Gro%C3%9Fe%20Teller/1.jpeg", "plates/Große Teller/1.jpeg"),
        ("plates/grosse teller/1.jpg", "plates/Große Teller/1.jpeg"),
        ("desk/front.webp", "lamps/desk/front.webp"),
        ("front.jpg", None),
        ("nothing/like.this", None),
        ("1.jpg", "2.jpg"),
        ("", None),
        ("/", None),
        ("x" * 100_000, None),
    ],
)
def test_what_was_meant_is_suggested_first(asked: str, first: str | None) -> None:
    suggested = similar_keys(asked, table(CATALOGUE)["image_key"])
    assert suggested[:1] == ([] if first is None else [first])
    assert len(suggested) <= 3


def test_a_key_that_only_lacks_what_stands_before_it_is_suggested_alone() -> None:
    for asked in ("/mugs/blue-mug/1.jpg", "Mugs/blue-mug/1.jpg", "s3://shop/mugs/blue-mug/1.jpg"):
        assert similar_keys(asked, table(CATALOGUE)["image_key"]) == ["mugs/blue-mug/1.jpg"]


def test_an_empty_catalogue_suggests_nothing() -> None:
    assert similar_keys("a.jpg", table([])["image_key"]) == []
