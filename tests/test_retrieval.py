from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.retrieval import Catalogue, Integers, Neighbours, exact_search, measure_look, search_by


def slow_hits(
    near: NDArray[Any], products: list[str | None], kinds: list[str | None], query: int, k: int
) -> tuple[bool | None, bool | None]:
    """By product and by kind, None where the picture may not ask. Wrong pictures come first among equals."""
    everyone = [row for row in range(len(products)) if row != query]
    own = {row for row in everyone if products[query] and products[row] == products[query]}
    others = [row for row in everyone if row not in own]
    alike = {row for row in others if kinds[query] and kinds[row] == kinds[query]}

    def first(rows: list[int], right: set[int]) -> bool:
        order = sorted(rows, key=lambda row: (-near[query, row], row in right))
        return any(row in right for row in order[:k])

    return (first(everyone, own) if own else None), (first(others, alike) if alike else None)


names = st.sampled_from(["a", "b", "c", "d", "", None])


Rows = list[tuple[str | None, str | None, int]]
shown = st.lists(st.tuples(names, names, st.integers(0, 2)), min_size=1, max_size=12)


def shares_of_hits(near: NDArray[Any], rows: Rows, k: int) -> list[tuple[float, float]]:
    """What is measured and what sorting by hand gives, by product and by kind."""
    products, kinds = [row[0] for row in rows], [row[1] for row in rows]
    measured = measure_look(search_by(lambda queries: near[queries]), Catalogue(products, kinds), (k,), bootstrap=5)
    expected = [slow_hits(near, products, kinds, query, k) for query in range(len(rows))]
    pairs = []
    for which, retrieval in enumerate((measured.same_product, measured.same_kind)):
        hits = [hit[which] for hit in expected if hit[which] is not None]
        assert retrieval.queries == len(hits)
        if hits:
            pairs.append((retrieval.recall[k].value, float(np.mean([bool(hit) for hit in hits]))))
    return pairs


@settings(max_examples=60, deadline=None)
@given(shown, st.integers(1, 4), st.integers(0, 1000))
def test_it_agrees_with_sorting_by_hand(rows: Rows, k: int, seed: int) -> None:
    near = np.random.default_rng(seed).permutation(len(rows) ** 2).reshape(len(rows), -1).astype(np.float64)
    for measured, expected in shares_of_hits(near, rows, k):
        assert measured == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(shown, st.integers(1, 4))
def test_ties_never_help(rows: Rows, k: int) -> None:
    places = np.array([row[2] for row in rows], dtype=np.float64)
    for measured, expected in shares_of_hits(-np.abs(places[:, None] - places[None]), rows, k):
        assert measured <= expected + 1e-9


def test_a_search_that_finds_less_and_not_itself_is_measured_alike() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(60, 4))
    catalogue = Catalogue([str(row // 3) for row in range(60)], [str(row // 15) for row in range(60)])
    exact = exact_search(embeddings)

    def without_itself(queries: Integers, count: int) -> Neighbours:
        rows, near = exact(queries, min(60, count + 1))
        others = [row[row != query][:count] for query, row in zip(queries, rows, strict=True)]
        padding = np.full((len(queries), 2), -1)
        values = np.stack([near[i][rows[i] != query][:count] for i, query in enumerate(queries)])
        return np.concatenate([np.stack(others), padding], 1), np.concatenate([values, 0.0 * padding], 1)

    assert measure_look(without_itself, catalogue, bootstrap=20) == measure_look(exact, catalogue, bootstrap=20)


def test_a_large_catalogue_asks_with_a_sample_that_hardly_changes_as_it_grows() -> None:
    products = [str(row // 4) for row in range(8000)]
    before, after = (set(Catalogue(products[:count]).asking(500, seed=0).tolist()) for count in (7200, 8000))
    assert len(before) == len(after) == 500
    assert len(before & after) > 400


def test_a_sample_is_near_the_whole() -> None:
    rng = np.random.default_rng(1)
    product = np.arange(3000) // 3
    embeddings = rng.normal(size=(1000, 16))[product] + 0.9 * rng.normal(size=(3000, 16))
    catalogue = Catalogue([str(number) for number in product], [str(number % 20) for number in product])
    search = exact_search(embeddings)
    whole, sample = (measure_look(search, catalogue, most_queries=most, bootstrap=200) for most in (3000, 600))
    assert (whole.same_product.queries, sample.same_product.queries) == (3000, 600)
    found = sample.same_product.recall[1]
    assert found.low is not None and found.high is not None
    assert found.low < whole.same_product.recall[1].value < found.high
    assert found.high - found.low < 0.15


def test_alike_embeddings_find_no_product_and_no_kind() -> None:
    catalogue = Catalogue([str(row // 2) for row in range(40)], [str(row // 20) for row in range(40)])
    found = measure_look(exact_search(np.ones((40, 3))), catalogue, bootstrap=10)
    assert [recall.value for recall in (*found.same_product.recall.values(), *found.same_kind.recall.values())] == [
        0
    ] * 4


def test_nobody_asks_where_nothing_could_be_found() -> None:
    found = measure_look(exact_search(np.eye(3)), Catalogue(["a", "b", None], None))
    assert found.to_dict() == {"same_product": {"queries": 0, "recall": {}}, "same_kind": {"queries": 0, "recall": {}}}


def test_odd_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="expected every k from 1"):
        measure_look(exact_search(np.eye(3)), Catalogue(["a", "a", "b"]), (0, 1))
    with pytest.raises(ValueError, match="a kind for each of 2 pictures, found 1"):
        Catalogue(["a", "b"], ["c"])
