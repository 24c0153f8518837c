"""Ours beside LanceDB, usearch and autofaiss on the same vectors, in one run, as Markdown.

    python benchmarks/peers.py                                  # 100 000 vectors of 512
    python benchmarks/peers.py --only ours lance-pq --without-nights
    python benchmarks/peers.py --vectors 10000 --dimension 64   # a minute

What it measures of each: building; bytes on disk; the quickest setting that finds 0.99 of the ten nearest, chosen on
half of the queries and measured on the other half, asked one by one; a night in which 1 % is added and 1 % deleted; and
a filter that goes with the picture, the twentieth of the rows that lie farthest along the first principal direction,
asked at the same setting by all queries and by the tenth of them that lies farthest from it. Ours takes no setting
under a filter: the search itself knows how far to look. Seconds and milliseconds are of one core, all threads' added
up. A peer that is not installed is said to be missing: `uv pip install 'vitrine[bench]'`; autofaiss asks for a pyarrow
older than ours and is installed with `--no-deps`.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("LANCE_CPU_THREADS", "1")
os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ.setdefault("LANCE_LOG", "error")

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa

from benchmarks._embeddings import CHUNK, Embeddings
from benchmarks._search_data import K, Queries, cpu_seconds, recall_of
from benchmarks._search_peers import (
    Faiss,
    Hnswlib,
    LanceDb,
    NotOffered,
    Peer,
    Usearch,
    disk_bytes,
    milliseconds,
    settle,
)
from benchmarks.rebuild import night
from index.arrays import Floats, Rows
from index.codebook import CODEBOOK
from index.deletions import write_deleted_rows
from index.description import write_description
from index.faiss_index import set_threads
from index.searching import Searcher
from index.shards import write_index, write_shard
from index.spec import IndexSpec
from index.tuning import RERANK_FACTORS
from lake.parquet import round_to_bfloat16
from tasks.rebuild.config import RebuildConfig
from tests.vector_lake import VectorLake

KEPT = 0.05  # of the rows, by the filter
FAR = 0.1  # of the queries
CHANGED = 0.01  # of the rows, in a night


class Ours:
    """An index of this project in a directory: what a night writes, without its lake and its gate."""

    name = "**ours**"
    factors: tuple[int, ...] = RERANK_FACTORS
    widest: int

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def build(self, vectors: Floats, along: Floats) -> None:
        """Shards of CHUNK rows, as a nightly run writes them."""
        self._along = along
        spec = IndexSpec.for_catalogue(len(vectors), vectors.shape[1], flat_below=0)
        sizes = [min(CHUNK, len(vectors) - start) for start in range(0, len(vectors), CHUNK)]
        write_index(self._folder, vectors, _keys(0, len(vectors)), spec, shards=sizes)
        self._searcher = Searcher.open(self._folder)
        self.widest = spec.nlist

    def search(self, queries: Floats, width: int, factor: int, above: float | None = None) -> Rows:
        """As a Reader asks it: under a filter the search itself knows how far to look."""
        if above is not None:
            return self._searcher.search(queries, K, keep=self._along >= above).rows
        return self._searcher.search(queries, K, nprobe=width, rerank_factor=factor).rows

    def night(self, vectors: Floats, along: Floats, gone: Rows) -> None:
        """A shard more, a table of deleted rows, and the version opened."""
        described = self._searcher.description
        codebook = (self._folder / CODEBOOK).read_bytes()
        keys = _keys(described.rows, len(vectors))
        shard = write_shard(self._folder, len(described.shards), vectors, keys, codebook, described.spec)
        shards = [*described.shards, shard]
        starts = np.cumsum([0, *(each.rows for each in shards)])
        deleted = [gone[(gone >= a) & (gone < b)] - a for a, b in pairwise(starts)]
        name = write_deleted_rows(self._folder, deleted)
        rows = described.rows + len(vectors) - len(gone)
        write_description(self._folder, replace(described, rows=rows, shards=tuple(shards), deleted=name))
        self._searcher = Searcher.open(self._folder)

    def setting(self, width: int, factor: int) -> str:
        """The knobs by their own names."""
        return f"nprobe {width}, {factor} candidates a neighbour"


PEERS: dict[str, Callable[[Path], Peer]] = {
    "ours": Ours,
    "lance-pq": partial(LanceDb, kind="IVF_PQ"),
    "lance-hnsw": partial(LanceDb, kind="IVF_HNSW_SQ"),
    "usearch": Usearch,
    "hnswlib": Hnswlib,
    "autofaiss": partial(Faiss, factory=None),
}


@dataclass(frozen=True)
class Asked:
    """The vectors, how far each lies along the first principal direction, and the queries with the exact answers."""

    vectors: Floats
    along: Floats
    above: float  # what the filter keeps
    tuning: Queries
    measured: Queries
    filtered: Queries  # the same ones as `measured`, under the filter
    far: Queries  # of those, the ones farthest from what it keeps
    new: Floats  # of a night
    new_along: Floats
    gone: Rows


def draw(count: int, dimension: int, within: float, queries: int) -> Asked:
    """Vectors of benchmarks/_embeddings.py and queries that are not among them."""
    embeddings = Embeddings(count, dimension, within=within)
    vectors = np.concatenate(list(embeddings.chunks()))
    few = round(CHANGED * count)
    drawn, kinds = embeddings.queries(queries + few)
    asked, new = drawn[:queries], drawn[queries:]
    sample = vectors[:: max(1, count // 20_000)]
    direction = np.linalg.eigh(np.cov(sample, rowvar=False))[1][:, -1].astype(np.float32)
    along, asked_along = vectors @ direction, asked @ direction
    above = float(np.quantile(along, 1 - KEPT))
    half, kept = queries // 2, np.flatnonzero(along >= above)
    held_out = asked[half:]
    far = np.argsort(asked_along[half:])[: round(FAR * len(held_out))]
    among = kept[faiss.knn(held_out, vectors[kept], K, metric=faiss.METRIC_INNER_PRODUCT)[1]]
    truth = faiss.knn(asked, vectors, K, metric=faiss.METRIC_INNER_PRODUCT)[1]
    gone = np.sort(np.random.default_rng(3).choice(count, few, replace=False))
    return Asked(
        vectors, along, above, Queries(asked[:half], kinds[:half], truth[:half]),
        Queries(held_out, kinds[half:queries], truth[half:]), Queries(held_out, kinds[half:queries], among),
        Queries(held_out[far], kinds[half:queries][far], among[far]), new, new @ direction, gone,
    )  # fmt: skip


def measure(make: Callable[[Path], Peer], asked: Asked, folder: Path, *, nights: bool) -> list[str]:
    """The cells of one row."""
    peer = make(folder)
    build_s = cpu_seconds(lambda: peer.build(asked.vectors, asked.along))
    size = disk_bytes(folder)
    width, factor = settle(peer, asked.tuning)
    recall = recall_of(peer.search(asked.measured.vectors, width, factor), asked.measured.truth, K)
    ms = milliseconds(peer, asked.measured.vectors, width, factor)
    filtered = ["–"] * 3
    try:
        found = [
            recall_of(peer.search(each.vectors, width, factor, asked.above), each.truth, K)
            for each in (asked.filtered, asked.far)
        ]
        filtered = [*(f"{each:.3f}" for each in found)]
        filtered += [f"{milliseconds(peer, asked.filtered.vectors, width, factor, asked.above):.2f}"]
    except NotOffered:
        pass
    night_s = "–"
    if nights:
        try:
            night_s = f"{cpu_seconds(lambda: peer.night(asked.new, asked.new_along, asked.gone)):.2f}"
        except NotOffered:
            night_s = "built anew"
    cells = [f"{build_s:.0f}", f"{size / 1e6:.0f}", f"{ms:.2f}", f"{recall:.3f}", peer.setting(width, factor), night_s]
    return [*cells, *filtered]


def gated_night(asked: Asked, folder: Path) -> str:
    """What the same night costs as a user's: compared in the lake, measured by the gate, published."""
    vectors = round_to_bfloat16(asked.vectors)
    lake, config = VectorLake(str(folder), vectors.shape[1]), RebuildConfig(flat_below=0)
    lake.change({f"{row:08d}": vector for row, vector in enumerate(vectors)})
    night(lake, config)
    new = {f"{len(vectors) + row:08d}": vector for row, vector in enumerate(round_to_bfloat16(asked.new))}
    lake.change({f"{row:08d}": None for row in asked.gone.tolist()} | new)
    done = night(lake, config)
    total = sum(done.cpu_s.values())
    stages = ", ".join(f"{name} {spent:.2f}" for name, spent in done.cpu_s.items() if spent >= 0.005)
    return f"Ours as `vitrine rebuild-index` does it, the gate included: {total:.2f} s, of which {stages}."


