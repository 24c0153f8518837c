from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.arrays import Floats
from index.errors import BelowTarget
from index.recall import HeldOutQueries, SearchQuality, recall
from index.searching import Neighbours, Searcher
from index.spec import IndexSpec
from index.tuning import tune
from tests.vectors import build, clustered, ivfpq

ROWS, DIMENSION = 4_000, 64


@pytest.fixture(scope="module")
def vectors() -> Floats:
    return clustered(ROWS, DIMENSION, seed=5)


@pytest.fixture(scope="module")
def coded(vectors: Floats, tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    return build(tmp_path_factory.mktemp("coded"), vectors, ivfpq(), shards=[3_000, 1_000])


def measure(
    searcher: Searcher, *, queries: int = 1000, seed: int = 0, nprobe: int = 8, rerank_factor: int = 4
) -> SearchQuality:
    return HeldOutQueries.draw(searcher, queries, seed=seed).quality(nprobe, rerank_factor)


def of_similarity(*similarity: list[float]) -> Neighbours:
    array = np.array(similarity, dtype=np.float32)
    return Neighbours(np.zeros(array.shape, np.int64), array)


def test_recall_counts_what_is_as_near_as_the_truth() -> None:
    truth = of_similarity([0.9, 0.8, 0.7, 0.6], [0.9, 0.9, 0.9, 0.9])
    answers = of_similarity([0.9, 0.7, 0.6, 0.5], [0.9, 0.9, 0.9, 0.1])
    assert recall(answers, truth, 3).tolist() == [2 / 3, 1]
    assert recall(answers, truth, 4).tolist() == [3 / 4, 3 / 4]
    assert recall(answers, truth, 1).tolist() == [1, 1]


def test_copies_of_a_picture_are_equally_right(tmp_path: Path) -> None:
    """Ten copies each: which of them are returned is chance, and must not count as a miss."""
    vectors = np.repeat(clustered(400, 32, seed=2), 30, axis=0)
    searcher = build(tmp_path, vectors, ivfpq(32, nlist=8))
    measured = measure(searcher, queries=50, seed=0, nprobe=1)
    assert measured.recall_at_10 == 1
    assert measured.recall_at_1 == 1


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20), st.integers(1, 25))
def test_the_truth_recalls_itself(similarity: list[float], k: int) -> None:
    truth = of_similarity(sorted(similarity, reverse=True))
    assert recall(truth, truth, k).tolist() == [1]


def test_the_truth_agrees_with_numpy(coded: Searcher, vectors: Floats) -> None:
    neighbours = coded.exact(vectors[:20], 10)
    stored = vectors.astype(np.float16).astype(np.float32)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    rows = np.argsort(-(vectors[:20] @ stored.T), axis=1)[:, :10]
    assert (neighbours.rows == rows).mean() > 0.98  # rounding may swap neighbours that are equally near
    np.testing.assert_allclose(neighbours.similarity[:, 0], 1, atol=1e-3)


def test_a_measured_recall_is_that_of_counting_by_hand(coded: Searcher, vectors: Floats) -> None:
    measured = measure(coded, queries=ROWS, seed=0, nprobe=2, rerank_factor=2)
    stored = vectors.astype(np.float16).astype(np.float32)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    cosine = stored @ stored.T
    np.fill_diagonal(cosine, -2)
    truth = np.argsort(-cosine, axis=1)[:, :10]
    rows = coded.search(stored, 11, nprobe=2, rerank_factor=2).rows
    others = [[row for row in line if row != own][:10] for own, line in enumerate(rows.tolist())]
    hits = [len(set(line) & set(true)) / 10 for line, true in zip(others, truth.tolist(), strict=True)]
    assert measured.recall_at_10 == pytest.approx(np.mean(hits), abs=1e-3)
    assert 0.1 < measured.recall_at_10 < 1
    assert measured.queries == ROWS


def test_the_lower_bound_lies_below_and_nearer_with_more_queries(coded: Searcher) -> None:
    few, many = (measure(coded, queries=n, seed=0, nprobe=1, rerank_factor=1) for n in (50, 2_000))
    assert few.recall_at_10_low < few.recall_at_10
    assert many.recall_at_10 - many.recall_at_10_low < few.recall_at_10 - few.recall_at_10_low
    assert many.latency_ms > 0


def test_one_seed_measures_the_same_twice(coded: Searcher) -> None:
    one, two, other = (measure(coded, queries=200, seed=seed, nprobe=1) for seed in (3, 3, 4))
    assert one.recall_at_10 == two.recall_at_10
    assert one.recall_at_10 != other.recall_at_10


