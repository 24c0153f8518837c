"""Measures what a search finds of the truth, and chooses the quickest setting that finds enough.

The truth is exact search over the same vectors; queries are rows of the index, never counted as their own
neighbours. Knows nothing about publishing: it says what was found, or that the target was missed.
"""

import math
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from index.errors import BelowTarget
from index.searching import Mask, Neighbours, Rows, Searcher
from index.truth import Earlier, K, Truth, find_truth, without_self

RERANK_FACTORS = (2, 4, 8, 16, 32)  # the last ones where codes tell neighbours apart badly
SLICE_QUERIES = 300
FLAT_QUERIES = 100
SLICE_AT_LEAST = 100  # rows; the bound of fewer is too wide to judge by
CONFIDENCE = 0.95
# float32 rounds sums of thousands of products at about this, so nearer counts as a tie
TIE = 1e-6


@dataclass(frozen=True)
class Measured:
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
class Tuned:
    """The setting to publish, and what it measured: over all rows and in each slice that is large enough."""

    nprobe: int
    rerank_factor: int
    measured: Measured
    slices: dict[str, SliceRecall] = field(default_factory=dict)
    truth: Truth = field(default_factory=Truth.empty, repr=False, compare=False)  # what it was held against


@dataclass(frozen=True)
class _Trial:
    """Rows drawn as queries, their true neighbours, and which of the queries speak for what."""

    rows: Rows
    known: Truth
    everywhere: Rows  # places among the queries of those drawn from all rows
    slices: dict[str, Rows]  # and of those that lie in a slice
    answers: dict[tuple[int | None, int | None], Neighbours] = field(default_factory=dict)  # by setting, once asked

    @property
    def truth(self) -> Neighbours:
        """The K nearest others of each query."""
        return self.known.nearest(K)


def exact(queries: npt.ArrayLike, searcher: Searcher, k: int = K) -> Neighbours:
    """The truth: the k nearest of each query, Q×D, by comparing with every row."""
    return searcher.exact(queries, k)


def recall(found: Neighbours, truth: Neighbours, k: int) -> npt.NDArray[np.float64]:
    """The share of each query's k nearest that was found, Q values in [0, 1].

    Counted by distance, not by row: of ten copies of one picture, any is as right as another.
    """
    k = min(k, truth.similarity.shape[1])
    if k == 0:
        return np.ones(len(truth.rows))
    farthest = truth.similarity[:, k - 1 : k]
    slack = TIE * np.maximum(1, np.abs(farthest))
    hits = (found.similarity[:, :k] >= farthest - slack).sum(axis=1)
    share: npt.NDArray[np.float64] = hits / k
    return share


def measure(
    searcher: Searcher,
    *,
    queries: int = 1000,
    seed: int,
    nprobe: int | None = None,
    rerank_factor: int | None = None,
    among: Mask | None = None,
) -> Measured:
    """Measure a setting, the published one by default.

    Args:
        searcher: an open index.
        queries: how many rows to draw as queries.
        seed: of the draw, which is by the rows' keys.
        nprobe: lists to look in.
        rerank_factor: candidates for each neighbour.
        among: one bool a row; queries are drawn from these. Recall over all rows stays high for long while
            that of new kinds of rows falls, so measure those by themselves.
    """
    trial = _draw(searcher, queries, seed, among)
    return _measure(searcher, trial, nprobe, rerank_factor)


def tune(
    searcher: Searcher,
    target: float = 0.99,
    *,
    queries: int = 1000,
    seed: int = 0,
    slices: Mapping[str, Mask] | None = None,
    start: tuple[int, int] | None = None,
    earlier: Earlier | None = None,
) -> Tuned:
    """Find the quickest setting whose recall@10 meets `target` with 95 % confidence, in every slice too.

    For each rerank factor the fewest lists that meet it, then the lowest latency among those.

    Args:
        searcher: an open index.
        target: least recall@10, its lower bound.
        queries: how many rows to draw from all of them; each slice brings up to SLICE_QUERIES more. A flat index,
            which misses nothing, is asked FLAT_QUERIES of all its rows only.
        seed: of the draw.
        slices: one bool a row each, such as what is new; a slice of fewer than 100 rows is not judged.
        start: nprobe and rerank factor that served last; kept where they still meet the target, with a quarter more
            lists at a time where they do not.
        earlier: the truth of an earlier version; without it every query is compared with every row.

    Raises:
        BelowTarget: none meets it, even with every list searched.
    """
    if searcher.spec.kind == "flat":  # compares with every row: each query measured costs what its truth did
        queries, slices = min(queries, FLAT_QUERIES), {}
    trial = _draw(searcher, queries, seed, slices=slices or {}, earlier=earlier)
    return replace(_settled(searcher, trial, target, start), truth=trial.known)


