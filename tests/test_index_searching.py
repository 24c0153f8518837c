from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from index.arrays import Floats
from index.errors import BadVectors, UnknownKey
from index.spec import IndexSpec
from tests import built_index
from tests.built_index import DIMENSION, ROWS, Built
from tests.vectors import build, clustered, ivfpq

# pytest finds a file's fixtures by the names in it.
vectors, queries, flat, coded = built_index.vectors, built_index.queries, built_index.flat, built_index.coded


def truth(vectors: Floats, queries: Floats, k: int, metric: str = "cosine") -> tuple[np.ndarray, np.ndarray]:
    """Exact search, one line of numpy a step, over the vectors as fp16 keeps them."""
    kept = vectors.astype(np.float16).astype(np.float64)
    if metric == "cosine":
        kept /= np.linalg.norm(kept, axis=1, keepdims=True)
        similarity = ((queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ kept.T).clip(-1, 1)
    else:
        similarity = -np.linalg.norm(queries[:, None].astype(np.float64) - kept[None], axis=2)
    rows = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(similarity, rows, axis=1)


def test_a_flat_index_is_exact(flat: Built, queries: Floats) -> None:
    rows, similarity = truth(flat.vectors, queries, 10)
    neighbours = flat.searcher.search(3 * queries, 10)
    np.testing.assert_array_equal(neighbours.rows, rows)
    np.testing.assert_allclose(neighbours.similarity, similarity, atol=1e-6)
    assert neighbours.rows.dtype == np.int64
    assert neighbours.similarity.dtype == np.float32


def test_a_coded_index_finds_nearly_all_and_its_distances_are_exact(coded: Built, queries: Floats) -> None:
    rows, _ = truth(coded.vectors, queries, 10)
    neighbours = coded.searcher.search(queries, 10, nprobe=16, rerank_factor=8)
    hits = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(neighbours.rows, rows, strict=True)])
    assert hits > 0.95
    exact = np.einsum("qd,qkd->qk", queries, coded.vectors[neighbours.rows])
    np.testing.assert_allclose(neighbours.similarity, exact, atol=1e-3)
    assert (np.diff(neighbours.similarity, axis=1) <= 0).all()


def test_exact_search_of_a_coded_index_is_exact(coded: Built, queries: Floats) -> None:
    np.testing.assert_array_equal(coded.searcher.exact(queries, 10).rows, truth(coded.vectors, queries, 10)[0])


def test_candidates_of_every_row_make_a_coded_index_exact(coded: Built, queries: Floats) -> None:
    neighbours = coded.searcher.search(queries, 10, nprobe=32, rerank_factor=200)
    np.testing.assert_array_equal(neighbours.rows, truth(coded.vectors, queries, 10)[0])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", ["flat", "pq", "ivfpq"])
def test_every_kind_finds_the_nearest_under_every_metric(kind: str, metric: str, tmp_path: Path) -> None:
    spec = {
        "flat": IndexSpec("flat", 32, metric),  # type: ignore[arg-type]
        "pq": IndexSpec("pq", 32, metric, pq_subquantizers=16),  # type: ignore[arg-type]
        "ivfpq": ivfpq(32, nlist=8, pq_subquantizers=16, pca=None, metric=metric),
    }[kind]
    scale = 1 if metric == "cosine" else np.linspace(0.5, 20, 1_500)[:, None]
    vectors = (scale * clustered(1_500, 32, seed=8)).astype(np.float32)
    searcher = build(tmp_path, vectors, spec, shards=[1_000, 500])
    neighbours = searcher.search(vectors[::50], 5, nprobe=8, rerank_factor=20)
    _, similarity = truth(vectors, vectors[::50], 5, metric)
    np.testing.assert_allclose(neighbours.similarity, similarity, atol=1e-4)


def test_cutting_into_shards_changes_nothing(coded: Built, queries: Floats, tmp_path: Path) -> None:
    whole = build(tmp_path, coded.vectors, ivfpq())
    keep = np.arange(ROWS) % 3 > 0
    for settings_ in ({}, {"nprobe": 1}, {"keep": keep}):
        one, several = (each.search(queries, 10, **settings_) for each in (whole, coded.searcher))
        np.testing.assert_array_equal(one.rows, several.rows)
        np.testing.assert_array_equal(one.similarity, several.similarity)
    rows = [0, 1_499, 1_500, 3_799, 3_800, 3_999]
    assert whole.keys(rows).equals(coded.searcher.keys(rows))


