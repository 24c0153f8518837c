"""Measures against scikit-learn and slow counts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    roc_auc_score,
)

from model.errors import LabelsUnusable
from model.evaluation import (
    Evaluation,
    HeldOut,
    Slice,
    correlate_intensities,
    evaluate,
)
from model.retrieval import Retrieval, retrieval_recall
from model.strength import RankCorrelation, measure_strength, rank_correlation


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
    assert found.auprc == pytest.approx(average_precision_score(labels, polarity))
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


def full_evaluation() -> Evaluation:
    labels, polarity, groups = answers(2)
    rng = np.random.default_rng(0)
    found = evaluate(
        labels,
        polarity,
        groups,
        bootstrap=50,
        seed=0,
        uncalibrated=np.sqrt(polarity),
        categories=np.array(["hats", "shoes", None], dtype=object)[groups % 3],
        intensities=rng.random((60, 2)).astype(np.float32),
    )
    strength = measure_strength(polarity, rng.random(60), labels, groups, bootstrap=50, seed=0)
    return replace(found, strength=strength)


def test_an_evaluation_is_json_whole_or_bare() -> None:
    for found in (evaluate(*answers(2), seed=0), full_evaluation()):
        fields = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert list(fields) == list(vars(found))
        assert fields["accuracy"] == found.accuracy and tuple(map(tuple, fields["confusion"])) == found.confusion


def test_the_intervals_are_those_of_a_slow_bootstrap_by_group() -> None:
    labels, polarity, groups = answers(4)
    rng = np.random.default_rng(11)
    balanced, aurocs = [], []
    for _ in range(100):
        drawn = np.concatenate([np.flatnonzero(groups == g) for g in rng.integers(20, size=20)])
        balanced.append(balanced_accuracy_score(labels[drawn], polarity[drawn] >= 0.5))
        aurocs.append(roc_auc_score(labels[drawn], polarity[drawn]))
    found = evaluate(labels, polarity, groups, bootstrap=100, seed=11)
    assert (found.balanced_accuracy_low, found.balanced_accuracy_high) == pytest.approx(
        np.quantile(balanced, [0.025, 0.975])
    )
    assert (found.auroc_low, found.auroc_high) == pytest.approx(np.quantile(aurocs, [0.025, 0.975]))


def test_samples_of_one_class_leave_no_nan_behind() -> None:
    found = evaluate(np.array([0, 1]), np.array([0.2, 0.9]), np.arange(2), bootstrap=40, seed=0)
    assert found.balanced_accuracy_low == found.auroc_low == 1.0
    together = evaluate(np.array([0, 1]), np.array([0.2, 0.9]), np.array([0, 1]), bootstrap=1, seed=3)
    json.dumps(together.to_dict(), allow_nan=False)


def test_what_is_measured_is_what_is_served_and_the_error_before_stands_beside_it() -> None:
    labels, polarity, groups = answers(5)
    served = np.sqrt(polarity.astype(np.float64))
    found = evaluate(labels, served, groups, seed=0, uncalibrated=polarity)
    assert replace(found, ece_uncalibrated=None) == evaluate(labels, served, groups, seed=0)
    assert found.ece_uncalibrated == evaluate(labels, polarity, groups, seed=0).ece != found.ece


def test_shares_are_rounded_for_answers_and_taken_as_they_are_for_probabilities() -> None:
    labels, polarity, groups = answers(7)
    shares = np.where(labels == 1, 0.5 + polarity / 2, polarity / 2.5).astype(np.float64)
    shares[np.flatnonzero(labels)[0]] = 0.5  # counts as positive
    found, rounded = evaluate(shares, polarity, groups, seed=0), evaluate(labels, polarity, groups, seed=0)
    as_they_are = ("brier", "ece")
    assert replace(found, brier=0, ece=0) == replace(rounded, brier=0, ece=0)
    assert found.brier == pytest.approx(np.mean((polarity - shares) ** 2))
    assert all(getattr(found, name) < getattr(rounded, name) for name in as_they_are)
    assert evaluate(shares, shares, groups, seed=0).ece == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="every label in"):
        evaluate(2 * shares, polarity, groups, seed=0)


def test_between_is_the_share_that_says_how_strongly() -> None:
    polarity = np.array([0, 0.05, 0.06, 0.5, 0.94, 0.95, 1])
    assert evaluate(np.arange(7) % 2, polarity, np.arange(7), bootstrap=1, seed=0).between == pytest.approx(3 / 7)


# Strength -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_rank_correlations_and_intervals_are_those_of_scipy_and_a_slow_bootstrap(seed: int) -> None:
    labels, polarity, groups = answers(seed)
    rng = np.random.default_rng(seed)
    felt = (labels + rng.normal(polarity, 0.4)).round(1)  # with ties
    felt[rng.random(60) < 0.2] = np.nan
    found = measure_strength(polarity, felt, labels, groups, bootstrap=60, seed=5)
    for one, inside in ((found.overall, labels >= 0), (found.negative, labels == 0), (found.positive, labels == 1)):
        chosen = np.flatnonzero(inside & ~np.isnan(felt))
        assert one is not None and one.pictures == len(chosen)
        assert one.value == pytest.approx(spearmanr(polarity[chosen], felt[chosen]).statistic)
        names, draws, slow = np.unique(groups[chosen]), np.random.default_rng(5), []
        for _ in range(60):
            picked = names[draws.integers(len(names), size=len(names))]
            drawn = np.concatenate([chosen[groups[chosen] == name] for name in picked])
            slow.append(spearmanr(polarity[drawn], felt[drawn]).statistic)
        assert (one.low, one.high) == pytest.approx(np.quantile(slow, [0.025, 0.975]))


def test_a_rank_correlation_needs_three_pictures_some_spread_and_two_groups() -> None:
    assert rank_correlation(np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.arange(2), seed=0) is None
    assert rank_correlation(np.ones(9), np.arange(9.0), np.arange(9), seed=0) is None
    alone = rank_correlation(np.arange(4.0), np.arange(4.0), np.zeros(4), seed=0)
    assert alone is not None and replace(alone, value=round(alone.value, 9)) == RankCorrelation(4, 1.0, None, None)


# Slices and intensities -----------------------------------------------------------------------------------


def test_a_slice_measures_its_category_alone() -> None:
    labels, polarity, groups = answers(6)
    categories = np.where(groups < 12, "hats", "shoes").astype(object)
    categories[groups == 19] = None
    found = evaluate(labels, polarity, groups, bootstrap=300, seed=0, categories=categories).categories
    assert found is not None and list(found) == ["hats", "shoes"]
    inside = groups < 12
    alone = evaluate(labels[inside], polarity[inside], groups[inside], bootstrap=300, seed=0)
    assert found["hats"] == Slice(36, alone.positives, alone.accuracy, alone.accuracy_low, alone.accuracy_high)
    assert found["shoes"].pictures == 21


def test_a_slice_may_have_one_class_or_one_product() -> None:
    labels, polarity = np.array([0, 0, 0, 1, 1]), np.array([0.1, 0.2, 0.9, 0.9, 0.8])
    categories = np.array(["a", "a", "a", "b", "b"])
    found = evaluate(labels, polarity, np.array([1, 2, 3, 4, 4]), seed=0, categories=categories).categories
    assert found is not None
    assert found["b"] == Slice(2, 2, 1.0, None, None)
    assert found["a"].accuracy == pytest.approx(2 / 3) and found["a"].low is not None


def pearson(pairs: NDArray[np.floating]) -> float:
    return float(np.asarray(np.corrcoef(pairs.astype(np.float64), rowvar=False))[0, 1])


def test_intensities_correlate_as_numpy_says_overall_and_by_class() -> None:
    rng = np.random.default_rng(0)
    pairs, labels = rng.random((50, 2)).astype(np.float32), np.arange(50) % 2
    found = correlate_intensities(pairs, labels)
    assert found.overall == pytest.approx(pearson(pairs), abs=1e-6)
    assert found.negative == pytest.approx(pearson(pairs[labels == 0]), abs=1e-6)
    assert found.positive == pytest.approx(pearson(pairs[labels == 1]), abs=1e-6)


@pytest.mark.parametrize("pairs", [np.zeros((0, 2)), np.ones((2, 2)), np.full((9, 2), 0.1, dtype=np.float32)])
def test_a_correlation_without_spread_is_none(pairs: NDArray[np.floating]) -> None:
    assert correlate_intensities(pairs, np.ones(len(pairs), dtype=np.int64)).overall is None


# Retrieval ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_retrieval_recall_agrees_with_a_slow_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 100, 300)
    centres, noise = rng.normal(size=(100, 8)), rng.normal(size=(300, 8))
    embeddings = np.asarray(centres[groups] + noise)
    hits: dict[int, list[bool]] = {1: [], 3: [], 5: []}
    for i in range(300):
        if (groups == groups[i]).sum() < 2:
            continue
        near = embeddings @ embeddings[i] / np.linalg.norm(embeddings, axis=1)
        order = [j for j in np.argsort(-near) if j != i]
        for k, found in hits.items():
            found.append(any(groups[j] == groups[i] for j in order[:k]))
    measured = retrieval_recall(embeddings, groups, (1, 3, 5), bootstrap=200, seed=1)
    assert measured.queries == len(hits[1]) < 300
    for k, found in hits.items():
        recall = measured.recall[k]
        assert recall.value == pytest.approx(np.mean(found))
        assert recall.low is not None and recall.high is not None and recall.low < recall.value < recall.high


def test_embeddings_that_are_all_alike_retrieve_nothing() -> None:
    found = retrieval_recall(np.ones((20, 4)), np.arange(20) // 2, bootstrap=10)
    assert [recall.value for recall in found.recall.values()] == [0, 0]
    assert retrieval_recall(np.zeros((20, 4)), np.arange(20) // 2, bootstrap=10).recall[1].value == 0


def test_single_pictures_of_products_are_no_queries_but_stand_in_the_way() -> None:
    embeddings = np.array([[1, 0], [0.9, 0.4], [1, 0.1], [0, 1]])
    found = retrieval_recall(embeddings, np.array(["a", "a", "b", "c"]), bootstrap=10)
    assert (found.queries, found.recall[1].value, found.recall[5].value) == (2, 0, 1)
    assert found.recall[1].low is None  # one product
    assert retrieval_recall(embeddings, np.arange(4)) == Retrieval(0, {})


def test_embeddings_that_are_no_numbers_or_not_one_a_group_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        retrieval_recall(np.array([[np.nan], [1]]), np.array([1, 1]))
    with pytest.raises(ValueError, match="found 2, 3"):
        retrieval_recall(np.ones((2, 2)), np.arange(3))


@pytest.mark.parametrize("only", [0, 1])
def test_one_class_alone_cannot_be_measured(only: int) -> None:
    with pytest.raises(LabelsUnusable, match=f"expected labels 0 and 1 .* found \\[{only}\\]"):
        evaluate(np.full(5, only), np.full(5, 0.5), np.arange(5), seed=0)


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1])
def test_a_polarity_outside_0_to_1_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="polarity in"):
        evaluate(np.array([0, 1]), np.array([0.5, bad]), np.arange(2), seed=0)


def test_lengths_that_differ_are_refused_by_name() -> None:
    labels, polarity, groups = answers(0)
    with pytest.raises(ValueError, match="categories: expected one a label \\(60\\), found 59"):
        evaluate(labels, polarity, groups, seed=0, categories=groups[1:])
    with pytest.raises(ValueError, match="polarity: expected one a label \\(60\\), found 59"):
        HeldOut(labels, polarity[1:], groups)
