"""Whether P(positive) means what it says, and a calibration, which makes it so. Knows arrays only.

A calibration maps a network's log-odds of positive to those that are served. It rises strictly, nowhere slower than a
tenth of the network's log-odds, so that it keeps every rank: two pictures tie only where the network cannot tell them
apart. Two kinds are fitted on validation pictures, by labels in [0, 1]:

- a temperature T: the log-odds are divided by T. T > 1 softens an overconfident network, T < 1 sharpens a timid one,
  and every answer at 0.5 stays;
- isotonic, from `ISOTONIC_FROM` pictures on: the shares of positives in bins, made to rise, with lines between them.

One is kept only where it lowers the error on pictures that it was not fitted on: see `fit_calibration`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bootstrap import group_means

Floats = NDArray[np.floating]

BINS = 10
"""Bins of equal width into which P(positive) is sorted."""

LEAST, MOST = 0.1, 10.0
"""A network outside these is not miscalibrated but broken; scaling should not hide that."""

ISOTONIC_FROM = 500
"""Validation pictures. With fewer, steps that are chance outweigh what a temperature cannot say."""
ISOTONIC_BIN = 25  # pictures

BOOTSTRAP = 1000
CONFIDENCE = 0.95  # that a calibration helps: by chance one in two would on a few pictures
FOLDS = 5


@dataclass(frozen=True)
class Calibration:
    """From a network's log-odds to those that are served."""

    temperature: float = 1.0
    knots: tuple[tuple[float, float], ...] = ()
    """The network's log-odds and the served ones, both rising. Lines join them, and beyond the first and the last the
    slope is 1 / temperature. None: the temperature alone."""

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature: expected above 0, found {self.temperature}")
        if self.knots and not (np.isfinite(self.knots).all() and (np.diff(self.knots, axis=0) > 0).all()):
            raise ValueError(f"knots: expected both columns to rise, found {self.knots}")

    def apply(self, logits: Floats) -> NDArray[np.float64]:
        """B served log-odds from B of the network."""
        raw = logits.astype(np.float64)
        if not self.knots:
            return raw / self.temperature
        x, y = np.array(self.knots).T
        beyond = (raw - np.clip(raw, x[0], x[-1])) / self.temperature
        return np.asarray(np.interp(raw, x, y) + beyond)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, for a manifest."""
        return {"temperature": self.temperature, "knots": [list(knot) for knot in self.knots]}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_dict`."""
        return cls(fields["temperature"], tuple((x, y) for x, y in fields["knots"]))


UNCALIBRATED = Calibration()

Fit = Callable[[Floats, Floats], Calibration]


def probability(logits: Floats) -> NDArray[np.float64]:
    """P(positive) of log-odds, in float64."""
    # Not scipy's expit: every process that scores would wait for its import.
    return np.asarray(np.exp(-np.logaddexp(0, -logits.astype(np.float64))))


def fit_calibration(logits: Floats, labels: Floats, groups: NDArray[Any], *, seed: int) -> Calibration:
    """The calibration that surely helps pictures that it was not fitted on.

    Each kind is fitted on four fifths of the groups and answers for the last fifth, in turn. It is a candidate only
    where its answers have less cross-entropy than the network's own (or the simpler kind's) in 95 % of bootstrap
    samples of whole groups, and no larger calibration error. The best one is fitted again on all pictures; where none
    is a candidate, `UNCALIBRATED`.

    Args:
        logits: B log-odds of the validation pictures.
        labels: B in [0, 1].
        groups: B of any comparable type; a group is on one side of a fold.
        seed: of the dealing of groups to folds.

    Raises:
        ValueError: lengths differ, a logit is not finite, or a label not in [0, 1].
    """
    _check(logits, labels)
    if len(groups) != len(logits):
        raise ValueError(f"expected one group a picture ({len(logits)}), found {len(groups)}")
    names, group = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return UNCALIBRATED
    fold = (np.random.default_rng(seed).permutation(len(names)) % FOLDS)[group]
    kinds: list[Fit] = [fit_temperature, *([fit_isotonic] if len(logits) >= ISOTONIC_FROM else [])]
    best, served = UNCALIBRATED, logits
    largest_error = calibration_error(labels, probability(logits))
    for fit in kinds:
        answers = _cross_fitted(fit, logits, labels, fold)
        gain = _cross_entropies(served, labels) - _cross_entropies(answers, labels)
        sure = float(np.quantile(group_means(gain, groups, BOOTSTRAP, seed), 1 - CONFIDENCE))
        if sure > 0 and calibration_error(labels, probability(answers)) <= largest_error:
            best, served = fit(logits, labels), answers
    return best