@pytest.mark.parametrize("built", ["flat", "coded"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    share=st.sampled_from([0, 0.0005, 0.01, 0.2, 0.27, 0.6, 1]),
    seed=st.integers(0, 2**32),
    k=st.integers(1, 60),
)
def test_a_filter_never_lets_a_dropped_row_through_nor_loses_one(
    request: pytest.FixtureRequest, queries: Floats, built: str, share: float, seed: int, k: int
) -> None:
    searcher = request.getfixturevalue(built).searcher
    keep = np.random.default_rng(seed).random(ROWS) < share
    neighbours = searcher.search(queries[:5], k, keep=keep, nprobe=1)
    assert neighbours.rows.shape == (5, min(k, keep.sum()))
    assert (neighbours.rows >= 0).all()  # faiss's −1 would name the last row
    assert keep[neighbours.rows].all()
    assert all(len(set(line)) == len(line) for line in neighbours.rows.tolist())


def test_a_filter_of_far_away_rows_still_fills_every_answer(coded: Built) -> None:
    """Rows kept lie in other lists than the query's, so that the first probe meets none."""
    query = coded.vectors[:1]
    order = np.argsort(-(coded.vectors @ query[0]))
    keep = np.zeros(ROWS, bool)
    keep[order[2_000:]] = True
    neighbours = coded.searcher.search(query, 10, keep=keep, nprobe=1, rerank_factor=1)
    assert neighbours.rows.shape == (1, 10)
    assert keep[neighbours.rows].all()


def test_a_filtered_search_finds_as_much_as_an_unfiltered_one(coded: Built, queries: Floats) -> None:
    keep = np.random.default_rng(0).random(ROWS) < 0.3
    neighbours = coded.searcher.search(queries, 10, keep=keep, rerank_factor=8)
    exact = coded.searcher.exact(queries, 10, keep=keep)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(neighbours.rows, exact.rows, strict=True)]) > 0.95


@pytest.mark.parametrize("built", ["flat", "coded"])
def test_asking_for_more_than_there_is_returns_every_row_once(
    request: pytest.FixtureRequest, queries: Floats, built: str
) -> None:
    neighbours = request.getfixturevalue(built).searcher.search(queries[:2], ROWS + 5)
    assert neighbours.rows.shape == (2, ROWS)
    assert sorted(neighbours.rows[0]) == list(range(ROWS))


def test_one_probe_of_small_lists_still_gives_k_neighbours(coded: Built, queries: Floats) -> None:
    neighbours = coded.searcher.search(queries, 900, nprobe=1, rerank_factor=2)
    assert neighbours.rows.shape == (60, 900)
    assert neighbours.rows.min() >= 0


def test_equally_near_rows_come_in_row_order(tmp_path: Path) -> None:
    searcher = build(tmp_path, np.repeat(clustered(3, 8, seed=0), 4, axis=0), IndexSpec("flat", 8), shards=[5, 7])
    neighbours = searcher.search(searcher.vectors([9]), 4)
    assert neighbours.rows.tolist() == [[8, 9, 10, 11]]


def test_a_copy_has_cosine_one_though_fp16_rounds_its_length(tmp_path: Path) -> None:
    """One dimension holds nearly all of the length, as after an untrained network."""
    vectors = clustered(300, 64, seed=0)
    vectors[:, 3] += np.linspace(5, 6, 300)
    searcher = build(tmp_path, vectors, ivfpq(nlist=4), shards=[200, 100])
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    assert np.abs(np.linalg.norm(unit.astype(np.float16).astype(np.float64), axis=1) - 1).max() > 1e-4
    for search in (searcher.search, searcher.exact):
        np.testing.assert_allclose(search(searcher.vectors(np.arange(300)), 1).similarity, 1, atol=1e-6)
        np.testing.assert_allclose(search(vectors, 1).similarity, 1, atol=1e-5)


