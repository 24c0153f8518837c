"""Which labelled pictures train a model, which calibrate it and which measure it. Knows labels and groups only.

A group is a product: its pictures resemble one another, so that one on each side would let a network
score well by recognising products.

A group's side follows from a hash of its name, so that next week's labels find last week's held-out products
still held out. Were they dealt anew, the incumbent would be measured on pictures that it was trained on, and
would look better than it is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import LabelsUnusable

PICTURES_PER_CLASS = 5
GROUPS_PER_CLASS = 2  # one for each side of the split
SHARE_BAND = 0.2
"""How far a class's share of a side may lie from the wanted one, as a part of it (0.25 ± 0.05), before groups
are moved against their hash. A narrower band is a truer share, but moves more groups as labels arrive."""


@dataclass(frozen=True)
class Split:
    """Indices into the labels, each side in ascending order."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    """For the temperature. Empty where the labels are too few for three sides."""
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


def position(group: object, seed: int) -> float:
    """Where a group lies between 0 and 1: held out from 0 on, then validation, then train."""
    digest = hashlib.blake2b(f"{seed}\0{group}".encode(), digest_size=8).digest()
    return float(int.from_bytes(digest, "big") / 2**64)


def split(
    labels: NDArray[np.int64],
    groups: NDArray[Any],
    *,
    held_out_share: float = 0.25,
    validation_share: float = 0.0,
    seed: int,
) -> Split:
    """Deals whole groups to three sides, both classes in about their proportion, each by its `position`.

    Raises:
        LabelsUnusable: as `check_labels`, or no way of dealing the groups gives train and held-out both classes.
        ValueError: the shares are not between 0 and 1, or leave nothing to train on.
    """
    if not 0 < held_out_share < 1:
        raise ValueError(f"held_out_share: expected between 0 and 1, found {held_out_share}")
    if not 0 <= validation_share < 1 - held_out_share:
        raise ValueError(f"validation_share: expected from 0 to below {1 - held_out_share:g}, found {validation_share}")
    check_labels(labels, groups)
    names, group = np.unique(groups, return_inverse=True)
    counts = np.stack([np.bincount(group, weights=labels == value) for value in (0, 1)], axis=1).astype(np.int64)
    positions = np.array([position(name, seed) for name in names.tolist()])
    side = np.zeros(len(names), dtype=np.int64)  # 0 train, 1 validation, 2 held out
    # The rounding of a group's few labels must not be its class: mostly positive groups, and the others.
    mostly_positive = counts[:, 1] >= counts[:, 0]
    for stratum in (np.flatnonzero(mostly_positive), np.flatnonzero(~mostly_positive)):
        _deal(side, stratum[np.argsort(positions[stratum])], positions, counts, (held_out_share, validation_share))
    _mend(side, positions, counts)
    sides = side[group]
    result = Split(*(np.flatnonzero(sides == number) for number in range(3)))
    _check_sides(result, labels, groups)
    return result


def _deal(
    side: NDArray[np.int64],
    order: NDArray[np.int64],
    positions: NDArray[np.float64],
    counts: NDArray[np.int64],
    shares: tuple[float, float],
) -> None:
    """One stratum's groups, in the order of their positions. What held-out gives up falls to validation first."""
    if len(order) < GROUPS_PER_CLASS:
        return
    sizes = counts.sum(axis=1)
    pictures = int(sizes[order].sum())
    held_out_share, validation_share = shares
    held_out = _take(order, positions < held_out_share, sizes, held_out_share * pictures)
    if not held_out:
        held_out = [min(order.tolist(), key=lambda g: (sizes[g], positions[g]))]
    side[held_out] = 2
    rest = order[side[order] != 2]
    if validation_share and len(rest) > 1:
        wanted = positions < held_out_share + validation_share
        side[_take(rest, wanted, sizes, validation_share * pictures)] = 1


def _take(order: NDArray[np.int64], wanted: NDArray[np.bool_], sizes: NDArray[np.int64], target: float) -> list[int]:
    """The groups whose position wants them here; others only where those are too few, none that is too large."""
    least, most = target * (1 - SHARE_BAND), target * (1 + SHARE_BAND)
    most = min(most, float(sizes[order].sum() - sizes[order].min()))  # one group at least stays behind
    taken, chosen = 0, []
    for g in order.tolist():
        if (wanted[g] or taken < least) and taken + sizes[g] <= most:
            chosen.append(g)
            taken += sizes[g]
    return chosen


def _mend(side: NDArray[np.int64], positions: NDArray[np.float64], counts: NDArray[np.int64]) -> None:
    """Where train or held-out lacks a class, brings it the smallest group, or the smallest two, that cure it."""
    for receiver, giver in ((2, 0), (0, 1), (0, 2)):
        if (counts[side == receiver].sum(axis=0) > 0).all():
            continue
        lacking = counts[side == receiver].sum(axis=0) == 0
        movable = np.flatnonzero((side == giver) & (counts[:, lacking] > 0).any(axis=1)).tolist()
        movable.sort(key=lambda g: (counts[g].sum(), positions[g]))
        for moved in [[g] for g in movable] + [list(two) for two in combinations(movable[:10], 2)]:
            after = side.copy()
            after[moved] = receiver
            must_keep = (receiver,) if giver == 1 else (receiver, giver)
            if all((counts[after == number].sum(axis=0) > 0).all() for number in must_keep):
                side[:] = after
                break


def _check_sides(result: Split, labels: NDArray[np.int64], groups: NDArray[Any]) -> None:
    sides = {"train": result.train, "validation": result.validation, "held-out": result.held_out}
    for (one, first), (other, second) in combinations(sides.items(), 2):
        shared = np.intersect1d(groups[first], groups[second])
        if len(shared):
            raise AssertionError(f"expected no group both in {one} and {other}, found {len(shared)}: {shared[:3]}")
    for name in ("train", "held-out"):
        classes = np.unique(labels[sides[name]]).tolist()
        if classes != [0, 1]:
            raise LabelsUnusable(
                f"expected both classes on the {name} side, found {classes}: groups too few or too unequal"
            )
