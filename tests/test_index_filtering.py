"""Filters against a plain loop over the exact order of all rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from index.arrays import Floats
from index.errors import UnknownColumn
from index.filtering import NONE, Groups, RowFilter, search_filtered
from index.searching import Searcher
from index.spec import IndexSpec
from tests.vectors import build, clustered, ivfpq

ROWS, DIMENSION = 3_000, 32


@pytest.fixture(scope="module")
def vectors() -> Floats:
    return clustered(ROWS, DIMENSION, seed=4)


@pytest.fixture(scope="module")
def flat(vectors: Floats, tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    return build(tmp_path_factory.mktemp("flat"), vectors, IndexSpec("flat", DIMENSION), shards=[1_000, 2_000])


@pytest.fixture(scope="module")
def coded(vectors: Floats, tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    return build(tmp_path_factory.mktemp("coded"), vectors, ivfpq(DIMENSION, nlist=16), shards=[1_000, 2_000])


def products(vectors: Floats, sizes: list[int]) -> Groups:
    """Groups of the given sizes over and over, each of rows that lie near each other."""
    order = np.argsort(vectors @ vectors[0])
    of_row = np.empty(ROWS, np.int64)
    bounds = np.cumsum(np.resize(sizes, ROWS))
    of_row[order] = np.searchsorted(bounds, np.arange(ROWS), side="right")
    return Groups(of_row, np.bincount(of_row))


def slowly(searcher: Searcher, query: int, k: int, row_filter: RowFilter) -> list[int]:
    """The same question asked of every row in its exact order."""
    seen: set[int] = set()
    rows: list[int] = []
    for row in searcher.exact(searcher.vectors([query]), ROWS).rows[0].tolist():
        group = None if row_filter.groups is None else int(row_filter.groups.of_row[row])
        if row_filter.keep is not None and not row_filter.keep[row]:
            continue
        if row_filter.own_row is not None and row == row_filter.own_row[0]:
            continue
        if row_filter.own_group is not None and group == row_filter.own_group[0]:
            continue
        if row_filter.one_per_group and group is not None and group in seen:
            continue
        seen.add(-2 if group is None else group)
        rows.append(row)
    return rows[:k]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.sampled_from([1, 2, 5, 40, 900]), min_size=1, max_size=4),
    share=st.sampled_from([None, 0.01, 0.3]),
    query=st.integers(0, ROWS - 1),
    k=st.sampled_from([1, 10, 200, 2 * ROWS]),
    own=st.booleans(),
    one=st.booleans(),
)
def test_exhaustive_answers_are_those_of_asking_every_row(
    flat: Searcher,
    coded: Searcher,
    vectors: Floats,
    *,
    sizes: list[int],
    share: float | None,
    query: int,
    k: int,
    own: bool,
    one: bool,
) -> None:
    groups = products(vectors, sizes)
    keep = None if share is None else np.random.default_rng(query).random(ROWS) < share
    row_filter = RowFilter(
        keep=keep,
        own_row=np.array([query]),
        groups=groups,
        own_group=groups.of_row[[query]] if own else None,
        one_per_group=one,
    )
    expected = slowly(flat, query, k, row_filter)
    (exact,) = search_filtered(flat, flat.vectors([query]), k, row_filter)
    assert exact.rows[0].tolist() == expected
    # The approximate answer may miss some, but is as long, and holds nothing that was not asked for.
    (near,) = search_filtered(coded, coded.vectors([query]), k, row_filter)
    assert len({*near.rows[0].tolist()} & {*expected}) >= 0.9 * len(expected) - 1
    rows = near.rows[0].tolist()
    assert len(rows) == len(expected)
    assert len(set(rows)) == len(rows)
    assert keep is None or keep[rows].all()
    assert query not in rows
    assert not own or groups.of_row[query] not in groups.of_row[rows]
    assert not one or len(set(groups.of_row[rows])) == len(rows)
    assert (np.diff(near.similarity[0]) <= 0).all()


@pytest.mark.parametrize("one", [False, True])
def test_a_filtered_approximate_search_misses_no_more_than_an_unfiltered_one(
    flat: Searcher, coded: Searcher, vectors: Floats, one: bool
) -> None:
    groups = products(vectors, [1, 5, 40])
    queries = np.arange(0, ROWS, 15)
    own = RowFilter(own_row=queries, groups=groups, own_group=groups.of_row[queries], one_per_group=one)

    def recall(row_filter: RowFilter) -> float:
        pair = (search_filtered(each, each.vectors(queries), 10, row_filter) for each in (coded, flat))
        return float(np.mean([len(set(a.rows[0]) & set(b.rows[0])) / 10 for a, b in zip(*pair, strict=True)]))

    assert recall(own) >= recall(RowFilter(own_row=queries))
    assert recall(own) > 0.99


def test_a_batch_answers_as_its_queries_do_alone(coded: Searcher, vectors: Floats) -> None:
    groups = products(vectors, [3, 700])
    queries = np.arange(0, ROWS, 100)
    together = search_filtered(
        coded, coded.vectors(queries), 10, RowFilter(groups=groups, own_group=groups.of_row[queries], own_row=queries)
    )
    for query, answer in zip(queries, together, strict=True):
        row_filter = RowFilter(groups=groups, own_group=groups.of_row[[query]], own_row=np.array([query]))
        alone = search_filtered(coded, coded.vectors([query]), 10, row_filter)[0]
        assert answer.rows.tolist() == alone.rows.tolist()


def test_rows_without_a_value_are_each_their_own_product(coded: Searcher) -> None:
    groups = Groups.of(coded, "product_id")  # of every third row only, and all different
    assert groups.sizes.tolist() == [1] * ROWS


def test_a_query_from_outside_has_no_own(coded: Searcher, vectors: Floats) -> None:
    groups = products(vectors, [40])
    row_filter = RowFilter(own_row=np.array([NONE]), groups=groups, own_group=np.array([NONE]))
    answers = search_filtered(coded, vectors[:1], 5, row_filter)
    assert answers[0].rows.tolist() == coded.exact(vectors[:1], 5).rows.tolist()


def test_where_nothing_is_wanted_nothing_is_found(coded: Searcher, vectors: Floats) -> None:
    assert search_filtered(coded, vectors[:2], 5, RowFilter(keep=np.zeros(ROWS, bool)))[1].rows.shape == (1, 0)
    everything = Groups(np.zeros(ROWS, np.int64), np.array([ROWS]))
    answers = search_filtered(coded, vectors[:1], 5, RowFilter(groups=everything, own_group=np.array([0])))
    assert answers[0].rows.shape == (1, 0)
    assert search_filtered(coded, np.empty((0, DIMENSION)), 5, RowFilter()) == []


def test_what_the_index_does_not_have_is_said(coded: Searcher) -> None:
    with pytest.raises(UnknownColumn, match="no column 'colour', only image_key, product_id, sha256"):
        Groups.of(coded, "colour")
    with pytest.raises(ValueError, match="needs the groups"):
        RowFilter(one_per_group=True)
