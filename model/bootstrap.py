"""How sure a measure is: samples of whole groups, drawn with replacement. Knows arrays only.

Pictures of one product are alike, so that drawing single pictures would promise more certainty than there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

BOOTSTRAP = 1000
"""Samples for an interval."""

Interval = tuple[float, float]


def group_draws(groups: int, samples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each group is drawn, G numbers a sample: as many draws as groups, with replacement."""
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        yield np.bincount(rng.integers(groups, size=groups), minlength=groups)


def group_means(values: NDArray[Any], groups: NDArray[Any], samples: int, seed: int) -> NDArray[np.float64]:
    """The mean of B values in each sample; none for a single group, which tells nothing of another one."""
    _, group = np.unique(groups, return_inverse=True)
    sizes, sums = np.bincount(group), np.bincount(group, weights=values)
    if len(sizes) == 1:
        return np.empty(0)
    return np.array([sums @ drawn / (sizes @ drawn) for drawn in group_draws(len(sizes), samples, seed)])


def balanced_gain(
    gain: NDArray[np.int64], labels: NDArray[np.int64], groups: NDArray[Any], samples: int, seed: int
) -> tuple[float, Interval | None]:
    """The difference of two models' balanced accuracies, and its interval.

    `gain` is −1, 0 or 1 a picture: which of the two alone is right.
    """
    _, group = np.unique(groups, return_inverse=True)
    of_class = [labels == value for value in (0, 1)]
    gains = np.stack([np.bincount(group, weights=gain * inside) for inside in of_class])
    counts = np.stack([np.bincount(group, weights=inside) for inside in of_class])

    def mean_gain(drawn: NDArray[np.int64]) -> float:
        pictures = counts @ drawn
        return float(np.mean(gains @ drawn / pictures)) if pictures.all() else float("nan")

    drawn = [mean_gain(draw) for draw in group_draws(counts.shape[1], samples, seed)]
    return mean_gain(np.ones(counts.shape[1], dtype=np.int64)), middle(np.array(drawn))


def middle(values: NDArray[np.float64]) -> Interval | None:
    """The middle 95% of the values that are numbers; None where none is."""
    numbers = values[~np.isnan(values)]
    if not len(numbers):
        return None
    low, high = np.quantile(numbers, [0.025, 0.975])
    return float(low), float(high)
