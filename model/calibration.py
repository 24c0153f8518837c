"""Temperature scaling: one number, fitted on validation pictures, that makes P(positive) mean what it says.

logit(p') = logit(p) / T. T > 1 softens an overconfident network, T < 1 sharpens a timid one; the order of the
pictures and every answer at 0.5 stay. Knows arrays only.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

LEAST, MOST = 0.1, 10.0
"""A network outside these is not miscalibrated but broken; scaling should not hide that."""

STEPS = 60
"""Of the golden section: the bracket shrinks to 0.618⁶⁰ of its width, past float64's own precision."""

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
    logits = _logits(polarity)
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - targets * scaled))

    return math.exp(_lowest(loss, math.log(LEAST), math.log(MOST)))


def apply_temperature(polarity: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """P(positive) at this temperature. Raises ValueError for a temperature that is not above 0."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature: expected above 0, found {temperature}")
    if temperature == 1:
        return polarity.astype(np.float64)
    # 1/(1 + e^−x) written with tanh, which cannot overflow.
    return np.asarray(0.5 * (1 + np.tanh(_logits(polarity) / (2 * temperature))), dtype=np.float64)


def _logits(polarity: NDArray[np.floating]) -> NDArray[np.float64]:
    p = polarity.astype(np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("expected every polarity in [0, 1], found others")
    p = np.clip(p, _SHORTEST, 1 - _SHORTEST)
    return np.asarray(np.log(p) - np.log1p(-p), dtype=np.float64)


def _lowest(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley is lowest. The loss is convex in 1/T, so it has one valley in log T."""
    golden = (math.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = function(right)
    return (low + high) / 2
