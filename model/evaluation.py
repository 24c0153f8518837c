"""How good a classifier is on labelled pictures that it never saw. Knows arrays only, no network.

Shapes: B pictures; G groups (products) of pictures. Intervals are 95% intervals of a bootstrap over groups
(`model.bootstrap`). A measure without meaning (one class only) is None, never NaN.

A label may be a share of raters in [0, 1]. From `POSITIVE_FROM` on it counts as positive, exactly there too, as an
answer does; the Brier score and the calibration error take the share as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bootstrap import BOOTSTRAP, Interval, group_draws, group_means, middle
from model.calibration import calibration_error
from model.errors import LabelsUnusable
from model.strength import Strength

POSITIVE_FROM = 0.5
"""A picture counts as positive from this P(positive) on."""

SURE = 0.05
"""A P(positive) within this of 0 or 1 says which, and no more how strongly."""

SMALLEST_CORRELATION = 3  # pictures; through two points goes a line whatever they are

Unknown = tuple[None, None]
Confusion = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Slice:
    """The pictures of one category."""

    pictures: int
    positives: int
    accuracy: float
    low: float | None
    """None where the category is a single group, which tells nothing of another one."""
    high: float | None


@dataclass(frozen=True)
class Correlations:
    """Pearson's correlation of positive with negative intensity (the paper's Figure 6)."""

    overall: float | None
    negative: float | None
    """Over the pictures labelled negative."""
    positive: float | None


@dataclass(frozen=True)
class HeldOut:
    """What a model answered on the held-out pictures: what two models are compared by, picture by picture."""

    labels: NDArray[np.int64]
    """0 or 1: shares are rounded by `answers_of`."""
    polarity: NDArray[np.floating]
    """As served."""
    groups: NDArray[Any]
    categories: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        _check_lengths(len(self.labels), polarity=self.polarity, groups=self.groups, categories=self.categories)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """B: whether the answer is the label."""
        return np.asarray(answers_of(self.polarity) == self.labels)


@dataclass(frozen=True)
class Evaluation:
    """Measures on held-out pictures. None: without meaning for these pictures, or not asked for."""

    pictures: int
    positives: int
    accuracy: float
    accuracy_low: float
    """2.5th percentile over bootstrap samples of whole groups."""
    accuracy_high: float
    """97.5th percentile."""
    balanced_accuracy: float
    """The mean of the two classes' recalls: 0.5 for any constant answer."""
    majority_share: float
    """The accuracy of always answering the more frequent class."""
    auroc: float
    """The chance that a positive picture scores above a negative one; a tie counts half."""
    brier: float
    """The mean squared error of P(positive) as served."""
    ece: float
    """Expected calibration error of P(positive) as served, over ten bins of equal width."""
    confusion: Confusion
    """Counts [label][answer], negative first."""
    balanced_accuracy_low: float | None = None
    balanced_accuracy_high: float | None = None
    auroc_low: float | None = None
    auroc_high: float | None = None
    auprc: float | None = None
    """Average precision of finding the positive pictures; the share of positives for a constant answer."""
    ece_uncalibrated: float | None = None
    """`ece` of what the network says by itself; None where it is served so."""
    between: float | None = None
    """The share of pictures whose P(positive) as served lies further than `SURE` from 0 and 1."""
    strength: Strength | None = None
    """Where it is known how strongly people felt."""
    categories: Mapping[str, Slice] | None = None
    intensities: Correlations | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, for a manifest."""
        return asdict(self) | {"confusion": [list(row) for row in self.confusion]}


def evaluate(
    labels: NDArray[Any],
    polarity: NDArray[np.floating],
    groups: NDArray[Any],
    *,
    bootstrap: int = BOOTSTRAP,
    seed: int,
    uncalibrated: NDArray[np.floating] | None = None,
    categories: NDArray[Any] | None = None,
    intensities: NDArray[np.floating] | None = None,
) -> Evaluation:
    """Measures P(positive) against labels. Strength is measured apart: `model.strength`.

    Args:
        labels: B in [0, 1].
        polarity: B of P(positive), as served: in float64, where the served log-odds' ranks are not lost.
        groups: B of any comparable type.
        bootstrap: how many samples the intervals come from. Their width is 0 where every answer is right.
        seed: of the bootstrap.
        uncalibrated: B of P(positive) before calibration.
        categories: B of names or None; a picture without one is in no slice.
        intensities: B×2, negative and positive.

    Raises:
        LabelsUnusable: one class is not there, so that half the measures have no meaning.
        ValueError: lengths differ, or a polarity is not in [0, 1].
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    _check_lengths(len(labels), categories=categories, intensities=intensities)
    _check_lengths(len(labels), polarity=polarity, groups=groups, uncalibrated=uncalibrated)
    shares, labels = np.asarray(labels, np.float64), answers_of(np.asarray(labels))
    _check(labels, shares, polarity)
    answers = answers_of(polarity)
    correct = answers == labels
    positives = int(labels.sum())
    tn, fp, fn, tp = np.bincount(2 * labels + answers, minlength=4).tolist()
    accuracy, balanced, auroc = _intervals(labels, polarity, groups, bootstrap, seed)
    return Evaluation(
        pictures=len(labels),
        positives=positives,
        accuracy=float(correct.mean()),
        accuracy_low=accuracy[0],
        accuracy_high=accuracy[1],
        balanced_accuracy=float((correct[labels == 0].mean() + correct[labels == 1].mean()) / 2),
        majority_share=max(positives, len(labels) - positives) / len(labels),
        auroc=float(roc_auc_score(labels, polarity)),
        brier=float(np.mean((polarity.astype(np.float64) - shares) ** 2)),
        ece=calibration_error(shares, polarity),
        confusion=((tn, fp), (fn, tp)),
        balanced_accuracy_low=balanced[0],
        balanced_accuracy_high=balanced[1],
        auroc_low=auroc[0],
        auroc_high=auroc[1],
        auprc=float(average_precision_score(labels, polarity)),
        ece_uncalibrated=None if uncalibrated is None else calibration_error(shares, uncalibrated),
        between=float(np.mean((polarity > SURE) & (polarity < 1 - SURE))),
        categories=None if categories is None else _slices(labels, correct, groups, categories, bootstrap, seed),
        intensities=None if intensities is None else correlate_intensities(intensities, labels),
    )


