"""Which shards serve again and when the codebook is trained again; simulated over many nights."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.description import CodebookHistory
from index.reuse import ShardCounts, ShardLimits, rows_a_shard, to_rewrite, why_train_again
from index.spec import IndexKind, IndexSpec

LIMITS = ShardLimits(vectors=1_000, deleted_share=0.2, alike=8)
CODEBOOK = CodebookHistory("codebook.faiss", 1, "first", trained_rows=5_000, coarse_distance=0.5, imbalance=1.2)


def test_a_shard_is_written_again_once_too_much_of_it_is_deleted() -> None:
    shards = [ShardCounts(1_000, live) for live in (1_000, 800, 799, 0)]
    assert to_rewrite(shards, LIMITS) == {2, 3}


def test_a_shard_far_larger_than_the_setting_is_written_again() -> None:
    assert to_rewrite([ShardCounts(2_000, 2_000), ShardCounts(2_001, 2_001)], LIMITS) == {1}


def test_eight_small_shards_of_like_size_become_one() -> None:
    small = [ShardCounts(10, 10)] * 7
    assert to_rewrite([ShardCounts(1_000, 1_000), *small], LIMITS) == set()
    assert to_rewrite([ShardCounts(1_000, 1_000), *small, ShardCounts(12, 12)], LIMITS) == set(range(1, 9))
    assert to_rewrite([*small, ShardCounts(400, 400)], LIMITS) == set()  # not of like size


@given(st.integers(1, 10**6), st.integers(1, 10**5))
def test_rows_are_cut_into_as_few_and_as_equal_shards_as_can_be(rows: int, vectors: int) -> None:
    each = rows_a_shard(rows, ShardLimits(vectors, deleted_share=0.2))
    shards = -(-rows // each)
    assert each <= vectors
    assert shards == -(-rows // vectors) or (shards - 1) * each < rows <= shards * each


@pytest.mark.parametrize("nightly", [1, 10, 100])
def test_over_a_year_of_nights_shards_stay_few_and_rows_are_seldom_written_again(nightly: int) -> None:
    """Each night adds rows and nothing leaves: the store is simulated by its counts."""
    limits = ShardLimits(vectors=10_000, deleted_share=0.2)
    shards, written, most = [ShardCounts(10_000, 10_000)] * 10, 0, 0
    for _ in range(365):
        rewritten = to_rewrite(shards, limits)
        pool = nightly + sum(shards[number].live for number in rewritten)
        shards = [shard for number, shard in enumerate(shards) if number not in rewritten]
        each = rows_a_shard(pool, limits)
        shards += [ShardCounts(min(each, pool - start), min(each, pool - start)) for start in range(0, pool, each)]
        written += pool
        most = max(most, len(shards))
    assert sum(shard.live for shard in shards) == 100_000 + 365 * nightly
    assert most <= 10 + 7 * 5 + 4  # seven of each power of eight below half a shard, and full ones
    assert written <= 5 * 365 * nightly


def test_a_codebook_serves_on_while_what_comes_in_is_alike() -> None:
    assert why_train_again(replace(CODEBOOK, added_rows=4_000, added_distance=0.59), 10_000) is None
    assert why_train_again(replace(CODEBOOK, imbalance_now=1.75), 10_000) is None


def test_rows_far_from_the_centroids_ask_for_a_training_once_they_are_many() -> None:
    few = replace(CODEBOOK, added_rows=499, added_distance=0.9)
    assert why_train_again(few, 10_000) is None
    reason = why_train_again(replace(few, added_rows=500), 10_000)
    assert reason is not None
    assert "500 vectors added since lie 1.80 times as far" in reason
    assert why_train_again(replace(few, added_rows=99), 100) is None  # too few to tell


def test_unequal_lists_ask_for_a_training() -> None:
    reason = why_train_again(replace(CODEBOOK, imbalance_now=1.9), 10_000)
    assert reason is not None
    assert "imbalance 1.90, expected at most 1.5 times the 1.20" in reason


def test_an_index_keeps_its_parts_while_the_catalogue_grows_moderately() -> None:
    spec = IndexSpec.for_catalogue(100_000, 256)
    counts = {count: spec.serves(count) for count in (20_000, 40_000, 100_000, 300_000, 10_000_000)}
    assert counts == {20_000: True, 40_000: True, 100_000: True, 300_000: True, 10_000_000: False}
    assert not spec.serves(9_000)
    flat = IndexSpec.for_catalogue(9_000, 256)
    assert (flat.serves(9_764), flat.serves(9_765)) == (True, False)


@pytest.mark.parametrize("dimension", [128, 1280, 2048])
def test_a_catalogue_about_as_large_as_the_limit_does_not_change_its_kind_from_night_to_night(dimension: int) -> None:
    least = next(count for count in range(1, 30_000) if IndexSpec.for_catalogue(count, dimension).kind != "flat")
    coded = IndexSpec.for_catalogue(least, dimension)
    assert all(coded.serves(count, flat_below=None) for count in (least, 9 * least // 10, 6 * least // 10, 2 * least))
    assert not coded.serves(4 * least // 10)


@pytest.mark.parametrize("kind", ["pq", "flat"])
def test_another_kind_that_is_asked_for_is_built(kind: IndexKind) -> None:
    other = IndexSpec.for_catalogue(100_000, 256, kind=kind)
    assert other.serves(100_000, kind=kind)
    assert not other.serves(100_000)
    assert not IndexSpec.for_catalogue(100_000, 256).serves(100_000, kind=kind)


@given(st.integers(0, 10**7), st.integers(1, 2048))
def test_the_parts_chosen_for_a_catalogue_serve_it(count: int, dimension: int) -> None:
    assert IndexSpec.for_catalogue(count, dimension).serves(count)


@pytest.mark.parametrize("wrong", [{"vectors": 0}, {"deleted_share": 1.5}, {"alike": 1}])
def test_impossible_limits_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="ShardLimits"):
        replace(LIMITS, **wrong)
