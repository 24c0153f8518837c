"""How good a classifier is on labelled pictures that it never saw. Knows arrays only, no network.

Shapes: B pictures; G groups (products) of pictures.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import LabelsUnusable

POSITIVE_FROM = 0.5
"""A picture counts as positive from this P(positive) on."""

CALIBRATION_BINS = 10

Confusion = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Evaluation:
    """Measures on held-out pictures."""

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
    """The mean squared error of P(positive)."""
    ece: float
    """Expected calibration error of P(positive) over ten bins of equal width."""
    confusion: Confusion
    """Counts [label][answer], negative first."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, for a manifest."""
        return asdict(self) | {"confusion": [list(row) for row in self.confusion]}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Evaluation":
        """The inverse of `to_dict`.

        Raises:
            TypeError: a key is unknown or missing.
        """
        (tn, fp), (fn, tp) = fields["confusion"]
        return cls(**{**fields, "confusion": ((tn, fp), (fn, tp))})


def evaluate(
    labels: NDArray[np.int64],
    polarity: NDArray[np.floating],
    groups: NDArray[Any],
    *,
    bootstrap: int = 1000,
    seed: int,
) -> Evaluation:
    """Measures P(positive) against labels.

    Args:
        labels: B of 0 and 1.
        polarity: B of P(positive).
        groups: B of any comparable type. Pictures of one product are alike, so that a bootstrap of
            single pictures would promise more certainty than there is.
        bootstrap: how many samples the interval comes from. Its width is 0 where every answer is right.
        seed: of the bootstrap.

    Raises:
        LabelsUnusable: one class is not there, so that half the measures have no meaning.
        ValueError: lengths differ, or a polarity is not in [0, 1].
    """
    _check(labels, polarity, groups)
    answers = (polarity >= POSITIVE_FROM).astype(np.int64)
    correct = answers == labels
    low, high = _accuracy_interval(correct, groups, bootstrap, seed)
    positives = int(labels.sum())
    return Evaluation(
        pictures=len(labels),
        positives=positives,
        accuracy=float(correct.mean()),
        accuracy_low=low,
        accuracy_high=high,
        balanced_accuracy=float((correct[labels == 0].mean() + correct[labels == 1].mean()) / 2),
        majority_share=max(positives, len(labels) - positives) / len(labels),
        auroc=_auroc(labels, polarity),
        brier=float(np.mean((polarity.astype(np.float64) - labels) ** 2)),
        ece=_calibration_error(labels, polarity),
        confusion=_confusion(labels, answers),
    )


def _check(labels: NDArray[np.int64], polarity: NDArray[np.floating], groups: NDArray[Any]) -> None:
    if not len(labels) == len(polarity) == len(groups):
        raise ValueError(
            f"expected one polarity and one group a label ({len(labels)}), found {len(polarity)} and {len(groups)}"
        )
    if not ((polarity >= 0) & (polarity <= 1)).all():
        raise ValueError("expected every polarity in [0, 1], found others")
    found = np.unique(labels).tolist()
    if found != [0, 1]:
        raise LabelsUnusable(f"expected labels 0 and 1 among the pictures to measure on, found {found}")


def _accuracy_interval(
    correct: NDArray[np.bool_], groups: NDArray[Any], samples: int, seed: int
) -> tuple[float, float]:
    """The middle 95% of the accuracy when whole groups are drawn with replacement."""
    _, group = np.unique(groups, return_inverse=True)
    sizes = np.bincount(group)
    right = np.bincount(group, weights=correct)
    rng = np.random.default_rng(seed)
    draws = (rng.integers(len(sizes), size=len(sizes)) for _ in range(samples))
    accuracies = [right[drawn].sum() / sizes[drawn].sum() for drawn in draws]
    low, high = np.quantile(accuracies, [0.025, 0.975])
    return float(low), float(high)


def _auroc(labels: NDArray[np.int64], polarity: NDArray[np.floating]) -> float:
    negatives, positives = np.sort(polarity[labels == 0]), polarity[labels == 1]
    below = np.searchsorted(negatives, positives, side="left")
    not_above = np.searchsorted(negatives, positives, side="right")
    return float((below + not_above).mean() / (2 * len(negatives)))


def _calibration_error(labels: NDArray[np.int64], polarity: NDArray[np.floating]) -> float:
    """Σ over bins of |mean polarity − share of positives|, each weighted by its share of the pictures."""
    bins = np.minimum((polarity * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=polarity.astype(np.float64) - labels, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def _confusion(labels: NDArray[np.int64], answers: NDArray[np.int64]) -> Confusion:
    tn, fp, fn, tp = np.bincount(2 * labels + answers, minlength=4).tolist()
    return ((tn, fp), (fn, tp))