def answers_of(polarity: NDArray[Any]) -> NDArray[np.int64]:
    """B of 0 and 1, of polarities or of labels that are shares."""
    return (polarity >= POSITIVE_FROM).astype(np.int64)


def _check(labels: NDArray[np.int64], shares: NDArray[np.float64], polarity: NDArray[np.floating]) -> None:
    for name, values in (("label", shares), ("polarity", polarity)):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"expected every {name} in [0, 1], found others")
    classes = np.unique(labels).tolist()
    if classes != [0, 1]:
        raise LabelsUnusable(f"expected labels 0 and 1 among the pictures to measure on, found {classes}")


def _check_lengths(pictures: int, **others: NDArray[Any] | None) -> None:
    for name, values in others.items():
        if values is not None and len(values) != pictures:
            raise ValueError(f"{name}: expected one a label ({pictures}), found {len(values)}")


def _intervals(
    labels: NDArray[np.int64], polarity: NDArray[np.floating], groups: NDArray[Any], samples: int, seed: int
) -> tuple[Interval, Interval | Unknown, Interval | Unknown]:
    """Intervals of accuracy, balanced accuracy and AUROC over the same samples; a sample of one class has no AUROC."""
    _, group = np.unique(groups, return_inverse=True)
    correct = answers_of(polarity) == labels
    _, level = np.unique(polarity, return_inverse=True)
    # [label][right], by group, so that a sample is two products of a vector with a matrix.
    table = np.stack([np.bincount(group, weights=(labels == v) & (correct == r)) for v in (0, 1) for r in (0, 1)])
    measured = []
    for drawn in group_draws(table.shape[1], samples, seed):
        wrong_0, right_0, wrong_1, right_1 = table @ drawn
        negatives, positives = wrong_0 + right_0, wrong_1 + right_1
        accuracy = (right_0 + right_1) / (negatives + positives)
        if not negatives or not positives:
            measured.append((accuracy, np.nan, np.nan))
            continue
        balanced = (right_0 / negatives + right_1 / positives) / 2
        measured.append((accuracy, balanced, _weighted_auroc(labels, level, drawn[group])))
    accuracies, balanced_accuracies, aurocs = np.array(measured).T
    accuracy_interval = middle(accuracies)
    assert accuracy_interval is not None  # noqa: S101 (every sample has an accuracy)
    return accuracy_interval, middle(balanced_accuracies) or (None, None), middle(aurocs) or (None, None)


def _weighted_auroc(labels: NDArray[np.int64], level: NDArray[np.int64], weights: NDArray[Any]) -> float:
    """`level` is a picture's rank, equal for ties.

    Not scikit-learn's, which takes milliseconds: the bootstrap asks a thousand times.
    """
    positives = np.bincount(level, weights=weights * labels)
    negatives = np.bincount(level, weights=weights * (1 - labels))
    below = np.cumsum(negatives) - negatives
    return float(positives @ (below + negatives / 2) / (positives.sum() * negatives.sum()))


def _slices(
    labels: NDArray[np.int64],
    correct: NDArray[np.bool_],
    groups: NDArray[Any],
    categories: NDArray[Any],
    samples: int,
    seed: int,
) -> dict[str, Slice]:
    names = sorted({category for category in categories.tolist() if category is not None})
    slices = {}
    for name in names:
        inside = categories == name
        low, high = middle(group_means(correct[inside], groups[inside], samples, seed)) or (None, None)
        counted = int(inside.sum()), int(labels[inside].sum())
        slices[str(name)] = Slice(*counted, float(correct[inside].mean()), low, high)
    return slices


def correlate_intensities(intensities: NDArray[np.floating], labels: NDArray[np.integer]) -> Correlations:
    """Correlations of B×2 intensities, None where a class has fewer than three pictures or no spread."""
    return Correlations(
        overall=_correlation(intensities),
        negative=_correlation(intensities[labels == 0]),
        positive=_correlation(intensities[labels == 1]),
    )


def _correlation(pairs: NDArray[np.floating]) -> float | None:
    # A constant's spread is its rounding, not 0.
    if len(pairs) < SMALLEST_CORRELATION or (np.ptp(pairs, axis=0) <= 1e-7 * np.abs(pairs).max()).any():
        return None
    return float(np.corrcoef(*pairs.T.astype(np.float64))[0, 1])
