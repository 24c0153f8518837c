"""Indexes of clustered vectors, flat and coded, for the tests that search and open them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from index.arrays import Floats
from index.searching import Searcher
from index.spec import IndexSpec
from tests.vectors import build, clustered, ivfpq

ROWS, DIMENSION = 4_000, 64
FLAT = IndexSpec("flat", DIMENSION)


@dataclass(frozen=True)
class Built:
    directory: Path
    vectors: Floats
    searcher: Searcher


def build_index(directory: Path, spec: IndexSpec, vectors: Floats, shards: list[int] | None = None) -> Built:
    return Built(directory, vectors, build(directory, vectors, spec, shards=shards))


@pytest.fixture(scope="module")
def vectors() -> Floats:
    return clustered(ROWS + 60, DIMENSION, seed=5)[:ROWS]


@pytest.fixture(scope="module")
def queries() -> Floats:
    return clustered(ROWS + 60, DIMENSION, seed=5)[ROWS:]


@pytest.fixture(scope="module")
def flat(vectors: Floats, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build_index(tmp_path_factory.mktemp("flat"), FLAT, vectors, [1_500, 0, 2_500])


@pytest.fixture(scope="module")
def coded(vectors: Floats, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build_index(tmp_path_factory.mktemp("coded"), ivfpq(), vectors, [1_500, 0, 2_300, 200])
