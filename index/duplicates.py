"""Groups of nearly identical rows: whoever is nearer than a threshold to the group's first row belongs to it.

Rows are taken in their order, and a row that no group has claimed begins one. It asks the index for its nearest few,
and for more only while all of those are near enough. Rows of one content ask once. So a million rows take a million
searches, in batches, and a picture that a shop uses ten thousand times is one question. No row joins through a chain
of others: where everything is a little like the next, that would make one group of all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from index.arrays import Floats, Mask, Rows
from index.filtering import Groups
from index.searching import Searcher

BATCH = 1024
FIRST_LOOK = 8  # neighbours of each row, itself included


@dataclass(frozen=True)
class NearDuplicates:
    """One group: its rows in their order, at least two, and each one's similarity to the first."""

    rows: Rows
    similarity: Floats


def near_duplicates(searcher: Searcher, threshold: float, *, content: str = "sha256") -> list[NearDuplicates]:
    """Every group of rows that are at least so similar, largest first.

    Args:
        searcher: an open index.
        threshold: the least similarity of two rows that belong together; the cosine, or minus the distance.
        content: a column whose equal values mean equal rows; where the index lacks it, vectors alone decide.
    """
    everything = np.arange(len(searcher))
    has_content = content in searcher.table.column_names
    same = Groups.of(searcher, content).of_row if has_content else everything
    _, contents, which = np.unique(same, return_index=True, return_inverse=True)
    rows = np.sort(contents)  # the first of each content
    return groups_of(searcher, everything, _firsts(searcher, rows, threshold)[contents[which]])


def _firsts(searcher: Searcher, rows: Rows, threshold: float) -> Rows:
    """For each of `rows` the first row of its group, itself perhaps; -1 for all other rows of the index."""
    keep: Mask = np.zeros(len(searcher), dtype=np.bool_)
    keep[rows] = True
    mask = None if keep.all() else keep
    firsts: Rows = np.full(len(searcher), -1, dtype=np.int64)
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        batch = batch[firsts[batch] < 0]
        if not len(batch):
            continue
        neighbours = searcher.search(searcher.vectors(batch), FIRST_LOOK, keep=mask)
        near = (neighbours.similarity >= threshold) & (neighbours.rows >= 0)
        for line, row in enumerate(batch.tolist()):
            if firsts[row] >= 0:
                continue
            alike = neighbours.rows[line][near[line]]
            # An approximate search may have missed this row when an earlier one asked.
            earlier = alike[firsts[alike] == alike]
            if len(earlier):
                firsts[row] = earlier.min()
                continue
            if near[line].all():
                alike = _all_near(searcher, row, threshold, mask)
            firsts[alike[firsts[alike] < 0]] = row
            firsts[row] = row
    return firsts


def _all_near(searcher: Searcher, row: int, threshold: float, mask: Mask | None) -> Rows:
    """Every row at least so similar to one; asks for more until some of the answers are not."""
    depth = 4 * FIRST_LOOK
    while True:
        neighbours = searcher.search(searcher.vectors([row]), depth, keep=mask)
        near = (neighbours.similarity[0] >= threshold) & (neighbours.rows[0] >= 0)
        if not near.all() or depth >= len(searcher):
            found: Rows = neighbours.rows[0][near]
            return found
        depth *= 4


def groups_of(searcher: Searcher, rows: Rows, group: Rows) -> list[NearDuplicates]:
    """The rows of each group of two or more, largest first; `group` numbers the group of each of `rows`."""
    order = np.lexsort((rows, group))
    starts = np.flatnonzero(np.diff(group[order])) + 1
    together = [part for part in np.split(rows[order], starts) if len(part) > 1]
    together.sort(key=lambda part: (-len(part), part[0]))
    return [NearDuplicates(part, _similarity_to_first(searcher, part)) for part in together]


def _similarity_to_first(searcher: Searcher, rows: Rows) -> Floats:
    parts = (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))
    return np.concatenate([searcher.similarity(rows[0], part) for part in parts])
