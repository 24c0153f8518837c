"""Near duplicates against comparing every pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from index.arrays import Floats
from index.duplicates import near_duplicates
from index.searching import Neighbours, Searcher
from index.spec import IndexSpec
from tests.vectors import build, clustered, ivfpq, keys_for

DIMENSION = 32


def slowly(searcher: Searcher, threshold: float) -> set[frozenset[int]]:
    """Every pair compared: each row in turn takes those near it that no earlier row has taken."""
    vectors = searcher.vectors(np.arange(len(searcher)))
    near = vectors @ vectors.T >= threshold
    taken = np.zeros(len(vectors), np.bool_)
    groups = set()
    for row in range(len(vectors)):
        if not taken[row]:
            members = np.flatnonzero(near[row] & ~taken | (np.arange(len(vectors)) == row))
            taken[members] = True
            groups.add(frozenset(members.tolist()))
    return {group for group in groups if len(group) > 1}


def with_copies(sizes: list[int], *, apart: float, seed: int = 0) -> Floats:
    """Rows that differ, each there as often as told and every copy a little off, all in random order."""
    random = np.random.default_rng(seed)
    rows = np.repeat(clustered(len(sizes), DIMENSION, seed=seed, spread=2.0), sizes, axis=0)
    rows += apart * random.standard_normal(rows.shape).astype(np.float32) / np.sqrt(DIMENSION)
    return np.asarray(random.permutation(rows), dtype=np.float32)


@pytest.mark.parametrize("spec", [IndexSpec("flat", DIMENSION), ivfpq(DIMENSION, nlist=16)], ids=["flat", "coded"])
@pytest.mark.parametrize("threshold", [0.9999, 0.998, 0.99])
def test_groups_are_those_of_comparing_every_pair(spec: IndexSpec, threshold: float, tmp_path: Path) -> None:
    vectors = with_copies([1] * 900 + [2] * 60 + [7] * 20 + [90], apart=0.02)
    searcher = build(tmp_path, vectors, spec, shards=[600, len(vectors) - 600], nprobe=8)
    groups = near_duplicates(searcher, threshold)
    assert {frozenset(group.rows.tolist()) for group in groups} == slowly(searcher, threshold)
    sizes = [len(group.rows) for group in groups]
    assert sizes == sorted(sizes, reverse=True)
    for group in groups:
        assert (np.diff(group.rows) > 0).all()
        assert group.similarity[0] == pytest.approx(1, abs=1e-6)
        one = searcher.vectors(group.rows)
        np.testing.assert_allclose(group.similarity, one @ one[0], atol=1e-6)


def test_a_picture_used_thousands_of_times_is_one_group_and_one_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = with_copies([3_000] + [1] * 500, apart=0)
    content = np.unique(vectors, axis=0, return_inverse=True)[1].ravel()
    keys = keys_for(len(vectors)).set_column(2, "sha256", pa.array([f"{number:04x}" for number in content]))
    searcher = build(tmp_path, vectors, ivfpq(DIMENSION, nlist=16), keys=keys)
    asked: list[int] = []
    search = Searcher.search

    def counted(self: Searcher, queries: Floats, k: int, **options: Any) -> Neighbours:
        asked.append(len(queries))
        return search(self, queries, k, **options)

    monkeypatch.setattr(Searcher, "search", counted)
    (group,) = near_duplicates(searcher, 0.9999)
    assert len(group.rows) == 3_000
    assert sum(asked) <= 501 + 10


def test_more_near_neighbours_than_the_first_look_shows_are_one_group(tmp_path: Path) -> None:
    vectors = with_copies([400] + [1] * 300, apart=0.01)
    searcher = build(tmp_path, vectors, IndexSpec("flat", DIMENSION))
    assert [len(group.rows) for group in near_duplicates(searcher, 0.999)] == [400]


def test_rows_that_are_each_a_little_like_the_next_are_no_chain(tmp_path: Path) -> None:
    angles = np.linspace(0, 1, 21)
    vectors = np.zeros((21, DIMENSION), np.float32)
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
    searcher = build(tmp_path, vectors, IndexSpec("flat", DIMENSION))
    groups = near_duplicates(searcher, float(np.cos(0.11)))  # two steps of 0.05
    assert [group.rows.tolist() for group in groups] == [[row, row + 1, row + 2] for row in range(0, 21, 3)]


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows_have_few_duplicates(rows: int, tmp_path: Path) -> None:
    searcher = build(tmp_path, np.ones((rows, DIMENSION), np.float32), IndexSpec("flat", DIMENSION))
    assert [group.rows.tolist() for group in near_duplicates(searcher, 0.999)] == ([[0, 1]] if rows == 2 else [])