def _keys(first: int, count: int) -> pa.Table:
    return pa.table({"image_key": [f"{row:08d}" for row in range(first, first + count)]})


def run(names: Sequence[str], asked: Asked, folder: Path, *, nights: bool) -> None:
    """Print a row as soon as it is measured."""
    print("| | build, s | MB on disk | ms a search | recall@10 | setting | a night of 1 %, s | filtered: recall@10, "
          "any query | the farthest tenth | ms |")  # fmt: skip
    print("|---|--:|--:|--:|--:|---|--:|--:|--:|--:|", flush=True)
    for name in names:
        (own := folder / name).mkdir()
        try:
            cells = measure(PEERS[name], asked, own, nights=nights)
        except ImportError as error:
            print(f"| {name} | not installed: {error} |", flush=True)
            continue
        print(f"| {PEERS[name](own).name} | " + " | ".join(cells) + " |", flush=True)
    if nights and "ours" in names:
        print("\n" + gated_night(asked, folder / "lake"), flush=True)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--within", type=float, default=0.8, help="spread inside a kind against that between kinds")
    parser.add_argument("--queries", type=int, default=600)
    parser.add_argument("--only", nargs="+", choices=PEERS, default=[name for name in PEERS if name != "hnswlib"])
    parser.add_argument("--without-nights", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the indexes find room; a temporary directory by default")
    given = parser.parse_args()
    set_threads(1)
    asked = draw(given.vectors, given.dimension, given.within, given.queries)
    print(f"{given.vectors} x {given.dimension}, spread {given.within}; the machine's load: {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory(prefix="vitrine-", dir=given.folder) as folder:
        run(given.only, asked, Path(folder), nights=not given.without_nights)


if __name__ == "__main__":
    main()