def test_a_slice_of_rows_is_measured_by_itself(coded: Searcher) -> None:
    first, few = np.arange(ROWS) < 140, np.arange(ROWS) < 99
    asked = HeldOutQueries.draw(coded, 50, seed=0, slices={"first": first, "few": few})
    assert asked.quality(8, 4).queries == 50
    [measured] = asked.slice_recall(2, 2).values()
    assert measured.queries == 140
    rows = np.arange(140)
    neighbours = coded.search(coded.vectors(rows), 11, nprobe=2, rerank_factor=2)
    pairs = zip(neighbours.rows, neighbours.similarity, strict=True)
    others = [near[line != own] for own, (line, near) in enumerate(pairs)]
    cosine = coded.vectors(rows) @ coded.vectors(np.arange(ROWS)).T
    cosine[rows, rows] = -2
    tenth = np.sort(cosine, axis=1)[:, -10]
    hits = [np.count_nonzero(near[:10] >= least - 1e-5) / 10 for near, least in zip(others, tenth, strict=True)]
    assert measured.recall_at_10 == pytest.approx(np.mean(hits), abs=1e-3)


def test_a_flat_index_misses_nothing(tmp_path: Path) -> None:
    searcher = build(tmp_path, clustered(300, 16, seed=0), IndexSpec("flat", 16))
    tuned = tune(searcher, 1.0)
    assert (tuned.nprobe, tuned.rerank_factor) == (1, 1)
    assert tuned.measured.recall_at_10_low == 1


@pytest.mark.parametrize("rows", [0, 1, 2, 5])
def test_an_index_of_few_rows_can_be_measured(rows: int, tmp_path: Path) -> None:
    searcher = build(tmp_path, clustered(rows, 16, seed=0), IndexSpec("flat", 16))
    measured = measure(searcher, seed=0)
    assert measured.recall_at_10_low == 1
    assert measured.queries == (rows if rows > 1 else 0)


def test_tuning_meets_its_target_with_the_fewest_lists(coded: Searcher) -> None:
    tuned = tune(coded, 0.97, queries=500)
    assert tuned.measured.recall_at_10_low >= 0.97
    if tuned.nprobe > 1:
        less = measure(coded, queries=500, seed=0, nprobe=tuned.nprobe - 1, rerank_factor=tuned.rerank_factor)
        assert less.recall_at_10_low < 0.97


def test_a_target_out_of_reach_says_what_wasof_similarity(tmp_path: Path) -> None:
    """Four bits for 64 dimensions cannot tell neighbours apart."""
    searcher = build(tmp_path, clustered(4_000, 64, seed=1), ivfpq(nlist=4, pq_subquantizers=1))
    with pytest.raises(BelowTarget, match=r"at least 0\.99 with 95% confidence, found 0\.\d+ .* all 4 lists"):
        tune(searcher, 0.99, queries=200)


def test_the_target_is_met_in_every_slice_too(tmp_path: Path) -> None:
    """Rows that the codebook never saw need more lists than the others, which the recall over all hides."""
    vectors = np.vstack([clustered(3_900, 64, seed=5), clustered(100, 64, seed=77)])
    searcher = build(tmp_path, vectors, ivfpq(), shards=[3_900, 100])
    new = np.arange(4_000) >= 3_900
    whole = tune(searcher, 0.8, queries=500)
    judged = tune(searcher, 0.8, queries=500, slices={"new": new, "too few": np.arange(4_000) < 99})
    assert judged.slices.keys() == {"new"}
    assert judged.slices["new"].queries >= 100
    assert judged.slices["new"].recall_at_10_low >= 0.8
    assert judged.measured.recall_at_10_low >= 0.8
    asked = HeldOutQueries.draw(searcher, 500, seed=0, slices={"new": new})
    of_whole = asked.slice_recall(whole.nprobe, whole.rerank_factor)["new"]
    assert of_whole.recall_at_10_low < judged.slices["new"].recall_at_10_low


def test_a_slice_out_of_reach_is_named(tmp_path: Path) -> None:
    vectors = np.vstack([np.repeat(clustered(50, 64, seed=5), 30, axis=0), clustered(200, 64, seed=1)])
    searcher = build(tmp_path, vectors, ivfpq(nlist=4, pq_subquantizers=2))
    with pytest.raises(BelowTarget, match=r"found 0\.\d+ \(0\.\d+ over \d+ queries of new\) with all 4 lists"):
        tune(searcher, 0.99, queries=200, slices={"new": np.arange(1_700) >= 1_500})


def test_the_setting_that_served_is_kept_while_it_meets_the_target(coded: Searcher) -> None:
    lists = coded.spec.nlist
    assert (kept := tune(coded, 0.9, queries=200, start=(lists, 8))).nprobe == lists
    assert kept.rerank_factor == 8
    tuned = tune(coded, 0.97, queries=200, start=(1, 1))
    assert (tuned.nprobe, tuned.rerank_factor) != (1, 1)
    assert tuned.measured.recall_at_10_low >= 0.97


def test_a_setting_that_falls_short_gets_a_quarter_more_lists_at_a_time(coded: Searcher) -> None:
    tuned = tune(coded, 0.97, queries=500, start=(1, 8))
    assert tuned.rerank_factor == 8
    assert tuned.measured.recall_at_10_low >= 0.97
    tried = [1]
    while tried[-1] < tuned.nprobe:
        tried.append(tried[-1] + max(1, tried[-1] // 4))
    assert tried[-1] == tuned.nprobe
    for nprobe in tried[:-1]:
        assert measure(coded, queries=500, seed=0, nprobe=nprobe, rerank_factor=8).recall_at_10_low < 0.97