def _cross_fitted(fit: Fit, logits: Floats, labels: Floats, fold: NDArray[np.int64]) -> NDArray[np.float64]:
    answers = np.empty(len(logits))
    for number in np.unique(fold).tolist():
        inside = fold == number
        answers[inside] = fit(logits[~inside], labels[~inside]).apply(logits[inside])
    return answers


def fit_temperature(logits: Floats, labels: Floats) -> Calibration:
    """The temperature with the smallest cross-entropy on these pictures; 1.0 where they lack a class.

    The targets are Platt's, (n₁ + 1)/(n₁ + 2) and 1/(n₀ + 2), not 1 and 0 (a share lies between them as it lies
    between 1 and 0): otherwise a few validation pictures that are all answered right would send T to its lower bound.

    Raises:
        ValueError: lengths differ, a logit is not finite, or a label not in [0, 1].
    """
    _check(logits, labels)
    positives = float(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return UNCALIBRATED
    from scipy.optimize import minimize_scalar

    high, low = (positives + 1) / (positives + 2), 1 / (negatives + 2)
    targets = low + labels * (high - low)

    # Cross-entropy is convex in 1/T, so it has one valley in log T.
    lowest = minimize_scalar(
        lambda log_temperature: cross_entropy(logits / math.exp(log_temperature), targets),
        bounds=(math.log(LEAST), math.log(MOST)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return Calibration(math.exp(lowest.x))


def fit_isotonic(logits: Floats, labels: Floats) -> Calibration:
    """The shares of positives in bins of `ISOTONIC_BIN` pictures of like log-odds, pooled until they rise.

    Each share counts one more picture of either class, so that none is 0 or 1. Between the middles of bins the
    log-odds are joined by lines, none flatter than 1 / `MOST`; beyond them a fitted temperature goes on.

    Raises:
        ValueError: lengths differ, a logit is not finite, or a label not in [0, 1].
    """
    from sklearn.isotonic import isotonic_regression

    temperature = fit_temperature(logits, labels).temperature
    order = np.argsort(logits, kind="stable")
    bins = np.array_split(order, max(1, len(logits) // ISOTONIC_BIN))
    pictures = np.array([len(rows) for rows in bins])
    shares = np.array([(labels[rows].sum() + 1) / (len(rows) + 2) for rows in bins])
    rising = isotonic_regression(shares, sample_weight=pictures)
    _, level = np.unique(rising, return_inverse=True)
    middles = np.bincount(level, [float(logits[rows].sum()) for rows in bins]) / np.bincount(level, pictures)
    served = np.log(rising) - np.log1p(-rising)
    knots: list[tuple[float, float]] = []
    for x, y in zip(middles.tolist(), served[np.unique(level, return_index=True)[1]].tolist(), strict=True):
        if not knots:
            knots.append((x, y))
        elif x > knots[-1][0]:
            knots.append((x, max(y, knots[-1][1] + (x - knots[-1][0]) / MOST)))
    return Calibration(temperature, tuple(knots))


def cross_entropy(logits: Floats, labels: Floats) -> float:
    """The mean of −b·log p − (1 − b)·log(1 − p), p the probability of the log-odds and b the label."""
    return float(np.mean(_cross_entropies(logits, labels)))


def _cross_entropies(logits: Floats, labels: Floats) -> NDArray[np.float64]:
    """B, of each picture."""
    return np.asarray(np.logaddexp(0, logits) - labels * logits, dtype=np.float64)


def calibration_bins(
    labels: NDArray[Any], polarity: Floats
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """The pictures of each bin, the sum of their labels (the positive ones among them), and of their P(positive).

    Not scikit-learn's `calibration_curve`: that gives neither the counts nor the empty bins.
    """
    bins = np.minimum((polarity * BINS).astype(np.int64), BINS - 1)
    sums = [np.bincount(bins, values.astype(np.float64), BINS).astype(np.float64) for values in (labels, polarity)]
    return np.bincount(bins, minlength=BINS), sums[0], sums[1]  # of no pictures numpy counts in whole numbers


def calibration_error(labels: NDArray[Any], polarity: Floats) -> float:
    """ECE: Σ over bins of |mean polarity − mean label|, each weighted by its share of the pictures."""
    _, positives, promised = calibration_bins(labels, polarity)
    return float(np.abs(promised - positives).sum() / len(labels))


def _check(logits: Floats, labels: Floats) -> None:
    if len(logits) != len(labels):
        raise ValueError(f"expected one logit a label ({len(labels)}), found {len(logits)}")
    if not np.isfinite(logits).all():
        raise ValueError("expected finite logits, found others")
    if not ((labels >= 0) & (labels <= 1)).all():
        raise ValueError("expected labels in [0, 1], found others")
