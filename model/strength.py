"""How strongly: does what a model says rank pictures as people felt about them? Knows arrays only.

Pearson's or plain accuracy would not do: a label says which side a picture is on, and among the pictures of one side
only ranks can be compared. Intervals are 95% intervals of a bootstrap over groups (`model.bootstrap`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bootstrap import BOOTSTRAP, group_draws, middle

SMALLEST = 3  # pictures; two are in order or not, whatever they are


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's, with its interval; None where the pictures are of one group, which tells nothing of another."""

    pictures: int
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Strength:
    """Rank correlation of what a model says with how positive people felt, over the pictures where that is known.

    Overall, two classes that lie apart give most of it; within a class is what "how strongly" asks for. None: fewer
    than three pictures, or no spread.
    """

    overall: RankCorrelation | None
    negative: RankCorrelation | None
    """Over the pictures labelled negative."""
    positive: RankCorrelation | None


def measure_strength(
    said: NDArray[np.floating],
    felt: NDArray[np.floating],
    labels: NDArray[np.integer],
    groups: NDArray[Any],
    *,
    bootstrap: int = BOOTSTRAP,
    seed: int,
) -> Strength:
    """Overall and within each class.

    Args:
        said: B log-odds or polarities; only their order counts.
        felt: B, in any unit, higher where people felt more positive, NaN where that is not known.
        labels: B of 0 and 1; any other value is in no class.
        groups: B of any comparable type.
        bootstrap: how many samples the intervals come from.
        seed: of the bootstrap.
    """
    known = ~np.isnan(felt)

    def among(pictures: NDArray[np.bool_]) -> RankCorrelation | None:
        return rank_correlation(said[pictures], felt[pictures], groups[pictures], bootstrap=bootstrap, seed=seed)

    return Strength(among(known), among(known & (labels == 0)), among(known & (labels == 1)))


def rank_correlation(
    one: NDArray[np.floating],
    other: NDArray[np.floating],
    groups: NDArray[Any],
    *,
    bootstrap: int = BOOTSTRAP,
    seed: int,
) -> RankCorrelation | None:
    """Spearman's rank correlation of B numbers with B others; None for fewer than three, or without spread."""
    if len(one) < SMALLEST or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    levels = [np.unique(values, return_inverse=True)[1] for values in (one, other)]
    value = _weighted(levels[0], levels[1], np.ones(len(one)))
    _, group = np.unique(groups, return_inverse=True)
    count = int(group.max()) + 1
    if count < 2:
        return RankCorrelation(len(one), value, None, None)
    drawn = [_weighted(levels[0], levels[1], drawn[group]) for drawn in group_draws(count, bootstrap, seed)]
    low, high = middle(np.array(drawn)) or (None, None)
    return RankCorrelation(len(one), value, low, high)


def _weighted(one: NDArray[np.int64], other: NDArray[np.int64], weights: NDArray[Any]) -> float:
    """Spearman's of pictures that are there `weights` times; NaN without spread. Ties share their middle rank.

    Not scipy's, which sorts: the bootstrap asks a thousand times.
    """
    ranks = []
    for level in (one, other):
        pictures = np.bincount(level, weights)
        middle_rank = (np.cumsum(pictures) - pictures / 2)[level]
        ranks.append(middle_rank - np.average(middle_rank, weights=weights))
    spread = [float(weights @ rank**2) for rank in ranks]
    if min(spread) <= 0:
        return float("nan")
    return float(weights @ (ranks[0] * ranks[1]) / np.sqrt(spread[0] * spread[1]))
