"""Does a filtered search find what exact search finds, wherever the filter's rows lie, and what does it cost?

    python benchmarks/filters.py --vectors 25000 200000 --within 0.4 0.8 1.2
    python benchmarks/filters.py --lake ./demo

Drawn vectors carry a polarity, a direction that most of them vary in; a category, a tenth of the kinds; and products of
five pictures of one kind. A lake brings its own. Each filter is asked by any row and by the tenth of the rows farthest
from what it keeps; the truth is the same search over the exact distances to every row.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from benchmarks._embeddings import Embeddings
from index.arrays import Floats, Mask, Rows
from index.faiss_index import set_threads
from index.filtering import Groups, RowFilter, search_filtered
from index.recall import recall
from index.searching import K, Neighbours, Searcher
from index.shards import write_index
from index.spec import IndexSpec
from index.tuning import tune
from lake.lake import open_lake
from tasks.search.reader import Reader

ASKED = 200
ALONE = 50  # queries that are timed one by one
PRODUCT = 5  # pictures
QUANTILES = (0.5, 0.8, 0.95, 0.99)


@dataclass(frozen=True)
class Exact:
    """A search that compares with every row that is kept."""

    searcher: Searcher

    def __len__(self) -> int:
        return len(self.searcher)

    def search(
        self, queries: ArrayLike, k: int, *, keep: ArrayLike | None = None, thorough: bool = False
    ) -> Neighbours:
        """As `Searcher.search`, missing nothing."""
        return self.searcher.exact(queries, k, keep=keep)


@dataclass(frozen=True)
class Shop:
    """An open index and what its rows can be filtered by."""

    searcher: Searcher
    polarity: Floats  # N; NaN where there is none
    categories: dict[str, Mask]
    products: Groups


def drawn(folder: Path, count: int, dimension: int, within: float) -> Shop:
    """An index of drawn vectors, with the setting that a night would publish."""
    embeddings = Embeddings(count, dimension, within=within)
    vectors, kinds = np.concatenate(list(embeddings.chunks())), embeddings.kinds()
    keys = pa.table({"image_key": [f"{row:08d}.jpg" for row in range(count)]})
    write_index(folder, vectors, keys, IndexSpec.for_catalogue(count, dimension, flat_below=0))
    searcher = Searcher.open(folder)
    tuned = tune(searcher)
    setting = replace(searcher.description, nprobe=tuned.nprobe, rerank_factor=tuned.rerank_factor)
    sample = vectors[:: max(1, count // 5_000)]
    varied = np.linalg.svd(sample - sample.mean(axis=0), full_matrices=False)[2][0]
    number = np.empty(count, dtype=np.int64)
    by_kind = np.argsort(kinds, kind="stable")
    number[by_kind] = np.arange(count) // PRODUCT
    categories = {"category": kinds % 10 == 0}
    return Shop(Searcher.open(folder, setting), vectors @ varied, categories, Groups(number, np.bincount(number)))


def of_lake(uri: str) -> Shop:
    """The published index of a lake; a category is the first folder of a key."""
    index = Reader(open_lake(uri)).index
    polarity = np.full(len(index.searcher), np.nan, np.float32)
    if index.feelings is not None:
        polarity = index.feelings.points[:, 0]
    folders = np.array([key.split("/")[0] for key in index.searcher.table["image_key"].to_pylist()])
    categories = {f"category {name}": folders == name for name in np.unique(folders)[:5]}
    return Shop(index.searcher, polarity, categories, index.products)


def filters(shop: Shop) -> Iterator[tuple[str, Mask | None, Floats]]:
    """Names, the rows that are kept, and what to sort the rows by to find the farthest: the least is farthest."""
    rng, rows = np.random.default_rng(0), len(shop.searcher)
    yield "none", None, np.zeros(rows, np.float32)
    if np.isfinite(shop.polarity).any():
        for quantile in QUANTILES:
            keep = shop.polarity >= np.nanquantile(shop.polarity, quantile)
            yield f"polarity, upper {1 - quantile:.0%}", keep, shop.polarity
    masks = dict(shop.categories)
    masks |= {f"random {share:.0%}": rng.random(rows) < share for share in (0.2, 0.05, 0.01)}
    for count in (3, 300, 3_000):
        if count < rows:
            masks[f"{count} keys"] = np.isin(np.arange(rows), rng.choice(rows, count, replace=False))
    for name, keep in masks.items():
        if keep.any():
            yield name, keep, nearness(shop.searcher, keep)


def nearness(searcher: Searcher, keep: Mask) -> Floats:
    """How near each row lies to the middle of what is kept."""
    kept = np.flatnonzero(keep)
    middle = searcher.vectors(kept[:: max(1, len(kept) // 1_000)]).mean(axis=0)
    near: Floats = searcher.vectors(np.arange(len(searcher))) @ middle
    return near


def measured(shop: Shop, keep: Mask | None, far: Floats, *, other: bool, one: bool) -> list[str]:
    """Recall@10 of any query and of those farthest, and the milliseconds of one query beside the exhaustive ones."""
    rng, rows = np.random.default_rng(1), len(shop.searcher)
    farthest = np.argsort(far, kind="stable")[: max(1, rows // 10)]
    cells = []
    for some in (np.arange(rows), farthest):
        asked = np.sort(rng.choice(some, min(ASKED, len(some)), replace=False))
        found, truth = (search(shop, each, asked, keep, other, one) for each in (shop.searcher, Exact(shop.searcher)))
        at_10 = [recall(a, b, K)[0] for a, b in zip(found, truth, strict=True)]
        cells.append(f"{np.mean(at_10):.4f}")
    both = (milliseconds(shop, each, asked[:ALONE], keep, other, one) for each in (shop.searcher, Exact(shop.searcher)))
    return [*cells, *(f"{each:.2f}" for each in both)]


def search(
    shop: Shop, searcher: Searcher | Exact, asked: Rows, keep: Mask | None, other: bool, one: bool
) -> list[Neighbours]:
    """What a search by the keys of these rows answers with."""
    own = shop.products.of_row[asked] if other else None
    row_filter = RowFilter(keep, asked, shop.products if other or one else None, own, one)
    return search_filtered(searcher, shop.searcher.vectors(asked), K, row_filter)


def milliseconds(
    shop: Shop, searcher: Searcher | Exact, asked: Rows, keep: Mask | None, other: bool, one: bool
) -> float:
    """The median of single searches: of the processor's time, which others at work on the machine lengthen least."""
    seconds = []
    for row in asked:
        started = time.process_time()
        search(shop, searcher, np.array([row]), keep, other, one)
        seconds.append(time.process_time() - started)
    return 1e3 * float(np.median(seconds))


