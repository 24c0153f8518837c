"""The paper's Tables 3 and 4 beside ours: exhaustive search, product quantization alone, coarse quantizer + codes.

    python benchmarks/search.py                                          # 20 000 and 50 000 vectors, some minutes
    python benchmarks/search.py --sizes 100000 200000 500000 1000000 --peers 100000 --metrics --folder /big/disk
    python benchmarks/search.py --sizes 100000 --within 0.4              # kinds that lie well apart

One thread. Vectors are drawn by benchmarks/_embeddings.py, encoded in shards of 50 000 as the nightly run does, and
kept as fp16; queries are not among them. Exhaustive is faiss's flat index over float32, BLAS for batches, a chunk of
50 000 at a time (400 MB, far more than any cache), so that a million need no 8 GB of memory; the times of the chunks
are added up. Half of the queries settle how each method searches: the quickest setting that finds 0.995 of the
nearest and 0.99 of the ten nearest. The other half measure it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks._embeddings import CHUNK, WITHIN, Embeddings, Floats, Kinds
from index.building import (
    IndexDescription,
    Shard,
    set_threads,
    shard_path,
    train_quantizers,
    write_description,
    write_shard,
    write_trained,
)
from index.halves import widen
from index.measuring import RERANK_FACTORS, least
from index.searching import Searcher
from index.spec import IndexKind, IndexSpec, Metric

Rows = npt.NDArray[np.int64]

K = 10
TARGET_1, TARGET_10 = 0.995, 0.99  # recall@1 and @10 that a method must reach on the queries that settle it
SINGLE = 20  # queries that exhaustive search is asked one by one
PAPER_3 = {100_000: (13.6, 1.3), 200_000: (25.1, 1.5), 500_000: (73.5, 1.9), 1_000_000: (125.8, 2.7)}
PAPER_4 = {
    ("euclidean", "exhaustive"): (2.36, 92.68),
    ("euclidean", "PQ"): (0.12, 89.27),
    ("euclidean", "coarse + PQ"): (0.74, 90.63),
    ("cosine", "exhaustive"): (2.96, 97.48),
    ("cosine", "PQ"): (0.15, 90.52),
    ("cosine", "coarse + PQ"): (0.13, 96.74),
}


@dataclass(frozen=True)
class Queries:
    """What is asked, and the exact answer."""

    vectors: Floats
    kinds: Kinds
    truth: Rows  # Q×K


@dataclass(frozen=True)
class Measured:
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
    """The vectors of one size and metric: fp16, in files of CHUNK rows."""

    folder: Path
    dimension: int
    metric: Metric
    kinds: Kinds

    @property
    def count(self) -> int:
        """Vectors."""
        return len(self.kinds)

    def chunks(self) -> list[Path]:
        """The files in order."""
        return sorted(self.folder.glob("chunk-*.npy"))

    def sample(self, rows: int) -> Floats:
        """Evenly spread rows."""
        step = max(1, self.count // rows)
        return np.concatenate([widen(np.load(path, mmap_mode="r")[::step]) for path in self.chunks()])[:rows]


def draw(folder: Path, embeddings: Embeddings, metric: Metric, queries: int) -> tuple[Store, Floats, Kinds]:
    """Write the vectors; under euclidean each gets a length of its own, as before normalization."""
    for number, chunk in enumerate(embeddings.chunks()):
        lengths = _lengths(len(chunk), number) if metric == "euclidean" else 1
        np.save(folder / f"chunk-{number:05d}.npy", (chunk * lengths).astype(np.float16))
    asked, kinds = embeddings.queries(queries)
    if metric == "euclidean":
        asked = asked * _lengths(len(asked), -1)
    return Store(folder, embeddings.dimension, metric, embeddings.kinds()), asked, kinds


def _lengths(rows: int, number: int) -> Floats:
    return np.random.default_rng([7, number + 1]).lognormal(2, 0.1, (rows, 1)).astype(np.float32)


def exhaustive(store: Store, asked: Floats, kinds: Kinds) -> tuple[Measured, Queries]:
    """faiss's flat index, one query at a time and all at once; its answer is the truth for the others."""
    heap = faiss.ResultHeap(len(asked), K, keep_max=store.metric == "cosine")
    metric = faiss.METRIC_INNER_PRODUCT if store.metric == "cosine" else faiss.METRIC_L2
    single, batched, first = 0.0, 0.0, 0
    for path in store.chunks():
        flat = faiss.IndexFlat(store.dimension, metric)
        flat.add(widen(np.load(path)))
        single += statistics.median(_seconds(partial(flat.search, query, K)) for query in asked[:SINGLE, None])
        started = time.perf_counter()
        distances, rows = flat.search(asked, K)
        batched += time.perf_counter() - started
        heap.add_result(distances, rows + first)
        first += flat.ntotal
    heap.finalize()
    truth = Queries(asked, kinds, heap.I)
    found = _judged("exhaustive", heap.I, truth, store)
    timed = replace(found, single_ms=1e3 * single, batched_ms=1e3 * batched / len(asked))
    return replace(timed, bytes_per_vector=4.0 * store.dimension), truth