def _settled(searcher: Searcher, trial: _Trial, target: float, start: tuple[int, int] | None) -> Tuned:
    if searcher.spec.kind == "flat":
        return Tuned(1, 1, _measure(searcher, trial, 1, 1))
    if start is not None and (nprobe := _widened(searcher, trial, *start, target)):
        return _tuned(searcher, trial, nprobe, start[1])
    best: Tuned | None = None
    for factor in RERANK_FACTORS:
        nprobe = _fewest_lists(searcher, trial, factor, target)
        if nprobe is None:
            continue
        tried = _tuned(searcher, trial, nprobe, factor)
        if best is not None and tried.measured.latency_ms > best.measured.latency_ms:
            break  # more candidates no longer pay for fewer lists
        best = tried
    if best is None:
        raise BelowTarget(_missed(_tuned(searcher, trial, searcher.spec.nlist, RERANK_FACTORS[-1]), target))
    return best


def _missed(best: Tuned, target: float) -> str:
    """What was expected and found, where it is farthest from the target."""
    whole = SliceRecall(best.measured.recall_at_10, best.measured.recall_at_10_low, best.measured.queries)
    name, worst = min([("", whole), *best.slices.items()], key=lambda each: each[1].recall_at_10_low)
    return (
        f"expected recall@10 of at least {target} with {CONFIDENCE:.0%} confidence, found {worst.recall_at_10_low:.4f} "
        f"({worst.recall_at_10:.4f} over {worst.queries} queries{f' of {name}' if name else ''}) with all "
        f"{best.nprobe} lists searched and {best.rerank_factor} candidates a neighbour"
    )


def _draw(
    searcher: Searcher,
    queries: int,
    seed: int,
    among: Mask | None = None,
    slices: Mapping[str, Mask] | None = None,
    earlier: Earlier | None = None,
) -> _Trial:
    ranks = _ranks(searcher, seed)
    candidates = np.arange(len(searcher)) if among is None else np.flatnonzero(among)
    everywhere = _some(candidates, queries if len(searcher) > 1 else 0, ranks)
    judged = {name: mask for name, mask in (slices or {}).items() if np.count_nonzero(mask) >= SLICE_AT_LEAST}
    more = [_some(np.flatnonzero(mask), SLICE_QUERIES, ranks) for mask in judged.values()]
    rows = np.unique(np.concatenate([everywhere, *more]))
    return _Trial(
        rows,
        find_truth(searcher, rows, earlier),
        np.searchsorted(rows, everywhere),
        {name: np.flatnonzero(mask[rows]) for name, mask in judged.items()},
    )


def _ranks(searcher: Searcher, seed: int) -> npt.NDArray[np.uint32]:
    """A number for each row by which queries are drawn: of the key, so that another night draws the same ones."""
    keys = searcher.table["image_key"].to_pylist()
    return np.fromiter((zlib.crc32(key.encode(), seed) for key in keys), np.uint32, len(keys))


def _some(rows: Rows, most: int, ranks: npt.NDArray[np.uint32]) -> Rows:
    return np.sort(rows[np.argsort(ranks[rows], kind="stable")[:most]])


def _found(searcher: Searcher, trial: _Trial, nprobe: int | None, factor: int | None) -> Neighbours:
    if (nprobe, factor) not in trial.answers:
        queries = searcher.vectors(trial.rows)
        found = searcher.search(queries, K + 1, nprobe=nprobe, rerank_factor=factor)
        trial.answers[nprobe, factor] = without_self(found, trial.rows)
    return trial.answers[nprobe, factor]