def print_table(title: str, shop: Shop) -> None:
    """One line a filter, alone and with what depends on the query's product."""
    description = shop.searcher.description
    print(f"\n{title}: {description.spec.factory_string()}, nprobe {description.nprobe}\n")
    print("| filter | rows kept | recall@10, any query | the farthest tenth | CPU ms | exhaustive, CPU ms |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, keep, far in filters(shop):
        kept = len(shop.searcher) if keep is None else int(keep.sum())
        for of_product, other, one in (("", False, False), (", other products, each once", True, True)):
            cells = measured(shop, keep, far, other=other, one=one)
            print(f"| {name}{of_product} | {kept} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Measure and print one table a shop."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vectors", type=int, nargs="*", default=[25_000])
    parser.add_argument("--within", type=float, nargs="*", default=[1.2], help="spread inside a kind")
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--lake", help="the published index of a lake, instead of drawn vectors")
    arguments = parser.parse_args()
    set_threads(1)
    if arguments.lake:
        print_table(arguments.lake, of_lake(arguments.lake))
        return
    for count in arguments.vectors:
        for within in arguments.within:
            with tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
                shop = drawn(Path(folder), count, arguments.dimension, within)
                print_table(f"{count} x {arguments.dimension}, spread {within}", shop)


if __name__ == "__main__":
    main()
