"""Splits that keep products whole and, from week to week, on their side."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.errors import LabelsUnusable
from model.split import Split, check_labels, position, split


def sides_of(found: Split) -> tuple[NDArray[np.int64], ...]:
    return found.train, found.validation, found.held_out


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=24, max_size=60),
    share=st.sampled_from([0.1, 0.2, 0.25, 0.3, 0.5]),
    validation=st.sampled_from([0.0, 0.1, 0.3]),
    seed=st.integers(0, 5),
)
def test_a_split_keeps_groups_whole_and_loses_no_picture(
    sizes: list[int], share: float, validation: float, seed: int
) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    labels = groups % 2
    found = split(labels, groups, held_out_share=share, validation_share=validation, seed=seed)
    np.testing.assert_array_equal(np.sort(np.concatenate(sides_of(found))), np.arange(len(labels)))
    for one, other in combinations(sides_of(found), 2):
        assert not set(groups[one]) & set(groups[other])
    for side in (found.train, found.held_out):
        assert set(labels[side]) == {0, 1}
    again = split(labels, groups, held_out_share=share, validation_share=validation, seed=seed)
    for side, repeated in zip(sides_of(found), sides_of(again), strict=True):
        np.testing.assert_array_equal(side, repeated)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.3, 0.5])
def test_a_side_holds_its_share_of_each_class_within_the_band(share: float) -> None:
    groups = np.arange(600) // 3
    labels = (groups % 4 == 0).astype(np.int64)
    found = split(labels, groups, held_out_share=share, validation_share=0.15, seed=1)
    one_group = 3 / 150
    for value in (0, 1):
        for side, wanted in ((found.held_out, share), (found.validation, 0.15)):
            of_class = np.sum(labels[side] == value) / np.sum(labels == value)
            assert of_class == pytest.approx(wanted, abs=0.2 * wanted + one_group)


@settings(max_examples=40)
@given(seed=st.integers(0, 1000), largest=st.integers(1, 6), positive=st.floats(0.3, 0.8))
def test_held_out_products_stay_held_out_as_labels_arrive(seed: int, largest: int, positive: float) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, largest + 1, 660)
    groups = np.repeat([f"product-{n}" for n in rng.permutation(100_000)[:660]], sizes)
    labels = np.repeat((rng.random(660) < positive).astype(np.int64), sizes)
    before = int(sizes[:600].sum())
    old = split(labels[:before], groups[:before], validation_share=0.1, seed=seed)
    new = split(labels, groups, validation_share=0.1, seed=seed)
    held_out = set(groups[:before][old.held_out])
    assert len(held_out & set(groups[new.held_out])) >= 0.95 * len(held_out)
    assert not held_out & set(groups[new.train])
    assert len(set(groups[:before][old.train]) & set(groups[new.held_out])) <= 0.02 * len(held_out)


def test_the_order_of_the_labels_changes_no_side() -> None:
    labels, groups = np.arange(90) % 2, np.array([f"p{i // 2}" for i in range(90)])
    order = np.random.default_rng(0).permutation(90)
    found = split(labels, groups, validation_share=0.1, seed=3)
    shuffled = split(labels[order], groups[order], validation_share=0.1, seed=3)
    for one, other in zip(sides_of(found), sides_of(shuffled), strict=True):
        assert set(groups[one]) == set(groups[order][other])


def test_positions_are_fixed_by_group_and_seed_on_every_machine() -> None:
    assert position("product-1", 0) == pytest.approx(0.3871984596854923, abs=1e-12)
    spread = np.sort([position(n, 5) for n in range(1000)])
    assert np.abs(spread - np.arange(1000) / 1000).max() < 0.05  # uniform, by Kolmogorov and Smirnov


@settings(max_examples=100)
@given(
    labels=st.lists(st.integers(0, 1), min_size=10, max_size=24).filter(
        lambda found: 5 <= sum(found) <= len(found) - 5
    ),
    seed=st.integers(0, 100),
)
def test_a_handful_of_labels_is_enough(labels: list[int], seed: int) -> None:
    found = split(np.array(labels), np.arange(len(labels)), validation_share=0.1, seed=seed)
    for side in (found.train, found.held_out):
        assert set(np.array(labels)[side]) == {0, 1}


def test_products_of_both_classes_give_each_side_both() -> None:
    groups = np.arange(40) // 4
    labels = (np.arange(40) % 4 == 0).astype(np.int64)
    found = split(labels, groups, validation_share=0.1, seed=0)
    assert set(labels[found.train]) == set(labels[found.held_out]) == {0, 1}


def test_a_class_of_two_products_has_one_on_each_side() -> None:
    labels = np.array([0] * 30 + [1] * 8)
    groups = np.array([*range(30), *([100] * 5), 101, 101, 0])  # the last positive one is of a negative product
    for seed in range(20):
        found = split(labels, groups, validation_share=0.1, seed=seed)
        assert set(labels[found.train]) == set(labels[found.held_out]) == {0, 1}


def test_a_product_of_most_pictures_is_never_held_out() -> None:
    labels, groups = np.arange(200) % 2, np.append(np.full(150, 999), np.arange(50))
    for seed in range(20):
        assert 999 in groups[split(labels, groups, seed=seed).train]


def test_another_seed_is_another_split() -> None:
    labels, groups = np.arange(100) % 2, np.arange(100) // 2
    first, second = (split(labels, groups, seed=seed).held_out.tolist() for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        ([1] * 20, list(range(20)), "expected at least 5 negative pictures in 2 groups, found 0 in 0"),
        ([0] * 20 + [1] * 4, list(range(24)), "expected at least 5 positive .* found 4 in 4"),
        ([0] * 20 + [1] * 6, [*range(20), *([99] * 6)], "expected at least 5 positive .* found 6 in 1"),
        ([0, 1, 2] * 10, list(range(30)), "found also \\[2\\]"),
        ([0, 1] * 10, list(range(19)), "expected one group a label \\(20\\), found 19"),
    ],
)
def test_labels_that_teach_nothing_are_refused_with_what_was_found(
    labels: list[int], groups: list[int], message: str
) -> None:
    arrays: tuple[NDArray[Any], NDArray[Any]] = (np.array(labels), np.array(groups))
    with pytest.raises(LabelsUnusable, match=message):
        check_labels(*arrays)
    with pytest.raises(LabelsUnusable, match=message):
        split(*arrays, seed=0)


def test_a_share_that_is_no_share_is_refused() -> None:
    with pytest.raises(ValueError, match="held_out_share"):
        split(np.arange(20) % 2, np.arange(20), held_out_share=1.0, seed=0)
    with pytest.raises(ValueError, match=r"validation_share: expected from 0 to below 0\.75"):
        split(np.arange(20) % 2, np.arange(20), validation_share=0.75, seed=0)