def test_cosine_never_leaves_its_range(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((200, 5)).astype(np.float32)
    searcher = build(tmp_path, vectors, IndexSpec("flat", 5))
    similarity = searcher.search(np.vstack([vectors, -vectors]), 200).similarity
    assert similarity.max() <= 1
    assert similarity.min() >= -1


def test_one_vector_is_an_index(tmp_path: Path) -> None:
    searcher = build(tmp_path, clustered(1, 8, seed=0), IndexSpec("flat", 8))
    assert searcher.search(clustered(2, 8, seed=1), 10).rows.tolist() == [[0], [0]]


def test_no_queries_get_no_answers(coded: Built, flat: Built) -> None:
    for searcher in (coded.searcher, flat.searcher):
        assert searcher.search(np.empty((0, DIMENSION)), 4).rows.shape == (0, 4)


def test_keys_follow_the_rows_asked_for(coded: Built) -> None:
    table = coded.searcher.keys([3_999, 0, 1_500, 0])
    assert table["image_key"].to_pylist() == [f"shop/{row:06d}.jpg" for row in (3_999, 0, 1_500, 0)]
    assert table["product_id"].to_pylist() == ["p3999", "p0", "p1500", "p0"]
    with pytest.raises(IndexError, match=r"0\.\.3999"):
        coded.searcher.keys([-1])
    with pytest.raises(IndexError, match=r"0\.\.3999"):
        coded.searcher.vectors([ROWS])


def test_a_key_leads_to_its_row_and_vector(coded: Built) -> None:
    row = coded.searcher.find("shop/001500.jpg")
    assert row == 1_500
    np.testing.assert_allclose(coded.searcher.vectors([row])[0], coded.vectors[row], atol=1e-3)
    assert coded.searcher.search(coded.searcher.vectors([row]), 1).rows.tolist() == [[row]]


def test_an_unknown_key_is_answered_with_those_alike(coded: Built) -> None:
    with pytest.raises(UnknownKey, match=r"'001500\.jpg' among the 4000 .*similar keys: 'shop/001500\.jpg'"):
        coded.searcher.find("001500.jpg")
    with pytest.raises(UnknownKey, match=r"similar keys: 'shop/001500\.jpg', "):
        coded.searcher.find("shop/001500.webp")
    with pytest.raises(UnknownKey, match="no key is like it"):
        coded.searcher.find("nothing/like.this")


@pytest.mark.parametrize("built", ["flat", "coded"])
@pytest.mark.parametrize(
    ("query", "message"),
    [
        (np.ones((2, DIMENSION - 1)), r"expected queries of shape \(Q, 64\), found \(2, 63\)"),
        (np.ones(DIMENSION), r"expected queries of shape \(Q, 64\), found \(64,\)"),
        (
            np.array([[1.0] * DIMENSION, [np.nan] * DIMENSION]),
            "1 of 2 queries NaN or infinite, the first is query 1",
        ),
        (np.full((1, DIMENSION), np.inf), "NaN or infinite"),
        (np.zeros((1, DIMENSION)), "all zero"),
    ],
)
def test_a_query_that_has_no_answer_is_refused(
    request: pytest.FixtureRequest, built: str, query: np.ndarray, message: str
) -> None:
    with pytest.raises(BadVectors, match=message):
        request.getfixturevalue(built).searcher.search(query, 3)


@pytest.mark.parametrize(
    "wrong",
    [{"k": 0}, {"nprobe": 0}, {"rerank_factor": 0}, {"keep": np.ones(3, bool)}, {"keep": np.ones(ROWS, int)}],
)
def test_a_setting_that_means_nothing_is_refused(coded: Built, queries: Floats, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        coded.searcher.search(queries, **{"k": 3, **wrong})  # type: ignore[arg-type]


def test_a_query_alone_finds_what_it_finds_among_others(coded: Built, queries: Floats) -> None:
    searcher = coded.searcher
    together = searcher.search(queries, 5, nprobe=4, rerank_factor=2)
    alone = [searcher.search(query[None], 5, nprobe=4, rerank_factor=2).rows[0].tolist() for query in queries]
    # Codes that are equally far at the last candidate may be chosen either way.
    same = np.mean([len({*one} & {*other}) / 5 for one, other in zip(alone, together.rows.tolist(), strict=True)])
    assert same > 0.99


def test_threads_may_share_a_searcher(coded: Built, queries: Floats) -> None:
    alone = [coded.searcher.search(query[None], 5).rows.tolist() for query in queries]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda query: coded.searcher.search(query[None], 5).rows.tolist(), queries))
    assert together == alone