def _measure(searcher: Searcher, trial: _Trial, nprobe: int | None, factor: int | None) -> Measured:
    if not len(trial.rows):
        return Measured(1.0, 1.0, 1.0, 0.0, 0)
    return _of_found(searcher, trial, _found(searcher, trial, nprobe, factor), nprobe, factor)


def _of_found(searcher: Searcher, trial: _Trial, found: Neighbours, nprobe: int | None, factor: int | None) -> Measured:
    at_1, at_10 = (recall(found, trial.truth, k)[trial.everywhere] for k in (1, K))
    return Measured(
        recall_at_1=float(at_1.mean()),
        recall_at_10=float(at_10.mean()),
        recall_at_10_low=_lower_bound(at_10),
        latency_ms=_latency_ms(searcher, trial, nprobe, factor),
        queries=len(trial.everywhere),
    )


def _tuned(searcher: Searcher, trial: _Trial, nprobe: int, factor: int) -> Tuned:
    """What a setting measures, slice by slice."""
    if not len(trial.rows):
        return Tuned(nprobe, factor, Measured(1.0, 1.0, 1.0, 0.0, 0))
    found = _found(searcher, trial, nprobe, factor)
    at_10 = recall(found, trial.truth, K)
    slices = {
        name: SliceRecall(float(at_10[places].mean()), _lower_bound(at_10[places]), len(places))
        for name, places in trial.slices.items()
    }
    return Tuned(nprobe, factor, _of_found(searcher, trial, found, nprobe, factor), slices)


def _meets(searcher: Searcher, trial: _Trial, nprobe: int, factor: int, target: float) -> bool:
    if not len(trial.rows):
        return True
    at_10 = recall(_found(searcher, trial, nprobe, factor), trial.truth, K)
    return all(_lower_bound(at_10[places]) >= target for places in (trial.everywhere, *trial.slices.values()))


def _lower_bound(recalls: npt.NDArray[np.float64]) -> float:
    """The one-sided bound of the mean over queries: the ten neighbours of one query miss together."""
    if len(recalls) < 2:
        return float(recalls.mean())
    error = recalls.std(ddof=1) / math.sqrt(len(recalls))
    return max(0.0, float(recalls.mean() - NormalDist().inv_cdf(CONFIDENCE) * error))


def _latency_ms(searcher: Searcher, trial: _Trial, nprobe: int | None, factor: int | None) -> float:
    seconds = []
    for query in searcher.vectors(trial.rows[trial.everywhere[:200]]):
        start = time.perf_counter()
        searcher.search(query[None], K, nprobe=nprobe, rerank_factor=factor)
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds))


def _widened(searcher: Searcher, trial: _Trial, nprobe: int, factor: int, target: float) -> int | None:
    """The first nprobe that meets the target, a quarter more at a time, or None.

    Not the smallest one: each try asks every query, and what meets the target barely misses it the next night.
    """
    nprobe = min(nprobe, searcher.spec.nlist)
    while not _meets(searcher, trial, nprobe, factor, target):
        if nprobe == searcher.spec.nlist:
            return None
        nprobe = min(nprobe + max(1, nprobe // 4), searcher.spec.nlist)
    return nprobe


def _fewest_lists(searcher: Searcher, trial: _Trial, factor: int, target: float) -> int | None:
    """The smallest nprobe that meets the target, or None."""
    if not len(trial.rows):
        return 1
    if not _meets(searcher, trial, searcher.spec.nlist, factor, target):
        return None  # asked first: the widest search is slow, but so are all those on the way to it
    return least(lambda nprobe: _meets(searcher, trial, nprobe, factor, target), searcher.spec.nlist)


def least(is_enough: Callable[[int], bool], most: int, first: int = 1) -> int:
    """The smallest number from `first` to `most` that is enough, doubled and then bisected; `most` where none is."""
    missed, found = first - 1, first
    while found < most and not is_enough(found):
        missed, found = found, min(2 * found, most)
    while found - missed > 1:
        middle = (missed + found) // 2
        missed, found = (missed, middle) if is_enough(middle) else (middle, found)
    return found
