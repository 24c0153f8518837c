"""Are codes of residuals, faiss's default, worth a table of distances for every list, where candidates are re-ranked?

    python benchmarks/residual.py --vectors 100000

One thread. The same coarse quantizer and codes, once of the vectors and once of what is left of them beyond their
list's centroid. For each number of candidates: the fewest lists in which 0.99 of the ten nearest are among the
candidates (re-ranked exactly, they would be found), and the median time of one query's scan of the codes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import statistics
import time
from functools import partial
from typing import Any

import faiss
import numpy as np

from benchmarks._embeddings import WITHIN, Embeddings
from benchmarks._search_data import TARGET_10, K
from index.arrays import Floats, Rows
from index.faiss_index import inverted_file, set_threads, to_encoded, untyped
from index.searching import ONE_QUERY
from index.spec import IndexSpec
from index.tuning import least

FACTORS = (4, 8, 16)  # candidates for each neighbour


def build(vectors: Floats, spec: IndexSpec, *, residual: bool) -> Any:
    """The index of `spec`, its codes of either kind."""
    index = faiss.index_factory(spec.dimension, spec.factory_string())
    inverted = inverted_file(index)
    inverted.by_residual = residual
    inverted.implem = ONE_QUERY
    index.train(vectors[:: max(1, len(vectors) // spec.training_rows)])
    index.add(vectors)
    return index


def holds_enough(inverted: Any, queries: Floats, truth: Rows, candidates: int, nprobe: int) -> bool:
    """Whether the candidates hold 0.99 of the ten nearest."""
    rows = inverted.search(queries, candidates, params=untyped.SearchParametersIVF(nprobe=nprobe))[1]
    held = [len({*line} & {*true}) / K for line, true in zip(rows.tolist(), truth.tolist(), strict=True)]
    return bool(np.mean(held) >= TARGET_10)


def scan_ms(inverted: Any, queries: Floats, candidates: int, nprobe: int) -> float:
    """The median of single queries."""
    settings, times = untyped.SearchParametersIVF(nprobe=nprobe), []
    for query in queries[:, None]:
        started = time.perf_counter()
        inverted.search(query, candidates, params=settings)
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vectors", type=int, default=50_000)
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--within", type=float, default=WITHIN, help="spread inside a kind against that between kinds")
    asked = parser.parse_args()
    set_threads(1)
    drawn = Embeddings(asked.vectors, asked.dimension, within=asked.within)
    vectors, queries = np.concatenate(list(drawn.chunks())), drawn.queries(asked.queries)[0]
    truth = faiss.knn(queries, vectors, K, metric=faiss.METRIC_INNER_PRODUCT)[1]
    spec = IndexSpec.for_catalogue(asked.vectors, asked.dimension, flat_below=0)
    print(f"{asked.vectors} vectors, {spec.factory_string()}\n")
    print("| codes of | candidates | lists looked in | scan, ms |\n|---|--:|--:|--:|")
    for residual in (True, False):
        index = build(vectors, spec, residual=residual)
        inverted, encoded = inverted_file(index), to_encoded(index, queries)
        for candidates in (K * factor for factor in FACTORS):
            enough = partial(holds_enough, inverted, encoded, truth, candidates)
            nprobe = least(enough, spec.nlist)
            scan = f"{scan_ms(inverted, encoded, candidates, nprobe):.2f}" if enough(nprobe) else "never enough"
            print(f"| {'residuals' if residual else 'vectors'} | {candidates} | {nprobe} | {scan} |", flush=True)


if __name__ == "__main__":
    main()
