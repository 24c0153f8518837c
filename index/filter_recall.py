"""How much of the truth a filtered search finds, where the filter has much to do with where the pictures lie.

A filter that is independent of the vectors leaves a query neighbours on all sides. One that follows them, such as the
most positive tenth for a sad picture, leaves none near. So each filter is asked by any query and, by themselves, by
those farthest from what it keeps.

Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from index.arrays import Floats, Mask, Rows
from index.recall import SliceRecall, lower_bound, recall
from index.searching import K, Searcher

ASKED = 40  # queries of each kind; so few now and then miss a target that more of them meet
FARTHEST_SHARE = 0.1  # of the queries
CENTRE_ROWS = 500  # of what is kept, whose mean tells which queries are far
FAR_LISTS = "the tenth in the lists farthest from one of them"
FAR_SHARE = 0.1


@dataclass(frozen=True)
class FilterRecall:
    """Recall under one filter: of any query, and of the tenth of the queries farthest from the `kept` rows."""

    kept: int
    any_query: SliceRecall
    farthest: SliceRecall

    @property
    def worse(self) -> SliceRecall:
        """That of which less is found."""
        return min(self.any_query, self.farthest, key=lambda each: each.recall_at_10)


def filter_recall(
    searcher: Searcher, queries: Rows, filters: Mapping[str, Mask], target: float
) -> dict[str, FilterRecall]:
    """What a search finds with each filter that is not answered by comparing with every row that it keeps.

    Args:
        searcher: an open index.
        queries: rows of it that are asked: ASKED of them and ASKED of those farthest from what is kept, or where these
            find less than the target, all of them.
        filters: one bool a row each. One more is made here, FAR_LISTS, where the index has lists.
        target: recall@10.
    """
    if not len(queries):
        return {}
    far = searcher.farthest_lists(int(queries[0]), FAR_SHARE)
    named = dict(filters) if far is None else {**filters, FAR_LISTS: far}
    vectors = searcher.vectors(queries)
    found = {}
    for name, keep in named.items():
        if not searcher.compares_all(keep):
            found[name] = _under(searcher, vectors, keep, ASKED)
            if found[name].worse.recall_at_10 < target:
                found[name] = _under(searcher, vectors, keep, len(vectors))
    return found


def _under(searcher: Searcher, queries: Floats, keep: Mask, most: int) -> FilterRecall:
    kept = np.flatnonzero(keep)
    centre = searcher.vectors(kept[:: max(1, len(kept) // CENTRE_ROWS)]).mean(axis=0)
    by_distance = np.argsort(-np.linalg.norm(queries - centre, axis=1), kind="stable")
    farthest = by_distance[: min(most, max(1, round(FARTHEST_SHARE * len(queries))))]
    asked = [_found(searcher, queries[some], keep) for some in (np.arange(len(queries))[:most], farthest)]
    return FilterRecall(len(kept), *asked)


def _found(searcher: Searcher, queries: Floats, keep: Mask) -> SliceRecall:
    answers, truth = searcher.search(queries, K, keep=keep), searcher.exact(queries, K, keep=keep)
    at_10 = recall(answers, truth, K)
    return SliceRecall(float(at_10.mean()), lower_bound(at_10), len(at_10))
