"""On real photographs: does search find the other pictures of a product, and does it matter that it is not exact?

    python benchmarks/products.py --pictures ../shared/data/grocery-packages/images
    python benchmarks/products.py --lake ./shop --product-id-pattern '([^/]+)/[^/]+$'

Each picture is the query once and never its own neighbour. Embeddings are the lake's, or a first look's over the given
directory. Every kind of index is forced upon the catalogue, however small, and searches with the setting
that the nightly run would publish (recall@10 of 0.99 against exact search); `flat` is exact search itself.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.night import night_of
from index.arrays import Floats
from index.faiss_index import set_threads
from index.searching import Searcher
from index.shards import write_index
from index.spec import IndexKind, IndexSpec, Metric
from index.truth import without_self
from index.tuning import tune
from lake import catalogue
from lake.lake import open_lake
from tasks.config import ModelChoice
from tasks.looks import init_model

K = 10
KINDS: tuple[tuple[str, IndexKind], ...] = (("exact", "flat"), ("PQ", "pq"), ("coarse + PQ", "ivfpq"))


def read_embeddings(lake_uri: str, pattern: str) -> tuple[Floats, list[str], list[str]]:
    """Embeddings, keys and products of the live pictures that have a product."""
    with catalogue.connect(open_lake(lake_uri)) as sql:
        rows = sql.execute("SELECT image_key, embedding FROM embeddings ORDER BY image_key").to_arrow_table()
    keys = rows["image_key"].to_pylist()
    products = [found[1] if (found := re.search(pattern, key)) else "" for key in keys]
    embeddings = np.stack(rows["embedding"].to_numpy()).astype(np.float32)
    has = np.array([bool(product) for product in products])
    chosen = np.flatnonzero(has).tolist()
    return embeddings[has], [keys[row] for row in chosen], [products[row] for row in chosen]


def neighbours(searcher: Searcher, nprobe: int, factor: int) -> NDArray[np.int64]:
    """The K nearest others of every row, N×K."""
    rows = np.arange(len(searcher))
    return without_self(searcher.search(searcher.vectors(rows), K + 1, nprobe=nprobe, rerank_factor=factor), rows).rows


def found_of_product(near: NDArray[np.int64], products: NDArray[np.str_]) -> tuple[Floats, Floats]:
    """For each row: whether the nearest other shows its product; the share of the product's others among ten."""
    same = products[near] == products[:, None]
    others = np.array([np.count_nonzero(products == product) - 1 for product in products])
    share = same.sum(axis=1) / np.maximum(1, np.minimum(K, others))
    return same[:, 0].astype(np.float32), share.astype(np.float32)


def main() -> None:
    """Measure and print a table, and the products that a search finds worst."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=Path, help="a directory; a first look embeds its pictures")
    parser.add_argument("--lake", help="a lake whose serving look's embeddings are taken")
    parser.add_argument("--product-id-pattern", default=r"([^/]+)/[^/]+$")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--weights", default="random", help="of the first look")
    parser.add_argument("--metric", default="cosine", choices=["cosine", "euclidean"])
    asked = parser.parse_args()
    if (asked.pictures is None) == (asked.lake is None):
        print(__doc__)
        return
    set_threads(1)
    with tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
        lake = asked.lake or str(Path(folder, "lake"))
        if asked.pictures:
            init_model(lake, ModelChoice(backbone=asked.backbone, image_size=asked.image_size, weights=asked.weights))
            night_of(open_lake(lake), str(asked.pictures))
        vectors, keys, named = read_embeddings(lake, asked.product_id_pattern)
        products = np.array(named)
        report(Path(folder), vectors, keys, products, asked.metric)


def report(folder: Path, vectors: Floats, keys: list[str], products: NDArray[np.str_], metric: Metric) -> None:
    """One line a kind of index."""
    names = np.unique(products)
    print(f"\n{len(vectors)} pictures of {len(names)} products, {vectors.shape[1]} dimensions, {metric}\n")
    print("| index | nearest is of the product | share of the product among ten | recall@10 of exact | ms a search |")
    print("|---|--:|--:|--:|--:|")
    by_product: dict[str, Floats] = {}
    for name, kind in KINDS:
        spec = IndexSpec.for_catalogue(len(vectors), vectors.shape[1], metric=metric, flat_below=0, kind=kind)
        write_index(folder / name, vectors, pa.table({"image_key": keys}), spec)
        searcher = Searcher.open(folder / name)
        tuned = tune(searcher)
        first, share = found_of_product(neighbours(searcher, tuned.nprobe, tuned.rerank_factor), products)
        by_product[name] = np.array([share[products == product].mean() for product in names])
        found = tuned.measured
        print(
            f"| {name} ({spec.factory_string()}, nprobe {tuned.nprobe}, {tuned.rerank_factor} a neighbour) "
            f"| {100 * first.mean():.1f} % | {100 * share.mean():.1f} % | {found.recall_at_10:.4f} "
            f"| {found.latency_ms:.2f} |"
        )
    lost = by_product["coarse + PQ"] - by_product["exact"]
    print(
        f"\nby product, coarse + PQ finds between {lost.min():+.3f} and {lost.max():+.3f} of what exact search finds;"
    )
    worst = np.argsort(by_product["exact"])[:3]
    print("hardest: " + ", ".join(f"{names[at]} {100 * by_product['exact'][at]:.0f} %" for at in worst))


if __name__ == "__main__":
    main()
