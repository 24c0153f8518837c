"""The truth that is brought up to date night by night is the truth that a comparison with every row finds."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from index.arrays import Floats
from index.errors import CorruptIndex
from index.searching import K, Neighbours, Searcher
from index.spec import IndexSpec
from index.truth import DEPTH, TRUTH, EarlierTruth, Truth, find_truth
from tests.vectors import as_found, build, clustered

DIMENSION = 8
# Every vector twice: what is equally near must not confuse it.
POOL = np.repeat(clustered(90, DIMENSION, seed=3, clusters=4), 2, axis=0)
Members = list[int]  # rows of the pool, in the order of the index


def opened(folder: Path, members: Members) -> Searcher:
    return build(folder, POOL[members], IndexSpec("flat", DIMENSION))


def cosines(members: Members, queries: list[int]) -> Floats:
    stored = as_found(POOL[members])
    cosine: Floats = (stored[queries] @ stored.T).clip(-1, 1)
    cosine[np.arange(len(queries)), queries] = -2
    return cosine


def check(truth: Truth, members: Members) -> None:
    """Held against a comparison with every row."""
    near = cosines(members, truth.queries.tolist())
    judged = min(K, len(members) - 1)
    nearest = -np.sort(-near, axis=1)[:, :judged]
    np.testing.assert_allclose(truth.nearest(K).similarity, nearest, atol=1e-5)
    for line, others in enumerate(truth.neighbours.rows):
        known = set(others[others >= 0].tolist())
        assert len(known) == np.count_nonzero(others >= 0)
        assert known >= set(np.flatnonzero(near[line] > max(-1.5, truth.floor[line] + 1e-5)).tolist())


@st.composite
def nights(draw: st.DrawFn) -> list[Members]:
    """A catalogue night by night: what stays keeps its order, what comes goes to the end."""
    members = draw(st.lists(st.integers(0, len(POOL) - 1), unique=True, min_size=1, max_size=150))
    drawn = [members]
    for _ in range(draw(st.integers(1, 4))):
        left = draw(st.sets(st.sampled_from(members), max_size=len(members) // 2)) if members else set()
        stay = [row for row in members if row not in left]
        come = draw(st.lists(st.integers(0, len(POOL) - 1), unique=True))
        members = stay + [row for row in come if row not in members]
        drawn.append(members)
    return [members for members in drawn if members]


@given(nights(), st.integers(1, 5))
def test_night_after_night_it_stays_the_truth(catalogue: list[Members], step: int) -> None:
    earlier: EarlierTruth | None = None
    last: Truth | None = None
    before = Members()
    for members in catalogue:
        with tempfile.TemporaryDirectory() as folder:
            searcher = opened(Path(folder), members)
            queries = np.flatnonzero(np.array(members) % step == 0)
            if last is not None:
                places = {row: place for place, row in enumerate(members)}
                earlier = EarlierTruth(last, np.array([places.get(row, -1) for row in before], dtype=np.int64))
            truth = find_truth(searcher, queries, earlier)
            assert truth.queries.tolist() == queries.tolist()
            check(truth, members)
            truth.write(Path(folder))
            last, before = Truth.read(Path(folder, TRUTH).read_bytes(), len(members)), members


def test_a_query_that_lost_its_neighbours_is_compared_with_everything_again(tmp_path: Path) -> None:
    members = list(range(180))
    truth = find_truth(opened(tmp_path / "first", members), np.arange(1))
    gone = set(truth.neighbours.rows[0, : DEPTH - K + 1].tolist())
    left = [row for row in members if row not in gone]
    to = np.full(180, -1)
    to[left] = np.arange(len(left))
    after = find_truth(opened(tmp_path / "second", left), np.array([0]), EarlierTruth(truth, to))
    assert np.count_nonzero(after.neighbours.rows >= 0) == DEPTH
    check(after, left)


def test_more_may_come_than_are_remembered(tmp_path: Path) -> None:
    """Two rows first; then 30 that are nearer than the second; then most of those leave and a far one comes."""
    angles = [0.0, 1.5, *np.linspace(0.1, 0.8, 30), 1.4]
    vectors = np.zeros((len(angles), DIMENSION), np.float32)
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
    spec, query = IndexSpec("flat", DIMENSION), np.array([0])
    nights = [[0, 1], list(range(32)), [0, 1, *range(17, 33)]]
    earlier: EarlierTruth | None = None
    for night, members in enumerate(nights):
        searcher = build(tmp_path / str(night), vectors[members], spec)
        truth = find_truth(searcher, query, earlier)
        after = nights[night + 1] if night < 2 else []
        earlier = EarlierTruth(truth, np.array([after.index(row) if row in after else -1 for row in members]))
    near = np.sort(as_found(vectors[nights[-1][1:]]) @ vectors[0])[::-1]
    np.testing.assert_allclose(truth.nearest(K).similarity[0], near[:K], atol=1e-4)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptIndex, match=r"truth\.parquet cannot be read"):
        Truth.read(b"no parquet", 10)
    parquet.write_table(pa.table({"query": [1]}), tmp_path / "other.parquet")
    with pytest.raises(CorruptIndex, match=r"other columns than expected: \['query'\]"):
        Truth.read((tmp_path / "other.parquet").read_bytes(), 10)
    one = np.zeros((1, 1))
    Truth(
        np.zeros(1, np.int64), Neighbours(one.astype(np.int64) + 12, one.astype(np.float32)), np.zeros(1, np.float32)
    ).write(tmp_path)
    with pytest.raises(CorruptIndex, match="beyond the 10"):
        Truth.read((tmp_path / TRUTH).read_bytes(), 10)
