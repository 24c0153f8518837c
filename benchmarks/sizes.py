"""Which method suits a catalogue of which size: exhaustive search, codes alone, or lists of codes.

    python benchmarks/sizes.py                                                            # a quarter of an hour
    python benchmarks/sizes.py --sizes 5000 20000 --dimensions 512 --withins 0.4 0.8 1.2  # kinds apart, and not

One thread. Vectors are drawn by benchmarks/_embeddings.py; queries are not among them. Half of the queries settle how
each method searches, the quickest setting that finds 0.995 of the nearest and 0.99 of the ten nearest; the other half
measure it. Bold is what `IndexSpec.for_catalogue` chooses. Methods are asked in turn, round after round, so that a busy
machine slows all of them; the least time of each counts.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np

from benchmarks._embeddings import WITHIN, Embeddings
from benchmarks._search_data import K, Queries, Store, draw, exhaustive, recall_of, seconds
from benchmarks.search import build, settle, single_query
from index.faiss_index import set_threads
from index.searching import Searcher
from index.spec import IndexKind, IndexSpec

ROUNDS = 5
BATCH = 256


@dataclass
class Method:
    """One method on one set of vectors, at the setting that it was found to need."""

    kind: IndexKind
    searcher: Searcher
    build_s: float
    setting: tuple[int, int]
    single_ms: float = np.inf
    batched_ms: float = np.inf

    def ask(self, queries: Queries) -> None:
        """Time it once more: the median of single queries, and batches."""
        nprobe, factor = self.setting
        single = single_query(self.searcher, queries.vectors, nprobe, factor)()
        batch = queries.vectors[:BATCH]
        together = seconds(partial(self.searcher.search, batch, K, nprobe=nprobe, rerank_factor=factor))
        self.single_ms = min(self.single_ms, 1e3 * single)
        self.batched_ms = min(self.batched_ms, 1e3 * together / len(batch))

    def recall(self, queries: Queries) -> float:
        """The share of the ten nearest that it finds."""
        nprobe, factor = self.setting
        answers = self.searcher.search(queries.vectors, K, nprobe=nprobe, rerank_factor=factor).rows
        return recall_of(answers, queries.truth, K)


def compare(folder: Path, embeddings: Embeddings, queries: int) -> None:
    """Print a row: so many vectors, and each method on them."""
    store, asked, kinds = draw(folder / "vectors.npy", embeddings, "cosine", 2 * queries)
    _, truth = exhaustive(store, asked, kinds)
    tuning, held_out = (
        Queries(asked[half], kinds[half], truth.truth[half]) for half in (slice(queries), slice(queries, None))
    )
    methods = [_built(folder, store, kind, tuning) for kind in get_args(IndexKind)]
    for _ in range(ROUNDS):
        for method in methods:
            method.ask(held_out)
    chosen = IndexSpec.for_catalogue(len(store), store.dimension).kind
    times = [f"**{each.single_ms:.2f}**" if each.kind == chosen else f"{each.single_ms:.2f}" for each in methods]
    cells = [f"{store.dimension}", f"{len(store):,}".replace(",", " "), f"{embeddings.within}", *times]
    cells += [f"{method.batched_ms:.2f}" for method in methods]
    cells += [f"{method.recall(held_out):.3f}" for method in methods]
    cells += [f"{method.build_s:.1f}" for method in methods[1:]]
    cells += [f"{2 * store.dimension}", f"{methods[-1].searcher.spec.code_bytes}"]
    print("| " + " | ".join(cells) + " |", flush=True)


def _built(folder: Path, store: Store, kind: IndexKind, tuning: Queries) -> Method:
    started = time.process_time()
    searcher, _ = build(folder / kind, store, kind)
    build_s = time.process_time() - started
    return Method(kind, searcher, build_s, (1, 1) if searcher.spec.kind == "flat" else settle(searcher, tuning))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 2_000, 5_000, 20_000, 50_000])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[128, 512, 1280, 2048])
    parser.add_argument("--withins", type=float, nargs="+", default=[WITHIN], help="spread inside a kind")
    parser.add_argument("--queries", type=int, default=500, help="to settle by, and as many to measure by")
    asked = parser.parse_args()
    set_threads(1)
    print("| dimensions | vectors | spread | flat, ms | pq, ms | ivfpq, ms | in batches: flat | pq | ivfpq "
          "| recall@10: flat | pq | ivfpq | build, CPU s: pq | ivfpq | bytes in memory: flat | codes |")  # fmt: skip
    print("|--:" * 16 + "|")
    for dimension in asked.dimensions:
        for count in asked.sizes:
            for within in asked.withins:
                with tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
                    compare(Path(folder), Embeddings(count, dimension, within=within), asked.queries)


if __name__ == "__main__":
    main()
