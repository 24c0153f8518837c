"""An index of a lake of vectors, published, and held against a comparison of all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.arrays import Floats
from index.searching import Searcher
from index.truth import TRUTH, Truth
from tasks.rebuild.config import RebuildConfig
from tasks.rebuild.units import PublishedIndex
from tests import small_lake
from tests.vector_lake import VectorLake
from tests.vectors import as_found, clustered

DIMENSION, ROWS = 32, 1_500
CODED = RebuildConfig(flat_below=400, shard_vectors=500, recall_queries=200, recall_target=0.95)
FLAT = replace(CODED, flat_below=10**6)


def first_night(vectors: Floats) -> dict[str, Floats]:
    """The first ROWS vectors and their keys."""
    return {f"{row:05d}.jpg": vectors[row] for row in range(ROWS)}


@pytest.fixture(scope="module")
def vectors() -> Floats:
    """In an order that looks the same everywhere: the first are not another kind than the last."""
    return clustered(2 * ROWS, DIMENSION, seed=11)


@pytest.fixture
def lake(tmp_path: Path, vectors: Floats) -> VectorLake:
    made = VectorLake(str(tmp_path / "lake"), DIMENSION)
    made.change(first_night(vectors))
    return made


def rebuild(lake: VectorLake, config: RebuildConfig) -> PublishedIndex:
    index = small_lake.rebuild(lake.uri, config=config)
    assert index is not None
    return index


def opened(lake: VectorLake) -> Searcher:
    current = lake.lake.indexes.current()
    assert current is not None
    return Searcher.open(lake.lake.indexes.fetch(current, Path("nowhere")))


def check(lake: VectorLake) -> None:
    """The published index holds the lake's pictures, no more, and finds what comparing with all of it finds."""
    searcher = opened(lake)
    keys = searcher.table["image_key"].to_pylist()
    assert sorted(keys) == sorted(lake.pictures)
    stored = as_found(np.stack([lake.pictures[key] for key in keys]))
    np.testing.assert_allclose(searcher.vectors(range(len(keys))), stored, rtol=1e-6)
    queries = stored[:: max(1, len(keys) // 100)]
    truth = np.sort(queries @ stored.T, axis=1)[:, ::-1][:, :10].clip(-1, 1)
    np.testing.assert_allclose(searcher.exact(queries, 10).similarity, truth, atol=1e-5)
    neighbours = searcher.search(queries, 10)
    assert (neighbours.similarity >= truth[:, 9:] - 1e-5).mean() > 0.93
    check_truth(lake, stored)


def check_truth(lake: VectorLake, stored: Floats) -> None:
    """What the gate took for the truth is what comparing with every row finds."""
    current = lake.lake.indexes.current()
    assert current is not None
    truth = Truth.read(lake.lake.indexes.read(current, TRUTH), len(stored))
    cosine = stored[truth.queries] @ stored.T
    cosine[np.arange(len(truth.queries)), truth.queries] = -2
    nearest = -np.sort(-cosine, axis=1)[:, :10].clip(-1, 1)
    np.testing.assert_allclose(truth.nearest(10).similarity, nearest, atol=1e-5)
