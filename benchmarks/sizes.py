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

    def row(self, queries: Queries) -> list[str]:
        """What it costs and finds."""
        nprobe, factor = self.setting
        answers = self.searcher.search(queries.vectors, K, nprobe=nprobe, rerank_factor=factor).rows
        spec = self.searcher.spec
        setting = "" if spec.kind == "flat" else f"{spec.factory_string()}, {nprobe} of {spec.nlist}, ×{factor}"
        return [
            spec.kind, f"{self.single_ms:.2f}", f"{self.batched_ms:.3f}", f"{recall_of(answers, queries.truth, K):.3f}",
            f"{self.build_s:.1f}", f"{spec.code_bytes or 2 * spec.dimension}", f"{spec.bytes_per_vector}", setting,
        ]  # fmt: skip


def compare(folder: Path, embeddings: Embeddings, queries: int) -> None:
    """Print a row for each method that so many vectors can be searched by."""
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
    for method in methods:
        mark = "**" if method.kind == chosen else ""
        kind, *cells = method.row(held_out)
        first = [str(store.dimension), f"{len(store):,}".replace(",", " "), f"{embeddings.within}", mark + kind + mark]
        print("| " + " | ".join([*first, *cells]) + " |", flush=True)


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
    print("| dimensions | vectors | spread | method | ms a search | in batches | recall@10 | build, CPU s "
          "| bytes in memory | on disk | setting: lists, candidates |")  # fmt: skip
    print("|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|---|")
    for dimension in asked.dimensions:
        for count in asked.sizes:
            for within in asked.withins:
                with tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
                    compare(Path(folder), Embeddings(count, dimension, within=within), asked.queries)


if __name__ == "__main__":
    main()
