"""Chooses the quickest setting of a search that finds enough: how many lists, and how many candidates a neighbour."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from index.arrays import Mask
from index.errors import BelowTarget
from index.filter_recall import FilterRecall, filter_recall
from index.recall import CONFIDENCE, HeldOutQueries, SearchQuality, SliceRecall
from index.searching import Searcher
from index.truth import EarlierTruth, Truth

RERANK_FACTORS = (2, 4, 8, 16, 32)  # the last ones where codes tell neighbours apart badly
FLAT_QUERIES = 100


@dataclass(frozen=True)
class TunedSearch:
    """The setting to publish, and what it measured: over all rows, in each slice that is large enough, with filters."""

    nprobe: int
    rerank_factor: int
    measured: SearchQuality
    slices: dict[str, SliceRecall]
    filters: dict[str, FilterRecall]
    truth: Truth = field(repr=False, compare=False)  # what it was held against


def tune(
    searcher: Searcher,
    target: float = 0.99,
    *,
    queries: int = 1000,
    seed: int = 0,
    slices: Mapping[str, Mask] | None = None,
    filters: Mapping[str, Mask] | None = None,
    start: tuple[int, int] | None = None,
    earlier: EarlierTruth | None = None,
) -> TunedSearch:
    """Find a quick setting whose recall@10 meets `target` with 95 % confidence, in every slice too.

    Half of the queries choose: for each rerank factor the fewest lists that meet the target, then the lowest latency
    among those. The other half and the slices judge, and what they say is published; where they miss the target, there
    are a quarter more lists until they do not. Searches with filters need no setting, and meet the target on average.

    Args:
        searcher: an open index.
        target: least recall@10, its lower bound.
        queries: how many. A flat index, which misses nothing, is asked FLAT_QUERIES of all its rows.
        seed: of the draw.
        slices: one bool a row each; a slice of fewer than 100 rows is not judged.
        filters: one bool a row each, see `filter_recall`.
        start: nprobe and rerank factor that served last, which are tried first.
        earlier: the truth of an earlier version; without it every query is compared with every row.

    Raises:
        BelowTarget: none meets it, even with every list searched.
    """
    if searcher.spec.kind == "flat":  # compares with every row: each query measured costs what its truth did
        asked = HeldOutQueries.draw(searcher, min(queries, FLAT_QUERIES), seed=seed, earlier=earlier)
        return _measured(asked, 1, 1, {})
    asked = HeldOutQueries.draw(searcher, queries, seed=seed, halved=True, slices=slices, earlier=earlier)
    nprobe, factor = _chosen(asked, target, start)
    found = filter_recall(searcher, asked.truth.queries[asked.everywhere], filters or {}, target)
    for name, under in found.items():
        if under.worse.recall_at_10 < target:
            raise BelowTarget(
                f"expected recall@10 of at least {target} with a filter, found {under.worse.recall_at_10:.4f} over "
                f"{under.worse.queries} queries, {under.kept} rows kept: {name}"
            )
    return _measured(asked, nprobe, factor, found)


def _measured(asked: HeldOutQueries, nprobe: int, factor: int, filters: dict[str, FilterRecall]) -> TunedSearch:
    measured, slices = asked.quality(nprobe, factor), asked.slice_recall(nprobe, factor)
    return TunedSearch(nprobe, factor, measured, slices, filters, asked.truth)


def _chosen(asked: HeldOutQueries, target: float, start: tuple[int, int] | None) -> tuple[int, int]:
    """A setting that those who judge agree to: the one that served last, or the quickest, each with lists enough."""
    if start is not None and (nprobe := _widened(asked, target, *start)):
        return nprobe, start[1]
    quickest = _quickest(asked, target)
    for factor in (each for each in RERANK_FACTORS if each >= quickest[1]):
        if nprobe := _widened(asked, target, quickest[0], factor):
            return nprobe, factor
    lists, factor = asked.searcher.spec.nlist, RERANK_FACTORS[-1]
    quality = asked.quality(lists, factor)
    whole = SliceRecall(quality.recall_at_10, quality.recall_at_10_low, quality.queries)
    judged = {"": whole} | {f" of {name}": each for name, each in asked.slice_recall(lists, factor).items()}
    where, worst = min(judged.items(), key=lambda each: each[1].recall_at_10_low)
    raise BelowTarget(
        _missed(worst, target, where) + f" with all {lists} lists searched and {factor} candidates a neighbour"
    )


def _quickest(asked: HeldOutQueries, target: float) -> tuple[int, int]:
    """The quickest setting by the queries to choose by; the widest where none suffices."""
    lists = asked.searcher.spec.nlist
    best, best_ms = (lists, RERANK_FACTORS[-1]), math.inf
    for factor in RERANK_FACTORS:
        if not asked.suffices(target, lists, factor):
            continue  # asked first: the widest search is slow, but so are all those on the way to it
        nprobe = least(partial(asked.suffices, target, rerank_factor=factor), lists)
        latency_ms = asked.latency_ms(nprobe, factor)
        if latency_ms > best_ms:
            break  # more candidates no longer pay for fewer lists
        best, best_ms = (nprobe, factor), latency_ms
    return best


def _widened(asked: HeldOutQueries, target: float, nprobe: int, factor: int) -> int | None:
    """The first nprobe that meets the target, a quarter more at a time, or None.

    Not the smallest one: each try asks every query, and what meets the target barely misses it the next night.
    """
    lists = asked.searcher.spec.nlist
    nprobe = min(nprobe, lists)
    while not asked.reaches(target, nprobe, factor):
        if nprobe == lists:
            return None
        nprobe = min(nprobe + max(1, nprobe // 4), lists)
    return nprobe


def _missed(found: SliceRecall, target: float, where: str) -> str:
    """What was expected and found."""
    return (
        f"expected recall@10 of at least {target} with {CONFIDENCE:.0%} confidence, found {found.recall_at_10_low:.4f} "
        f"({found.recall_at_10:.4f} over {found.queries} queries{where})"
    )


def least(is_enough: Callable[[int], bool], most: int, first: int = 1) -> int:
    """The smallest number from `first` to `most` that is enough, doubled and then bisected; `most` where none is."""
    too_few, enough = first - 1, first
    while enough < most and not is_enough(enough):
        too_few, enough = enough, min(2 * enough, most)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if is_enough(middle) else (middle, enough)
    return enough