def build(folder: Path, store: Store, kind: IndexKind) -> tuple[Searcher, float]:
    """Train, encode every shard, open; with the seconds that training and encoding took."""
    spec = IndexSpec.for_catalogue(store.count, store.dimension, metric=store.metric, flat_below=0, kind=kind)
    started = time.perf_counter()
    trained = train_quantizers(store.sample(spec.training_rows), spec, seed=0)
    write_trained(folder, trained)
    first, shards = 0, list[Shard]()
    for number, path in enumerate(store.chunks()):
        vectors = widen(np.load(path))
        keys = pa.table({"image_key": [f"{row:08d}" for row in range(first, first + len(vectors))]})
        write_shard(folder, number, vectors, keys, trained, spec)
        shards.append(Shard(shard_path(number), len(vectors)))
        first += len(vectors)
    seconds = time.perf_counter() - started
    write_description(folder, IndexDescription(spec, first, tuple(shards), 1, "benchmark"))
    return Searcher.open(folder), seconds


def settle(searcher: Searcher, queries: Queries, *, ten: bool = True) -> tuple[int, int]:
    """The quickest nprobe and rerank_factor that find enough on these queries; the widest where none does.

    With `ten` the ten nearest count too, not the nearest alone.
    """

    def finds_enough(nprobe: int, factor: int) -> bool:
        found = searcher.search(queries.vectors, K, nprobe=nprobe, rerank_factor=factor).rows
        enough = _recall(found, queries.truth, 1) >= TARGET_1
        return enough and (not ten or _recall(found, queries.truth, K) >= TARGET_10)

    best: tuple[float, int, int] | None = None
    lists = searcher.spec.nlist
    for factor in RERANK_FACTORS:
        if not finds_enough(lists, factor):
            continue  # not even with every list
        nprobe = least(partial(finds_enough, factor=factor), lists)
        tried = (_asking(searcher, queries.vectors, nprobe, factor)(), nprobe, factor)
        if best is not None and tried > best:
            break
        best = tried
    return best[1:] if best else (lists, RERANK_FACTORS[-1])


def measure(
    method: str, searcher: Searcher, queries: Queries, store: Store, build_s: float, *, nprobe: int, rerank_factor: int
) -> Measured:
    """One setting of an open index, three rounds, the fastest of which counts."""
    found = searcher.search(queries.vectors, K, nprobe=nprobe, rerank_factor=rerank_factor).rows
    if rerank_factor == 1:  # codes alone: the nearest is what they say is nearest, not the best of ten
        found[:, :1] = searcher.search(queries.vectors, 1, nprobe=nprobe, rerank_factor=1).rows
    ask = _asking(searcher, queries.vectors, nprobe, rerank_factor)
    batch = _seconds(lambda: searcher.search(queries.vectors, K, nprobe=nprobe, rerank_factor=rerank_factor), rounds=3)
    return replace(
        _judged(method, found, queries, store),
        single_ms=1e3 * min(ask() for _ in range(3)),
        batched_ms=1e3 * batch / len(queries.vectors),
        bytes_per_vector=searcher.spec.bytes_per_vector - (2 * store.dimension if rerank_factor == 1 else 0),
        build_s=build_s,
        setting=f"{searcher.spec.factory_string()}, nprobe {nprobe}"
        + (f", {rerank_factor} candidates a neighbour" if rerank_factor > 1 else ""),
    )


def _asking(searcher: Searcher, vectors: Floats, nprobe: int, factor: int) -> Callable[[], float]:
    """The median seconds of queries asked one by one."""

    def ask() -> float:
        search = partial(searcher.search, k=K, nprobe=nprobe, rerank_factor=factor)
        return statistics.median(_seconds(partial(search, query)) for query in vectors[:200, None])

    return ask


