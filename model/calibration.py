"""Whether P(positive) means what it says, and temperature scaling, which makes it so. Knows arrays only.

logit(p') = logit(p) / T, with one number T fitted on validation pictures. T > 1 softens an overconfident network, T < 1
sharpens a timid one; the order of the pictures and every answer at 0.5 stay.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

BINS = 10
"""Bins of equal width into which P(positive) is sorted."""

LEAST, MOST = 0.1, 10.0
"""A network outside these is not miscalibrated but broken; scaling should not hide that."""

_SHORTEST = 1e-7
"""float32 rounds a sure answer to exactly 0 or 1, whose logit is infinite."""


def fit_temperature(polarity: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The temperature with the smallest cross-entropy on these pictures; 1.0 where they lack a class.

    The targets are Platt's, (n₁ + 1)/(n₁ + 2) and 1/(n₀ + 2), not 1 and 0: otherwise a few validation pictures
    that are all answered right would send T to its lower bound.

    Raises:
        ValueError: lengths differ, or a polarity is not in [0, 1].
    """
    if len(polarity) != len(labels):
        raise ValueError(f"expected one polarity a label ({len(labels)}), found {len(polarity)}")
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return 1.0
    from scipy.optimize import minimize_scalar

    logits = _logits(polarity)
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - targets * scaled))

    # The loss is convex in 1/T, so it has one valley in log T.
    bounds = math.log(LEAST), math.log(MOST)
    lowest = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    return math.exp(lowest.x)


def apply_temperature(polarity: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """P(positive) at this temperature. Raises ValueError for a temperature that is not above 0."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature: expected above 0, found {temperature}")
    if temperature == 1:
        return polarity.astype(np.float64)
    from scipy.special import expit

    scaled: NDArray[np.float64] = expit(_logits(polarity) / temperature)
    return scaled


def calibration_bins(
    labels: NDArray[np.integer], polarity: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The pictures of each bin, the positive ones among them, and the sum of their P(positive).

    Not scikit-learn's `calibration_curve`: that gives neither the counts nor the empty bins.
    """
    bins = np.minimum((polarity * BINS).astype(np.int64), BINS - 1)
    pictures = np.bincount(bins, minlength=BINS)
    positives = np.bincount(bins[labels == 1], minlength=BINS)
    promised = np.bincount(bins, weights=polarity.astype(np.float64), minlength=BINS)
    return pictures, positives, promised.astype(np.float64)  # of no pictures numpy counts in whole numbers


def calibration_error(labels: NDArray[np.integer], polarity: NDArray[np.floating]) -> float:
    """ECE: Σ over bins of |mean polarity − share of positives|, each weighted by its share of the pictures."""
    _, positives, promised = calibration_bins(labels, polarity)
    return float(np.abs(promised - positives).sum() / len(labels))


def _logits(polarity: NDArray[np.floating]) -> NDArray[np.float64]:
    p = polarity.astype(np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("expected every polarity in [0, 1], found others")
    p = np.clip(p, _SHORTEST, 1 - _SHORTEST)
    return np.asarray(np.log(p) - np.log1p(-p), dtype=np.float64)
