"""Exhaustive search over fp16 as it is stored, held against a comparison of every pair in float64."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.arrays import Floats
from index.searching import Searcher
from index.spec import IndexSpec, Metric
from index.stored_vectors import FEW_QUERIES, SCANNED, StoredVectors
from tests.vectors import build, clustered


def slowly(searcher: Searcher, queries: Floats, mask: np.ndarray) -> np.ndarray:
    """The similarity of each kept row, the nearest first; of the rows' fp16 vectors, in float64."""
    stored = searcher.vectors(range(len(searcher))).astype(np.float64)[mask]
    asked = queries.astype(np.float64)
    if searcher.spec.metric == "cosine":
        asked /= np.linalg.norm(asked, axis=1, keepdims=True)
        stored /= np.linalg.norm(stored, axis=1, keepdims=True)
        return -np.sort(-(asked @ stored.T), axis=1)
    return -np.sort(np.linalg.norm(asked[:, None] - stored[None], axis=2), axis=1)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 400),
    dimension=st.sampled_from([1, 3, 16, 65]),
    metric=st.sampled_from(["cosine", "euclidean"]),
    alike=st.tuples(st.sampled_from([1, 7, 150]), st.sampled_from([1.0, 1e-3, 1e-6])),
    k=st.integers(1, 30),
    asked=st.sampled_from([1, 3, FEW_QUERIES + 1]),
    share=st.sampled_from([1.0, 0.9, 0.2, 0.05]),
    seed=st.integers(0, 1000),
)
def test_nothing_nearer_is_missed(
    rows: int, dimension: int, metric: Metric, alike: tuple[int, float], k: int, asked: int, share: float, seed: int
) -> None:
    """Also where rows are copies of each other, or nearer together than fp16 tells lengths apart."""
    random, (copies, spread) = np.random.default_rng(seed), alike
    centre = random.standard_normal(dimension)
    vectors = (centre + spread * random.standard_normal((rows, dimension))).astype(np.float32)
    vectors = np.repeat(vectors, copies, axis=0)[random.permutation(rows * copies)][:400]
    queries = (centre + spread * random.standard_normal((asked, dimension))).astype(np.float32)
    mask = random.random(len(vectors)) < share
    with TemporaryDirectory() as folder:
        cut = [len(vectors) // 3, len(vectors) - len(vectors) // 3]
        searcher = build(Path(folder), vectors, IndexSpec("flat", dimension, metric), shards=cut)
        neighbours = searcher.search(queries, k, keep=mask)
        truth = slowly(searcher, queries, mask)[:, :k]
    assert neighbours.rows.shape == truth.shape
    assert mask[neighbours.rows].all()
    np.testing.assert_allclose(neighbours.similarity, truth, rtol=1e-5, atol=1e-5)
    for line in neighbours.rows:
        assert len(set(line.tolist())) == len(line)


@pytest.mark.parametrize("unit", [True, False])
def test_deleted_rows_are_not_compared_and_the_others_keep_their_numbers(unit: bool) -> None:
    halves = clustered(300, 16, seed=2).astype(np.float16)
    live = np.random.default_rng(3).random(300) < 0.7
    stored = StoredVectors([halves[:100], halves[100:]], [live[:100], live[100:]], unit=unit, copied=True)
    queries = halves[live][:8].astype(np.float32)
    found = stored.nearest(queries, 1, None)
    assert found is not None
    assert found[:, 0].tolist() == list(range(8))


def test_one_query_reads_fp16_as_it_is_stored_and_only_many_are_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    halves, live = clustered(1_000, 32, seed=1).astype(np.float16), np.ones(1_000, np.bool_)
    stored = StoredVectors([halves], [live], unit=True, copied=True)
    queries = stored.gather(np.arange(FEW_QUERIES + 1), 32)
    found = stored.nearest(queries[:1], 10, None)
    assert found is not None
    assert found.shape[1] < 10 + SCANNED  # what is surely too far is not ranked
    assert stored.nearest(queries, 10, None) is None
    assert StoredVectors([halves], [live], unit=True).nearest(queries[:1], 10, None) is None  # no copy allowed
    monkeypatch.setattr("index.stored_vectors.COPIED_BYTES", 1_000)
    assert stored.nearest(queries[:1], 10, None) is None  # too large a copy
