"""What others would use in place of our index, behind the same few calls: LanceDB, usearch, hnswlib, autofaiss, faiss.

A peer is built of vectors and of a number a row, by which a search can be filtered. How thoroughly it searches has two
knobs: a width (lists looked in, or nodes of a graph) and, where it ranks candidates again, how many for each neighbour.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np
import pyarrow as pa

from benchmarks._search_data import TARGET_10, K, MethodResult, Queries, Store, cpu_seconds, judged, recall_of
from index.arrays import Floats, Mask, Rows
from index.faiss_index import untyped
from index.spec import IndexSpec
from index.tuning import least


class NotOffered(Exception):
    """A peer has no way to do what is asked, which a table says in its place."""


class Peer(Protocol):
    """An index of rows numbered from 0. Each is made with an empty folder of its own."""

    name: str
    widest: int
    factors: tuple[int, ...]

    def build(self, vectors: Floats, along: Floats) -> None:
        """Index unit vectors, N×D, with a number a row."""

    def search(self, queries: Floats, width: int, factor: int, above: float | None = None) -> Rows:
        """The K nearest rows by cosine, −1 for none; `above`: of those whose number is at least so large.

        Raises NotOffered where a peer can't filter.
        """

    def night(self, vectors: Floats, along: Floats, gone: Rows) -> None:
        """Add rows, numbered on from the last, and delete others, until searches see it. Raises NotOffered."""

    def setting(self, width: int, factor: int) -> str:
        """The knobs by their own names."""


class LanceDb:
    """A table on disk, as LanceDB keeps and searches it."""

    factors: tuple[int, ...]
    widest: int

    def __init__(self, folder: Path, kind: str) -> None:
        self.name, self._kind, self._folder = f"LanceDB {kind}", kind, folder
        self.factors = (2, 4, 8, 16) if kind == "IVF_PQ" else (2, 4)

    def build(self, vectors: Floats, along: Floats) -> None:
        """IVF_PQ of √N lists and a code for eight values; one graph for IVF_HNSW_SQ."""
        lists = round(len(vectors) ** 0.5) if self._kind == "IVF_PQ" else 1
        self.widest = lists if self._kind == "IVF_PQ" else 1024
        sized: dict[str, int] = {"num_sub_vectors": vectors.shape[1] // 8} if self._kind == "IVF_PQ" else {}
        self._table = import_module("lancedb").connect(self._folder).create_table("rows", self._rows(vectors, along, 0))
        self._table.create_index(
            metric="cosine", vector_column_name="vector", index_type=self._kind, num_partitions=lists, **sized
        )
        self._count = len(vectors)

    def search(self, queries: Floats, width: int, factor: int, above: float | None = None) -> Rows:
        """One query at a time: it has no other way."""
        rows = np.full((len(queries), K), -1, dtype=np.int64)
        for line, query in enumerate(queries):
            asked = self._table.search(query).distance_type("cosine").select(["id", "_distance"]).limit(K)
            asked = asked.refine_factor(factor)
            asked = asked.nprobes(width) if self._kind == "IVF_PQ" else asked.ef(max(width, K * factor))
            asked = asked if above is None else asked.where(f"along >= {above!r}", prefilter=True)
            near = asked.to_arrow()["id"].to_numpy()
            rows[line, : len(near)] = near
        return rows

    def night(self, vectors: Floats, along: Floats, gone: Rows) -> None:
        """Add, delete, and what its manual says to do every so often."""
        self._table.add(self._rows(vectors, along, self._count))
        self._table.delete(f"id IN ({', '.join(map(str, gone.tolist()))})")
        self._table.optimize()

    def setting(self, width: int, factor: int) -> str:
        """The knobs by their own names."""
        return f"{'nprobes' if self._kind == 'IVF_PQ' else 'ef'} {width}, refine_factor {factor}"

    @staticmethod
    def _rows(vectors: Floats, along: Floats, first: int) -> pa.Table:
        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        ids = np.arange(first, first + len(vectors))
        return pa.table({"id": ids, "along": along.astype(np.float64), "vector": lists})


class Usearch:
    """A graph in memory, saved as one file."""

    name, widest = "usearch HNSW, fp16", 1024
    factors: tuple[int, ...] = (1,)

    def __init__(self, folder: Path, metric: str = "cosine") -> None:
        self._path, self._metric = folder / "usearch", metric

    def build(self, vectors: Floats, along: Floats) -> None:
        """One thread."""
        from usearch.index import Index

        metric = "cos" if self._metric == "cosine" else "l2sq"
        self._index: Any = Index(ndim=vectors.shape[1], metric=metric, dtype="f16")
        self._index.add(np.arange(len(vectors)), vectors, threads=1)
        self._index.save(str(self._path))
        self._count = len(vectors)

    def search(self, queries: Floats, width: int, factor: int, above: float | None = None) -> Rows:
        """All queries in one call."""
        if above is not None:
            raise NotOffered
        self._index.expansion_search = width
        return np.asarray(self._index.search(queries, K, threads=1).keys).astype(np.int64).reshape(len(queries), -1)

    def night(self, vectors: Floats, along: Floats, gone: Rows) -> None:
        """The whole file is written again."""
        self._index.add(np.arange(self._count, self._count + len(vectors)), vectors, threads=1)
        self._index.remove(gone, threads=1)
        self._index.save(str(self._path))

    def setting(self, width: int, factor: int) -> str:
        """The knobs by their own names."""
        return f"connectivity {self._index.connectivity}, expansion {width}"


class Hnswlib:
    """A graph in memory."""

    name, widest = "hnswlib HNSW, float32", 1024
    factors: tuple[int, ...] = (1,)

    def __init__(self, folder: Path, metric: str = "cosine") -> None:
        self._path, self._metric = folder / "hnswlib", metric

    def build(self, vectors: Floats, along: Floats) -> None:
        """One thread."""
        import hnswlib

        self._index: Any = hnswlib.Index(space="cosine" if self._metric == "cosine" else "l2", dim=vectors.shape[1])
        self._index.init_index(max_elements=len(vectors), M=16, ef_construction=200, allow_replace_deleted=True)
        self._index.add_items(vectors, num_threads=1)
        self._index.save_index(str(self._path))
        self._count = len(vectors)

    def search(self, queries: Floats, width: int, factor: int, above: float | None = None) -> Rows:
        """All queries in one call."""
        if above is not None:
            raise NotOffered  # its filter is a Python function, called for every node
        self._index.set_ef(width)
        return np.asarray(self._index.knn_query(queries, K, num_threads=1)[0]).astype(np.int64)

    def night(self, vectors: Floats, along: Floats, gone: Rows) -> None:
        """New rows take the place of deleted ones; the whole file is written again."""
        for row in gone.tolist():
            self._index.mark_deleted(row)
        ids = np.arange(self._count, self._count + len(vectors))
        self._index.add_items(vectors, ids, num_threads=1, replace_deleted=True)
        self._index.save_index(str(self._path))

    def setting(self, width: int, factor: int) -> str:
        """The knobs by their own names."""
        return f"M 16, ef {width}"


class Faiss:
    """An index of faiss's factory, or the one that autofaiss chooses."""

    factors: tuple[int, ...] = (1,)
    widest: int

    def __init__(self, folder: Path, factory: str | None) -> None:
        self.name = "autofaiss" if factory is None else f"faiss {factory}"
        self._path, self._factory = folder / "faiss", factory

    def build(self, vectors: Floats, along: Floats) -> None:
        """A training sample of 64 rows a list; autofaiss takes what it finds best."""
        self._along = along
        self._index: Any = self._chosen(vectors) if self._factory is None else self._made(vectors, self._factory)
        self._graph = isinstance(self._index, faiss.IndexHNSW)
        self.widest = 1024 if self._graph else self._index.nlist
        faiss.write_index(self._index, str(self._path))

    def search(self, queries: Floats, width: int, factor: int, above: float | None = None) -> Rows:
        """All queries in one call; a filter is a selector in the scan."""
        mask: Mask | None = None if above is None else self._along >= above
        selector = None if mask is None else untyped.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        kind, knob = (
            (untyped.SearchParametersHNSW, "efSearch") if self._graph else (untyped.SearchParametersIVF, "nprobe")
        )
        rows: Rows = self._index.search(queries, K, params=kind(sel=selector, **{knob: width}))[1]
        return rows

    def night(self, vectors: Floats, along: Floats, gone: Rows) -> None:
        """autofaiss builds anew; faiss's own numbers would move."""
        raise NotOffered

    def setting(self, width: int, factor: int) -> str:
        """The knobs by their own names."""
        return f"HNSW32, efSearch {width}" if self._graph else f"nprobe {width}"

    @staticmethod
    def _made(vectors: Floats, factory: str) -> Any:
        index: Any = faiss.index_factory(
            vectors.shape[1], factory
        )  # Euclidean, which orders unit vectors as cosine does
        if "PQ" in factory:
            index.do_polysemous_training = False
        index.train(vectors[:: max(1, len(vectors) // (64 * index.nlist))][: 64 * index.nlist])
        index.add(vectors)
        return index

    def _chosen(self, vectors: Floats) -> Any:
        import autofaiss

        self._owner, _ = autofaiss.build_index(
            vectors, save_on_disk=False, metric_type="ip", max_index_memory_usage="8G", current_memory_available="12G",
            nb_cores=1, verbose=40,
        )  # fmt: skip
        index: Any = untyped.downcast_index(self._owner)  # a view, that lives no longer than its owner
        if not isinstance(index, faiss.IndexHNSW | faiss.IndexIVF):
            raise TypeError(f"autofaiss chose {type(index).__name__}, whose knobs are not known here")
        return index


def settle(peer: Peer, tuning: Queries) -> tuple[int, int]:
    """The quickest width and factor that find TARGET_10 of the ten nearest on these queries, or the widest."""

    def finds_enough(width: int, factor: int) -> bool:
        return recall_of(peer.search(tuning.vectors, width, factor), tuning.truth, K) >= TARGET_10

    best: tuple[float, int, int] | None = None
    for factor in peer.factors:
        if not finds_enough(peer.widest, factor):
            continue
        width = least(partial(finds_enough, factor=factor), peer.widest)
        tried = (milliseconds(peer, tuning.vectors, width, factor), width, factor)
        if best is not None and tried > best:
            break
        best = tried
    return best[1:] if best else (peer.widest, peer.factors[-1])


def milliseconds(peer: Peer, queries: Floats, width: int, factor: int, above: float | None = None) -> float:
    """A query, of at most 200 asked one by one: one core's time, the best of three rounds."""
    asked = queries[:200, None]

    def ask() -> None:
        for query in asked:
            peer.search(query, width, factor, above)

    return 1e3 * cpu_seconds(ask, rounds=3) / len(asked)


def disk_bytes(folder: Path) -> int:
    """What lies in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def peers(folder: Path, store: Store, tuning: Queries, queries: Queries) -> list[MethodResult]:
    """Rows of benchmarks/search.py: each at the quickest setting that finds 0.99 of the ten nearest, or at its best."""
    nlist = IndexSpec.for_catalogue(len(store), store.dimension, flat_below=0).nlist
    names = (f"IVF{nlist},PQ64", f"IVF{nlist},SQfp16", f"IVF{nlist},Flat")
    made: list[Callable[[Path], Peer]] = [
        *(partial(Faiss, factory=name) for name in names),
        partial(Usearch, metric=store.metric),
        partial(Hnswlib, metric=store.metric),
    ]
    vectors = np.concatenate(list(store.chunks()))
    results = []
    for number, make in enumerate(made):
        (own := folder / f"peer-{number}").mkdir()
        with suppress(ImportError):  # uv pip install 'vitrine[bench]'
            results.append(_method(make(own), own, store, vectors, tuning, queries))
    return results


def _method(peer: Peer, folder: Path, store: Store, vectors: Floats, tuning: Queries, queries: Queries) -> MethodResult:
    build_s = cpu_seconds(lambda: peer.build(vectors, np.zeros(len(vectors), np.float32)))
    width, factor = settle(peer, tuning)
    return replace(
        judged(peer.name, peer.search(queries.vectors, width, factor), queries, store),
        single_ms=milliseconds(peer, queries.vectors, width, factor),
        batched_ms=1e3 * cpu_seconds(lambda: peer.search(queries.vectors, width, factor), 3) / len(queries.vectors),
        build_s=build_s,
        bytes_per_vector=disk_bytes(folder) / len(vectors),
        setting=peer.setting(width, factor),
    )