def _seconds(work: Callable[[], Any], rounds: int = 1) -> float:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def _recall(found: Rows, truth: Rows, k: int) -> float:
    return float(np.mean([len({*line[:k]} & {*true[:k]}) / k for line, true in zip(found, truth, strict=True)]))


def _judged(method: str, found: Rows, queries: Queries, store: Store) -> Measured:
    accuracy = float((store.kinds[found[:, 0]] == queries.kinds).mean())
    return Measured(method, 0, 0, _recall(found, queries.truth, 1), _recall(found, queries.truth, K), accuracy, 0, 0)


def compare(folder: Path, count: int, asked: argparse.Namespace, metric: Metric) -> list[Measured]:
    """Exhaustive, product quantization alone, and ours, on the same vectors."""
    (vectors := folder / "vectors").mkdir(parents=True)
    embeddings = Embeddings(count, asked.dimension, within=asked.within)
    store, queries, kinds = draw(vectors, embeddings, metric, asked.queries)
    base, truth = exhaustive(store, queries, kinds)
    half = len(queries) // 2
    tuning, held_out = (
        Queries(queries[part], kinds[part], truth.truth[part]) for part in (slice(half), slice(half, None))
    )
    found = [base]
    kinds_asked: tuple[IndexKind, ...] = ("ivfpq",) if asked.without_pq else ("pq", "ivfpq")
    for kind in kinds_asked:
        (place := folder / kind).mkdir()
        searcher, build_s = build(place, store, kind)
        if kind == "pq":
            found.append(measure("PQ", searcher, held_out, store, build_s, nprobe=1, rerank_factor=1))
        nprobe, factor = settle(searcher, tuning)
        name = "PQ, re-ranked" if kind == "pq" else "coarse + PQ"
        found.append(measure(name, searcher, held_out, store, build_s, nprobe=nprobe, rerank_factor=factor))
        if kind == "ivfpq":
            nprobe, factor = settle(searcher, tuning, ten=False)
            name = "coarse + PQ, for the nearest"
            found.append(measure(name, searcher, held_out, store, build_s, nprobe=nprobe, rerank_factor=factor))
        shutil.rmtree(place)
    if count in asked.peers:
        found += peers(store, tuning, held_out)
    shutil.rmtree(folder)
    return found


def peers(store: Store, tuning: Queries, queries: Queries) -> list[Measured]:
    """What others would use: faiss's own indexes, two HNSW; each at the target if it can."""
    found = []
    vectors = np.concatenate([widen(np.load(path)) for path in store.chunks()])
    nlist = IndexSpec.for_catalogue(store.count, store.dimension, flat_below=0).nlist
    for name in (f"IVF{nlist},PQ64", f"IVF{nlist},SQfp16", f"IVF{nlist},Flat"):
        index: Any = faiss.index_factory(store.dimension, name)
        if "PQ" in name:
            index.do_polysemous_training = False
        started = time.perf_counter()
        index.train(store.sample(64 * nlist))
        index.add(vectors)
        build_s = time.perf_counter() - started
        index.nprobe = least(partial(_probing_is_enough, index, tuning), min(nlist, 256))
        row = _of_peer(f"faiss {name}", partial(_rows_of, index), queries, store)
        size = index.code_size + 8
        found.append(replace(row, build_s=build_s, bytes_per_vector=size, setting=f"nprobe {index.nprobe}"))
    return [
        *found,
        *_hnsw("usearch", _usearch, store, vectors, tuning, queries),
        *_hnsw("hnswlib", _hnswlib, store, vectors, tuning, queries),
    ]


