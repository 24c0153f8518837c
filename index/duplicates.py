"""Groups of nearly identical rows: whoever is nearer than a threshold belongs together, directly or through others.

Each row asks the index for its nearest few, and for more only while all of those are near enough. Rows of one content
ask once. So a million rows take a million searches, in batches, and a picture that a shop uses ten thousand times is
one question.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from index.arrays import Floats, Mask, Rows
from index.filtering import Groups
from index.searching import Searcher

BATCH = 1024
FIRST_LOOK = 8  # neighbours of each row, itself included
PAIRS_AT_ONCE = 4_000_000  # in memory before they are joined; 16 bytes each
LAST_LOOK = 512  # a row with that many near neighbours is joined to all of them; they join the others


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
    firsts = np.unique(same, return_index=True)[1]
    joined = [(everything, firsts[same])]
    for pairs in _near_pairs(searcher, firsts, threshold):
        joined.append(pairs)
        if sum(len(rows) for rows, _ in joined) > PAIRS_AT_ONCE + len(searcher):
            joined = [(everything, _components(len(searcher), joined))]
    return groups_of(searcher, everything, _components(len(searcher), joined))


def _components(rows: int, pairs: list[tuple[Rows, Rows]]) -> Rows:
    """The first row of each row's connected component, where pairs of rows are joined."""
    one, other = (np.concatenate(side) for side in zip(*pairs, strict=True))
    graph = coo_array((np.ones(len(one), np.bool_), (one, other)), shape=(rows, rows))
    labels = connected_components(graph, directed=False)[1]
    firsts: Rows = np.unique(labels, return_index=True)[1][labels]
    return firsts


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


def _near_pairs(searcher: Searcher, firsts: Rows, threshold: float) -> Iterator[tuple[Rows, Rows]]:
    """Pairs of different rows at least so similar, among the first rows of each content."""
    keep: Mask = np.zeros(len(searcher), dtype=np.bool_)
    keep[firsts] = True
    mask = None if keep.all() else keep
    depth, asking = FIRST_LOOK, firsts
    while len(asking):
        crowded = [np.empty(0, np.int64)]
        for start in range(0, len(asking), BATCH):
            batch = asking[start : start + BATCH]
            neighbours = searcher.search(searcher.vectors(batch), depth, keep=mask)
            near = neighbours.similarity >= threshold
            crowded.append(batch[near.all(axis=1)])
            near &= neighbours.rows != batch[:, None]
            yield np.repeat(batch, near.sum(axis=1)), neighbours.rows[near]
        asking = np.concatenate(crowded) if depth < min(LAST_LOOK, len(firsts)) else crowded[0]
        depth *= 4
