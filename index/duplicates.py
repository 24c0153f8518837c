"""Groups of nearly identical rows: whoever is nearer than a threshold belongs together, directly or through others.

Each row asks the index for its nearest few, and for more only while all of those are near enough. Rows of one content
ask once. So a million rows take a million searches, in batches, and a picture that a shop uses ten thousand times is
one question.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index.filtering import Groups
from index.searching import Mask, Rows, Searcher

BATCH = 1024
FIRST_LOOK = 8  # neighbours of each row, itself included
LAST_LOOK = 512  # a row with that many near neighbours is joined to all of them; they join the others

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NearDuplicates:
    """One group: its rows in their order, at least two, and each one's similarity to the first."""

    rows: Rows
    similarity: Floats

    @classmethod
    def of(cls, searcher: Searcher, rows: Rows) -> NearDuplicates:
        """The group of these rows."""
        parts = [searcher.similarity(rows[0], rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
        return cls(rows, np.concatenate(parts))


def near_duplicates(searcher: Searcher, threshold: float, *, content: str = "sha256") -> list[NearDuplicates]:
    """Every group of rows that are at least so similar, largest first.

    Args:
        searcher: an open index.
        threshold: the least similarity of two rows that belong together; the cosine, or minus the distance.
        content: a column whose equal values mean equal rows; where the index lacks it, vectors alone decide.
    """
    same = _same_content(searcher, content)
    firsts = np.arange(len(searcher)) if same is None else np.unique(same, return_index=True)[1]
    joined = _Forest(len(searcher))
    if same is not None:
        copies = np.flatnonzero(firsts[same] != np.arange(len(searcher)))
        joined.join(copies, firsts[same[copies]])
    keep = None
    if len(firsts) < len(searcher):
        keep = np.zeros(len(searcher), dtype=np.bool_)
        keep[firsts] = True
    for rows, others in _near_pairs(searcher, firsts, keep, threshold):
        joined.join(rows, others)
    groups = [NearDuplicates.of(searcher, rows) for rows in joined.groups()]
    return sorted(groups, key=lambda group: (-len(group.rows), group.rows[0]))


def _same_content(searcher: Searcher, column: str) -> Rows | None:
    """The number of each row's content, N; None where the index does not tell."""
    return Groups.of(searcher, column).of_row if column in searcher.table.column_names else None


def _near_pairs(searcher: Searcher, rows: Rows, keep: Mask | None, threshold: float) -> Iterator[tuple[Rows, Rows]]:
    """Pairs of different rows at least so similar."""
    depth, asking = FIRST_LOOK, rows
    while len(asking):
        crowded = [np.empty(0, np.int64)]
        for start in range(0, len(asking), BATCH):
            batch = asking[start : start + BATCH]
            found = searcher.search(searcher.vectors(batch), depth, keep=keep)
            near = found.similarity >= threshold
            crowded.append(batch[near.all(axis=1)])
            near &= found.rows != batch[:, None]
            yield np.repeat(batch, near.sum(axis=1)), found.rows[near]
        asking = np.concatenate(crowded) if depth < min(LAST_LOOK, len(rows)) else crowded[0]
        depth *= 4


class _Forest:
    """Union-find over rows 0..N−1; the root of a tree is its smallest row."""

    def __init__(self, rows: int) -> None:
        self._parents = np.arange(rows)

    def join(self, some: Rows, others: Rows) -> None:
        for one, other in zip(some.tolist(), others.tolist(), strict=True):
            low, high = sorted((self._root(one), self._root(other)))
            self._parents[high] = low

    def groups(self) -> list[Rows]:
        """The trees of two rows or more, each in order."""
        roots = self._parents
        while not np.array_equal(roots, higher := roots[roots]):
            roots = higher
        order = np.argsort(roots, kind="stable")
        starts = np.flatnonzero(np.diff(roots[order], prepend=-1))
        return [rows for rows in np.split(order, starts[1:]) if len(rows) > 1]

    def _root(self, row: int) -> int:
        while (parent := int(self._parents[row])) != row:
            self._parents[row] = self._parents[parent]  # halves the path for whoever comes next
            row = parent
        return row