def _probing_is_enough(index: Any, tuning: Queries, nprobe: int) -> bool:
    index.nprobe = nprobe
    return _recall(index.search(tuning.vectors, K)[1], tuning.truth, K) >= TARGET_10


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
) -> list[Measured]:
    started = time.perf_counter()
    try:
        graph = build_graph(store, vectors)
    except ImportError:
        print(f"{name} is not installed: uv pip install 'vitrine[bench]'")
        return []
    build_s = time.perf_counter() - started
    expansion = least(
        lambda tried: _recall(graph.ask(tuning.vectors, tried), tuning.truth, K) >= TARGET_10, 1024, first=K
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


def _of_peer(method: str, ask: Callable[[Floats], Rows], queries: Queries, store: Store) -> Measured:
    row = _judged(method, ask(queries.vectors), queries, store)
    single = min(
        statistics.median(_seconds(partial(ask, query)) for query in queries.vectors[:200, None]) for _ in range(3)
    )
    batched = _seconds(lambda: ask(queries.vectors), rounds=3) / len(queries.vectors)
    return replace(row, single_ms=1e3 * single, batched_ms=1e3 * batched)


def print_table_3(found: dict[int, list[Measured]]) -> None:
    """Time of one search against the number of vectors."""
    print("\nTable 3, cosine: milliseconds a search, one thread\n")
    print("| vectors | exhaustive | PQ alone | PQ, re-ranked | ours | times faster | batched: exhaustive | ours "
          "| times faster | recall@1 | recall@10 | bytes a vector | build, s | the paper: exhaustive | ours "
          "| times faster |")  # fmt: skip
    print("|--:" * 16 + "|")
    for count, rows in found.items():
        named = {row.method: row for row in rows}
        base, ours = named["exhaustive"], named["coarse + PQ"]
        codes, ranked = (f"{named[name].single_ms:.2f}" if name in named else "–" for name in ("PQ", "PQ, re-ranked"))
        paper = PAPER_3.get(count)
        told = (f"{paper[0]}", f"{paper[1]}", f"{paper[0] / paper[1]:.0f}") if paper else ("–",) * 3
        cells = [
            f"{count:,}".replace(",", " "), f"{base.single_ms:.1f}", codes, ranked, f"{ours.single_ms:.3f}",
            f"**{base.single_ms / ours.single_ms:.0f}**", f"{base.batched_ms:.2f}", f"{ours.batched_ms:.3f}",
            f"**{base.batched_ms / ours.batched_ms:.0f}**", f"{ours.recall_at_1:.3f}", f"{ours.recall_at_10:.3f}",
            f"{ours.bytes_per_vector:.0f}", f"{ours.build_s:.0f}", *told,
        ]  # fmt: skip
        print("| " + " | ".join(cells) + " |")


def print_table_4(count: int, metric: Metric, rows: list[Measured]) -> None:
    """Each method: time, what it finds, what it costs."""
    print(f"\nTable 4, {metric}, {count:,} vectors\n".replace(",", " ", 0))
    print("| method | ms a search | batched | recall@1 | recall@10 | accuracy | bytes a vector | build, s | setting "
          "| the paper: time | accuracy |")  # fmt: skip
    print("|---" + "|--:" * 7 + "|---" + "|--:" * 2 + "|")
    for row in rows:
        told = PAPER_4.get((metric, row.method), ("–", "–"))
        cells = [
            row.method, f"{row.single_ms:.3f}", f"{row.batched_ms:.3f}", f"{row.recall_at_1:.3f}",
            f"{row.recall_at_10:.3f}", f"{100 * row.accuracy:.1f} %", f"{row.bytes_per_vector:.0f}",
            f"{row.build_s:.0f}", row.setting, f"{told[0]}", f"{told[1]}",
        ]  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 50_000])
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--within", type=float, default=WITHIN, help="spread inside a kind against that between kinds")
    parser.add_argument("--metrics", action="store_true", help="Table 4 for euclidean too, at the smallest size")
    parser.add_argument("--without-pq", action="store_true", help="leave product quantization alone out")
    parser.add_argument(
        "--peers", type=int, nargs="*", default=[], help="sizes at which other indexes are measured too"
    )
    parser.add_argument("--folder", type=Path, help="where 8 KB a vector find room; a temporary directory by default")
    asked = parser.parse_args()
    set_threads(asked.threads)
    faiss.cvar.distance_compute_blas_threshold = SINGLE  # faiss's own default, stated: BLAS from 20 queries on
    with tempfile.TemporaryDirectory(prefix="vitrine-", dir=asked.folder) as folder:
        found: dict[int, list[Measured]] = {}
        for count in sorted(asked.sizes):
            found[count] = compare(Path(folder, f"cosine-{count}"), count, asked, "cosine")
            print_table_4(count, "cosine", found[count])
        if asked.metrics:
            count = min(asked.sizes)
            rows = compare(
                Path(folder, "euclidean"), count, argparse.Namespace(**vars(asked) | {"peers": []}), "euclidean"
            )
            print_table_4(count, "euclidean", rows)
        print_table_3(found)
        print(f"\n{asked.dimension} dimensions, {CHUNK} rows a shard, {asked.threads} thread(s)")


if __name__ == "__main__":
    main()
