"""How much of the truth a search finds: recall over held-out queries, its lower bound, and the time of one query.

The truth is exact search over the same vectors; queries are rows of the index, never counted as their own
neighbours. Knows nothing about publishing: it says what was measured.

Shapes: N rows, Q queries.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from index.arrays import Mask, Rows
from index.key_hashes import key_hashes
from index.searching import K, Neighbours, Searcher
from index.truth import EarlierTruth, Truth, find_truth, without_self

SLICE_QUERIES = 200
SLICE_AT_LEAST = 100  # rows; the bound of fewer is too wide to judge by
TIMED_QUERIES = 100
CONFIDENCE = 0.95
# float32 rounds sums of thousands of products at about this, so nearer counts as a tie
TIE = 1e-6


@dataclass(frozen=True)
class SearchQuality:
    """Recall against exact search, and speed.

    `recall_at_10_low` is the one-sided 95 % lower bound over queries. `latency_ms` is the median of single
    queries, in this process with its threads. With no row but the query's own, nothing can be missed:
    recall 1 of 0 queries.
    """

    recall_at_1: float
    recall_at_10: float
    recall_at_10_low: float
    latency_ms: float
    queries: int


@dataclass(frozen=True)
class SliceRecall:
    """Recall@10 of the queries from one slice of the rows, with its one-sided 95 % lower bound."""

    recall_at_10: float
    recall_at_10_low: float
    queries: int


@dataclass(frozen=True)
class HeldOutQueries:
    """Rows of an open index that are asked as queries, their true neighbours, and which of them speak for what.

    Of those drawn from all rows some choose a setting and others judge it: what was chosen by a query says too much
    good of itself there.
    """

    searcher: Searcher
    truth: Truth
    choosing: Rows  # places among the queries of those drawn from all rows to choose by
    everywhere: Rows  # of those drawn from all rows to judge by
    slices: dict[str, Rows]  # and of those that lie in a slice, to judge by
    _answers: dict[tuple[int, int], Neighbours] = field(default_factory=dict)  # by setting, which is asked once

    @classmethod
    def draw(
        cls,
        searcher: Searcher,
        count: int,
        *,
        seed: int,
        halved: bool = False,
        slices: Mapping[str, Mask] | None = None,
        earlier: EarlierTruth | None = None,
    ) -> HeldOutQueries:
        """Draw queries by a hash of the rows' keys, so that two nights draw nearly the same ones.

        Args:
            searcher: an open index.
            count: how many rows to draw from all of them; each slice brings up to SLICE_QUERIES more.
            seed: of the draw.
            halved: whether about half of those drawn from all rows are there to choose by.
            slices: one bool a row each; a slice of fewer than SLICE_AT_LEAST rows is left out.
            earlier: the truth of an earlier version; without it every query is compared with every row.
        """
        ranks = key_hashes(searcher.table["image_key"], seed=seed)

        def drawn(rows: Rows, most: int) -> Rows:
            return np.sort(rows[np.argsort(ranks[rows], kind="stable")[:most]])

        both = drawn(np.arange(len(searcher)), count if len(searcher) > 1 else 0)
        chooses = (ranks[both] & 1 == 1) & halved  # by a bit of the hash, which no other row's coming or going changes
        if chooses.all():  # of a few queries one, at least, judges
            chooses[:1] = False
        judged = {name: mask for name, mask in (slices or {}).items() if np.count_nonzero(mask) >= SLICE_AT_LEAST}
        more = [drawn(np.flatnonzero(mask), SLICE_QUERIES) for mask in judged.values()]
        rows = np.unique(np.concatenate([both, *more]))
        places = {name: np.flatnonzero(mask[rows]) for name, mask in judged.items()}
        choosing, everywhere = (np.searchsorted(rows, both[half]) for half in (chooses, ~chooses))
        return cls(searcher, find_truth(searcher, rows, earlier), choosing, everywhere, places)

    def quality(self, nprobe: int, rerank_factor: int) -> SearchQuality:
        """What a search of this setting finds over all rows, and how long one query takes."""
        at_1, at_10 = (self._recall(nprobe, rerank_factor, k)[self.everywhere] for k in (1, K))
        return SearchQuality(
            recall_at_1=float(at_1.mean()) if len(at_1) else 1.0,
            recall_at_10=float(at_10.mean()) if len(at_10) else 1.0,
            recall_at_10_low=lower_bound(at_10),
            latency_ms=self.latency_ms(nprobe, rerank_factor),
            queries=len(at_10),
        )

    def slice_recall(self, nprobe: int, rerank_factor: int) -> dict[str, SliceRecall]:
        """What a search of this setting finds in each slice."""
        at_10 = self._recall(nprobe, rerank_factor, K)
        return {
            name: SliceRecall(float(at_10[places].mean()), lower_bound(at_10[places]), len(places))
            for name, places in self.slices.items()
        }

    def suffices(self, target: float, nprobe: int, rerank_factor: int) -> bool:
        """Whether the lower bound of recall@10 meets the target for the queries to choose by."""
        return lower_bound(self._recall(nprobe, rerank_factor, K)[self.choosing]) >= target

    def reaches(self, target: float, nprobe: int, rerank_factor: int) -> bool:
        """Whether it does for the queries to judge by, over all rows and in every slice."""
        at_10 = self._recall(nprobe, rerank_factor, K)
        return all(lower_bound(at_10[places]) >= target for places in (self.everywhere, *self.slices.values()))

    def _recall(self, nprobe: int, rerank_factor: int, k: int) -> NDArray[np.float64]:
        if (nprobe, rerank_factor) not in self._answers:
            own = self.truth.queries
            queries = self.searcher.vectors(own)
            neighbours = self.searcher.search(queries, K + 1, nprobe=nprobe, rerank_factor=rerank_factor)
            self._answers[nprobe, rerank_factor] = without_self(neighbours, own)
        return recall(self._answers[nprobe, rerank_factor], self.truth.nearest(K), k)

    def latency_ms(self, nprobe: int, rerank_factor: int) -> float:
        """The median time of a single query, in milliseconds."""
        seconds = []
        for query in self.searcher.vectors(self.truth.queries[self.everywhere[:TIMED_QUERIES]]):
            start = time.perf_counter()
            self.searcher.search(query[None], K, nprobe=nprobe, rerank_factor=rerank_factor)
            seconds.append(time.perf_counter() - start)
        return 1000 * float(np.median(seconds)) if seconds else 0.0


def recall(answers: Neighbours, truth: Neighbours, k: int) -> NDArray[np.float64]:
    """The share of each query's k nearest that the answers hold, Q values in [0, 1].

    Counted by distance, not by row: of ten copies of one picture, any is as right as another.
    """
    k = min(k, truth.similarity.shape[1])
    if k == 0:
        return np.ones(len(truth.rows))
    farthest = truth.similarity[:, k - 1 : k]
    slack = TIE * np.maximum(1, np.abs(farthest))
    hits = (answers.similarity[:, :k] >= farthest - slack).sum(axis=1)
    share: NDArray[np.float64] = hits / k
    return share


def lower_bound(recalls: NDArray[np.float64]) -> float:
    """The one-sided bound of the mean over queries, not over neighbours: the ten of one query miss together."""
    if len(recalls) < 2:
        return float(recalls.mean()) if len(recalls) else 1.0
    error = recalls.std(ddof=1) / math.sqrt(len(recalls))
    return max(0.0, float(recalls.mean() - NormalDist().inv_cdf(CONFIDENCE) * error))
