"""Which labelled pictures train a model and which measure it. Knows labels and groups only.

A group is a product: its pictures resemble one another, so that one on each side would let a network
score well by recognising products.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import LabelsUnusable

PICTURES_PER_CLASS = 5
GROUPS_PER_CLASS = 2  # one for each side of the split
MOST_FOLDS = 10


@dataclass(frozen=True)
class Split:
    """Indices into the labels, each side in ascending order."""

    train: NDArray[np.int64]
    held_out: NDArray[np.int64]


def check_labels(labels: NDArray[np.int64], groups: NDArray[Any]) -> None:
    """Refuses labels from which nothing can be learned or measured.

    Raises:
        LabelsUnusable: a label that is neither 0 nor 1, fewer than 5 pictures of a class, or a class
            whose pictures are all of one group.
    """
    if len(labels) != len(groups):
        raise LabelsUnusable(f"expected one group a label ({len(labels)}), found {len(groups)}")
    strange = sorted(set(np.unique(labels).tolist()) - {0, 1})
    if strange:
        raise LabelsUnusable(f"expected labels 0 (negative) and 1 (positive), found also {strange[:3]}")
    for value, name in enumerate(("negative", "positive")):
        of_class = labels == value
        pictures, distinct = int(of_class.sum()), len(np.unique(groups[of_class]))
        if pictures < PICTURES_PER_CLASS or distinct < GROUPS_PER_CLASS:
            raise LabelsUnusable(
                f"expected at least {PICTURES_PER_CLASS} {name} pictures in {GROUPS_PER_CLASS} groups, "
                f"found {pictures} in {distinct}"
            )


def split(labels: NDArray[np.int64], groups: NDArray[Any], *, held_out_share: float = 0.25, seed: int) -> Split:
    """Sets aside about `held_out_share` of the pictures: whole groups, both classes in their proportion.

    Raises:
        LabelsUnusable: as `check_labels`, or the groups are so unequal that a side lacks a class.
        ValueError: the share is not between 0 and 1.
    """
    if not 0 < held_out_share < 1:
        raise ValueError(f"held_out_share: expected between 0 and 1, found {held_out_share}")
    check_labels(labels, groups)
    held_out = np.zeros(len(labels), dtype=bool)
    kept, folds = _folds(held_out_share, labels, groups)
    for fold in _stratified_folds(labels, groups, folds, seed)[:kept]:
        held_out[fold] = True
    result = Split(np.flatnonzero(~held_out), np.flatnonzero(held_out))
    _check_sides(result, labels, groups)
    return result


def _folds(share: float, labels: NDArray[np.int64], groups: NDArray[Any]) -> tuple[int, int]:
    """The share as k of m folds, m at most ten and at most the groups of the rarer class."""
    fewest = min(len(np.unique(groups[labels == value])) for value in (0, 1))
    most = min(MOST_FOLDS, fewest)
    nearest = Fraction(share).limit_denominator(most)
    bounded = min(max(nearest, Fraction(1, most)), Fraction(most - 1, most))
    return bounded.numerator, bounded.denominator


def _stratified_folds(
    labels: NDArray[np.int64], groups: NDArray[Any], folds: int, seed: int
) -> list[NDArray[np.int64]]:
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    return [held_out for _, held_out in splitter.split(np.zeros(len(labels)), labels, groups)]


def _check_sides(result: Split, labels: NDArray[np.int64], groups: NDArray[Any]) -> None:
    shared = np.intersect1d(groups[result.train], groups[result.held_out])
    if len(shared):
        raise AssertionError(f"expected no group on both sides, found {len(shared)}: {shared[:3]}")
    for name, side in (("train", result.train), ("held-out", result.held_out)):
        found = np.unique(labels[side]).tolist()
        if found != [0, 1]:
            raise LabelsUnusable(
                f"expected both classes on the {name} side, found {found}: groups too few or too unequal"
            )
