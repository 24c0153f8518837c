"""The vectors, the queries and the exact answers that every method of benchmarks/search.py is held against."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks._embeddings import CHUNK, Embeddings, Kinds
from index.arrays import Floats, Halves, Rows, widen
from index.spec import Metric

K = 10
TARGET_1, TARGET_10 = 0.995, 0.99  # recall@1 and @10 that a method must reach on the queries that settle it
SINGLE = 20  # queries that exhaustive search is asked one by one


@dataclass(frozen=True)
class Queries:
    """What is asked, and the exact answer."""

    vectors: Floats
    kinds: Kinds
    truth: Rows  # Q×K


@dataclass(frozen=True)
class MethodResult:
    """One method on one set of vectors. Times are milliseconds a query."""

    method: str
    single_ms: float
    batched_ms: float
    recall_at_1: float
    recall_at_10: float
    accuracy: float  # share of queries whose nearest neighbour is of their kind
    bytes_per_vector: float
    build_s: float
    setting: str = ""


@dataclass(frozen=True)
class Store:
    """The vectors of one size and metric: fp16 in one file, read as float32 by slices of rows."""

    halves: Halves
    metric: Metric
    kinds: Kinds

    def __len__(self) -> int:
        return len(self.halves)

    def __getitem__(self, rows: slice) -> Floats:
        return widen(np.asarray(self.halves[rows]))

    @property
    def dimension(self) -> int:
        """Of the vectors."""
        return int(self.halves.shape[1])

    def chunks(self) -> Iterator[Floats]:
        """All vectors, CHUNK at a time."""
        return (self[start : start + CHUNK] for start in range(0, len(self), CHUNK))


def draw(path: Path, embeddings: Embeddings, metric: Metric, queries: int) -> tuple[Store, Floats, Kinds]:
    """Write the vectors; under euclidean each gets a length of its own, as before normalization."""
    shape = (embeddings.count, embeddings.dimension)
    halves = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    for number, chunk in enumerate(embeddings.chunks()):
        lengths = _lengths(len(chunk), number) if metric == "euclidean" else 1
        halves[number * CHUNK : number * CHUNK + len(chunk)] = chunk * lengths
    asked, kinds = embeddings.queries(queries)
    if metric == "euclidean":
        asked = asked * _lengths(len(asked), -1)
    return Store(halves, metric, embeddings.kinds()), asked, kinds


def _lengths(rows: int, number: int) -> Floats:
    return np.random.default_rng([7, number + 1]).lognormal(2, 0.1, (rows, 1)).astype(np.float32)


def exhaustive(store: Store, asked: Floats, kinds: Kinds) -> tuple[MethodResult, Queries]:
    """faiss's flat index, one query at a time and all at once; its answer is the truth for the others."""
    heap = faiss.ResultHeap(len(asked), K, keep_max=store.metric == "cosine")
    metric = faiss.METRIC_INNER_PRODUCT if store.metric == "cosine" else faiss.METRIC_L2
    single, batched, first = 0.0, 0.0, 0
    for chunk in store.chunks():
        flat = faiss.IndexFlat(store.dimension, metric)
        flat.add(chunk)
        single += statistics.median(seconds(partial(flat.search, query, K)) for query in asked[:SINGLE, None])
        started = time.perf_counter()
        distances, rows = flat.search(asked, K)
        batched += time.perf_counter() - started
        heap.add_result(distances, rows + first)
        first += flat.ntotal
    heap.finalize()
    truth = Queries(asked, kinds, heap.I)
    result = judged("exhaustive", heap.I, truth, store)
    timed = replace(result, single_ms=1e3 * single, batched_ms=1e3 * batched / len(asked))
    return replace(timed, bytes_per_vector=4.0 * store.dimension), truth


def judged(method: str, answers: Rows, queries: Queries, store: Store) -> MethodResult:
    """What a method's answers are worth; its times and sizes are filled in by who measured them."""
    accuracy = float((store.kinds[answers[:, 0]] == queries.kinds).mean())
    at_1, at_10 = (recall_of(answers, queries.truth, k) for k in (1, K))
    return MethodResult(method, 0, 0, at_1, at_10, accuracy, 0, 0)


def recall_of(answers: Rows, truth: Rows, k: int) -> float:
    """The share of the k nearest rows that are among the first k answers."""
    return float(np.mean([len({*line[:k]} & {*true[:k]}) / k for line, true in zip(answers, truth, strict=True)]))


def seconds(work: Callable[[], Any], rounds: int = 1) -> float:
    """The fastest of so many rounds."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def cpu_seconds(work: Callable[[], Any], rounds: int = 1) -> float:
    """The same in the time of all this process's threads, whatever else the machine does."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)
