"""Measures against scikit-learn and slow counts; splits that keep products whole."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import (
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    roc_auc_score,
)

from model.errors import LabelsUnusable
from model.evaluation import Evaluation, evaluate
from model.split import check_labels, split


def answers(seed: int, count: int = 60) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Labels, polarities that lean their way with many ties, and groups of three."""
    rng = np.random.default_rng(seed)
    labels = np.append(rng.integers(0, 2, count - 2), [0, 1])
    polarity = np.clip(rng.normal(0.35 + 0.3 * labels, 0.25), 0, 1).round(1).astype(np.float32)
    return labels, polarity, np.arange(count) // 3


@pytest.mark.parametrize("seed", range(5))
def test_measures_agree_with_scikit_learn(seed: int) -> None:
    labels, polarity, groups = answers(seed)
    found = evaluate(labels, polarity, groups, bootstrap=10, seed=0)
    said = polarity >= 0.5
    assert found.pictures == 60 and found.positives == labels.sum()
    assert found.accuracy == pytest.approx(np.mean(said == labels))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, said))
    assert found.auroc == pytest.approx(roc_auc_score(labels, polarity))
    assert found.brier == pytest.approx(brier_score_loss(labels, polarity))
    assert found.confusion == tuple(tuple(row) for row in confusion_matrix(labels, said).tolist())
    assert found.majority_share == max(np.mean(labels), 1 - np.mean(labels))


def test_the_calibration_error_is_the_weighted_gap_of_each_bin() -> None:
    rng = np.random.default_rng(3)
    polarity, labels = rng.random(200), rng.integers(0, 2, 200)
    slow = 0.0
    for low in range(10):
        inside = [i for i in range(200) if low <= polarity[i] * 10 < low + 1]
        if inside:
            gap = np.mean([polarity[i] for i in inside]) - np.mean([labels[i] for i in inside])
            slow += len(inside) / 200 * abs(gap)
    assert evaluate(labels, polarity, np.arange(200), bootstrap=1, seed=0).ece == pytest.approx(slow)


def test_perfect_and_inverted_answers_are_the_extremes() -> None:
    labels = np.array([0, 1, 0, 1])
    right = evaluate(labels, labels.astype(float), np.arange(4), bootstrap=20, seed=0)
    wrong = evaluate(labels, 1.0 - labels, np.arange(4), bootstrap=20, seed=0)
    assert (right.accuracy, right.auroc, right.brier, right.ece) == (1, 1, 0, 0)
    assert (wrong.accuracy, wrong.auroc, wrong.brier, wrong.ece) == (0, 0, 1, 1)


def test_the_interval_holds_the_accuracy_and_repeats_with_its_seed() -> None:
    labels, polarity, groups = answers(0)
    first = evaluate(labels, polarity, groups, seed=7)
    assert first.accuracy_low < first.accuracy < first.accuracy_high
    assert first == evaluate(labels, polarity, groups, seed=7)


def test_the_interval_is_the_binomials_for_single_pictures_and_wider_for_groups_that_agree() -> None:
    labels = np.arange(400) % 2
    wrong = np.arange(400) < 80  # whole groups are wrong together
    polarity = np.where(wrong, 1 - labels, labels).astype(float)
    alone = evaluate(labels, polarity, np.arange(400), seed=0)
    grouped = evaluate(labels, polarity, np.arange(400) // 20, seed=0)
    deviation = (0.8 * 0.2 / 400) ** 0.5
    assert alone.accuracy_high - alone.accuracy_low == pytest.approx(2 * 1.96 * deviation, rel=0.1)
    assert grouped.accuracy_high - grouped.accuracy_low > 3 * (alone.accuracy_high - alone.accuracy_low)


def test_names_are_groups_as_well_as_numbers() -> None:
    labels, polarity, groups = answers(1)
    named = np.array([f"product-{g:03d}" for g in groups])
    assert evaluate(labels, polarity, named, seed=0) == evaluate(labels, polarity, groups, seed=0)


def test_an_evaluation_survives_json() -> None:
    found = evaluate(*answers(2), seed=0)
    assert Evaluation.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize("only", [0, 1])
def test_one_class_alone_cannot_be_measured(only: int) -> None:
    with pytest.raises(LabelsUnusable, match=f"expected labels 0 and 1 .* found \\[{only}\\]"):
        evaluate(np.full(5, only), np.full(5, 0.5), np.arange(5), seed=0)


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1])
def test_a_polarity_outside_0_to_1_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="polarity in"):
        evaluate(np.array([0, 1]), np.array([0.5, bad]), np.arange(2), seed=0)


# Splits ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=24, max_size=60),
    share=st.sampled_from([0.1, 0.2, 0.25, 0.3, 0.5]),
    seed=st.integers(0, 5),
)
def test_a_split_keeps_groups_whole_and_loses_no_picture(sizes: list[int], share: float, seed: int) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    labels = groups % 2
    found = split(labels, groups, held_out_share=share, seed=seed)
    both = np.concatenate([found.train, found.held_out])
    np.testing.assert_array_equal(np.sort(both), np.arange(len(labels)))
    assert not set(groups[found.train]) & set(groups[found.held_out])
    for side in (found.train, found.held_out):
        assert set(labels[side]) == {0, 1}
    again = split(labels, groups, held_out_share=share, seed=seed)
    np.testing.assert_array_equal(found.held_out, again.held_out)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.3, 0.5])
def test_a_split_holds_out_its_share_of_each_class(share: float) -> None:
    groups = np.arange(600) // 3
    labels = (groups % 4 == 0).astype(np.int64)
    held_out = split(labels, groups, held_out_share=share, seed=1).held_out
    for value in (0, 1):
        assert np.sum(labels[held_out] == value) / np.sum(labels == value) == pytest.approx(share, abs=0.03)


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
