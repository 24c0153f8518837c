"""Chooses the quickest setting of a search that finds enough: how many lists, and how many candidates a neighbour."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from index.arrays import Mask
from index.errors import BelowTarget
from index.recall import CONFIDENCE, HeldOutQueries, SearchQuality, SliceRecall
from index.searching import Searcher
from index.truth import EarlierTruth, Truth

RERANK_FACTORS = (2, 4, 8, 16, 32)  # the last ones where codes tell neighbours apart badly
FLAT_QUERIES = 100


@dataclass(frozen=True)
class TunedSearch:
    """The setting to publish, and what it measured: over all rows and in each slice that is large enough."""

    nprobe: int
    rerank_factor: int
    measured: SearchQuality
    slices: dict[str, SliceRecall]
    truth: Truth = field(repr=False, compare=False)  # what it was held against


def tune(
    searcher: Searcher,
    target: float = 0.99,
    *,
    queries: int = 1000,
    seed: int = 0,
    slices: Mapping[str, Mask] | None = None,
    start: tuple[int, int] | None = None,
    earlier: EarlierTruth | None = None,
) -> TunedSearch:
    """Find the quickest setting whose recall@10 meets `target` with 95 % confidence, in every slice too.

    For each rerank factor the fewest lists that meet it, then the lowest latency among those.

    Args:
        searcher: an open index.
        target: least recall@10, its lower bound.
        queries: see `HeldOutQueries.draw`. A flat index, which misses nothing, is asked FLAT_QUERIES of all its rows.
        seed: of the draw.
        slices: one bool a row each; a slice of fewer than 100 rows is not judged.
        start: nprobe and rerank factor that served last; kept where they still meet the target, with a quarter more
            lists at a time where they do not.
        earlier: the truth of an earlier version; without it every query is compared with every row.

    Raises:
        BelowTarget: none meets it, even with every list searched.
    """
    if searcher.spec.kind == "flat":  # compares with every row: each query measured costs what its truth did
        asked = HeldOutQueries.draw(searcher, min(queries, FLAT_QUERIES), seed=seed, earlier=earlier)
        return _with_setting(asked, 1, 1)
    asked = HeldOutQueries.draw(searcher, queries, seed=seed, slices=slices, earlier=earlier)
    if start is not None and (nprobe := _widened(asked, target, *start)):
        return _with_setting(asked, nprobe, start[1])
    return _quickest(asked, target)


def _with_setting(asked: HeldOutQueries, nprobe: int, factor: int) -> TunedSearch:
    measured, slices = asked.quality(nprobe, factor), asked.slice_recall(nprobe, factor)
    return TunedSearch(nprobe, factor, measured, slices, asked.truth)


def _quickest(asked: HeldOutQueries, target: float) -> TunedSearch:
    best: TunedSearch | None = None
    lists = asked.searcher.spec.nlist
    for factor in RERANK_FACTORS:
        if not asked.reaches(target, lists, factor):
            continue  # asked first: the widest search is slow, but so are all those on the way to it
        nprobe = least(partial(asked.reaches, target, rerank_factor=factor), lists)
        candidate = _with_setting(asked, nprobe, factor)
        if best is not None and candidate.measured.latency_ms > best.measured.latency_ms:
            break  # more candidates no longer pay for fewer lists
        best = candidate
    if best is None:
        raise BelowTarget(_missed(_with_setting(asked, lists, RERANK_FACTORS[-1]), target))
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


def _missed(best: TunedSearch, target: float) -> str:
    """What was expected and found, where it is farthest from the target."""
    whole = SliceRecall(best.measured.recall_at_10, best.measured.recall_at_10_low, best.measured.queries)
    name, worst = min([("", whole), *best.slices.items()], key=lambda each: each[1].recall_at_10_low)
    return (
        f"expected recall@10 of at least {target} with {CONFIDENCE:.0%} confidence, found {worst.recall_at_10_low:.4f} "
        f"({worst.recall_at_10:.4f} over {worst.queries} queries{f' of {name}' if name else ''}) with all "
        f"{best.nprobe} lists searched and {best.rerank_factor} candidates a neighbour"
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
