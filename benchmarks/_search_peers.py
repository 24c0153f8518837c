"""What others would use in place of our index: faiss's own, two HNSW; each at the target if it can."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import faiss
import numpy as np

from benchmarks._search_data import TARGET_10, K, MethodResult, Queries, Store, judged, recall_of, seconds
from index.arrays import Floats, Rows
from index.spec import IndexSpec
from index.tuning import least


def peers(store: Store, tuning: Queries, queries: Queries) -> list[MethodResult]:
    """Each peer at the quickest setting that finds 0.99 of the ten nearest, or at its best."""
    results = []
    vectors = np.concatenate(list(store.chunks()))
    nlist = IndexSpec.for_catalogue(len(store), store.dimension, flat_below=0).nlist
    for name in (f"IVF{nlist},PQ64", f"IVF{nlist},SQfp16", f"IVF{nlist},Flat"):
        index: Any = faiss.index_factory(store.dimension, name)
        if "PQ" in name:
            index.do_polysemous_training = False
        started = time.perf_counter()
        index.train(store[:: max(1, len(store) // (64 * nlist))][: 64 * nlist])
        index.add(vectors)
        build_s = time.perf_counter() - started
        index.nprobe = least(partial(_probing_is_enough, index, tuning), min(nlist, 256))
        row = _of_peer(f"faiss {name}", partial(_rows_of, index), queries, store)
        size = index.code_size + 8
        results.append(replace(row, build_s=build_s, bytes_per_vector=size, setting=f"nprobe {index.nprobe}"))
    return [
        *results,
        *_hnsw("usearch", _usearch, store, vectors, tuning, queries),
        *_hnsw("hnswlib", _hnswlib, store, vectors, tuning, queries),
    ]


def _probing_is_enough(index: Any, tuning: Queries, nprobe: int) -> bool:
    index.nprobe = nprobe
    return recall_of(index.search(tuning.vectors, K)[1], tuning.truth, K) >= TARGET_10


def _rows_of(index: Any, asked: Floats) -> Rows:
    rows: Rows = index.search(asked, K)[1]
    return rows


@dataclass(frozen=True)
class _Graph:
    """An HNSW, and how to ask it with so much of the graph looked at."""

    ask: Callable[[Floats, int], Rows]
    bytes_per_vector: float
    setting: str


def _hnsw(
    name: str,
    build_graph: Callable[[Store, Floats], _Graph],
    store: Store,
    vectors: Floats,
    tuning: Queries,
    queries: Queries,
) -> list[MethodResult]:
    started = time.perf_counter()
    try:
        graph = build_graph(store, vectors)
    except ImportError:
        print(f"{name} is not installed: uv pip install 'vitrine[bench]'")
        return []
    build_s = time.perf_counter() - started
    expansion = least(
        lambda tried: recall_of(graph.ask(tuning.vectors, tried), tuning.truth, K) >= TARGET_10, 1024, first=K
    )
    row = _of_peer(f"{name} HNSW", lambda asked: graph.ask(asked, expansion), queries, store)
    setting = f"{graph.setting}, expansion {expansion}"
    return [replace(row, build_s=build_s, bytes_per_vector=graph.bytes_per_vector, setting=setting)]


def _usearch(store: Store, vectors: Floats) -> _Graph:
    from usearch.index import Index

    index: Any = Index(ndim=store.dimension, metric="cos" if store.metric == "cosine" else "l2sq", dtype="f16")
    index.add(np.arange(len(vectors)), vectors, threads=1)

    def ask(asked: Floats, expansion: int) -> Rows:
        index.expansion_search = expansion
        return np.asarray(index.search(asked, K, threads=1).keys).astype(np.int64).reshape(len(asked), -1)

    return _Graph(ask, index.memory_usage / len(vectors), f"fp16, connectivity {index.connectivity}")


def _hnswlib(store: Store, vectors: Floats) -> _Graph:
    import hnswlib

    index: Any = hnswlib.Index(space="cosine" if store.metric == "cosine" else "l2", dim=store.dimension)
    index.init_index(max_elements=len(vectors), M=16, ef_construction=200)
    index.add_items(vectors, num_threads=1)

    def ask(asked: Floats, expansion: int) -> Rows:
        index.set_ef(expansion)
        return np.asarray(index.knn_query(asked, K, num_threads=1)[0]).astype(np.int64)

    return _Graph(ask, index.index_file_size() / len(vectors), "float32, M 16")


def _of_peer(method: str, ask: Callable[[Floats], Rows], queries: Queries, store: Store) -> MethodResult:
    row = judged(method, ask(queries.vectors), queries, store)
    single = min(
        statistics.median(seconds(partial(ask, query)) for query in queries.vectors[:200, None]) for _ in range(3)
    )
    batched = seconds(lambda: ask(queries.vectors), rounds=3) / len(queries.vectors)
    return replace(row, single_ms=1e3 * single, batched_ms=1e3 * batched)
