"""What does a Reader add to the search of its index: finding the key, reading neighbours' keys and scores?

    python benchmarks/reader.py
    python benchmarks/reader.py --vectors 400000 --shards 8 --dimension 64

One thread; vectors of benchmarks/_embeddings.py, published in a lake and scored by a model. Every search is for the
ten nearest of one row, itself left out. Milliseconds a search of one core's time, the fastest of five rounds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks._embeddings import Embeddings
from index.arrays import Floats
from index.faiss_index import set_threads
from index.filtering import RowFilter, search_filtered
from index.shards import write_index
from index.spec import IndexSpec
from lake.lake import Lake, open_lake
from lake.schemas import SCORES
from tasks.search.reader import Filters, Reader
from tests.vector_lake import VectorLake

K, ROUNDS, SEARCHES = 10, 5, 200


def publish(lake: Lake, look: int, vectors: Floats, shards: int, nprobe: int, folder: Path) -> None:
    """An index of the vectors, four a product."""
    rows = range(len(vectors))
    keys = pa.table(
        {
            "image_key": [f"shop/kind-{row % 97:02d}/product-{row // 4:07d}/{row % 4}.jpg" for row in rows],
            "product_id": [f"product-{row // 4:07d}" for row in rows],
            "sha256": [f"{row:064x}" for row in rows],
        }
    )
    sizes = np.diff(np.linspace(0, len(vectors), shards + 1, dtype=int)).tolist()
    spec = IndexSpec.for_catalogue(len(vectors), vectors.shape[1])
    write_index(folder, vectors, keys, spec, shards=sizes, nprobe=nprobe, look_version=look)
    draft = lake.indexes.draft()
    for path in sorted(folder.iterdir()):
        draft.add_file(path.name, path)
    draft.seal({"look_version": look})
    lake.indexes.append("publish", draft.version, based_on=lake.indexes.newest())


def score(lake: Lake, model: int, rows: int) -> None:
    """Scores of every row."""
    random = np.random.default_rng(0)
    columns: dict[str, Any] = {
        name: random.random(rows, dtype=np.float32) for name in SCORES.names if "intensity" in name
    }
    polarity = random.random(rows, dtype=np.float32)
    columns |= {"polarity": polarity, "logit": polarity}
    columns |= {
        "label": np.where(polarity < 0.5, "negative", "positive"),
        "sha256": [f"{row:064x}" for row in range(rows)],
    }
    columns |= {"model_version": np.full(rows, model, np.int32), "scored_at": [datetime.now(UTC)] * rows}
    table = pa.table({each.name: pa.array(columns[each.name], each.type) for each in SCORES})
    part = lake.scores.write_part(table, "scores", partition={"model_version": str(model)})
    lake.scores.commit([part], application_id="scores")


def timed(ask: Callable[[int], object]) -> float:
    """Milliseconds of a search, each for another of SEARCHES rows."""
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for number in range(SEARCHES):
            ask(number)
        times.append(time.process_time() - started)
    return 1e3 * min(times) / SEARCHES


def measure(reader: Reader, rows: list[int]) -> dict[str, float]:
    """The parts of a search by key, and whole ones."""
    index = reader.index
    searcher, look = index.searcher, index.look_version
    keys = searcher.keys(rows)["image_key"].to_pylist()
    vectors = searcher.vectors(rows)
    near = search_filtered(searcher, vectors, K, RowFilter())
    listed = tuple(searcher.keys(range(0, len(searcher), max(1, len(searcher) // 3_000)))["image_key"].to_pylist())
    assert index.feelings is not None and index.products is not None  # noqa: S101 (read when first asked for)
    return {
        "the index's search": timed(lambda n: searcher.search(vectors[n][None], K)),
        "find": timed(lambda n: searcher.find(keys[n])),
        "keys and scores": timed(lambda n: index.answers([near[n]])),
        "Reader.search": timed(lambda n: reader.search(vectors[n][None], K, look_version=look)),
        "Reader.search_keys": timed(lambda n: reader.search_keys([keys[n]], K)),
        "the same, other products": timed(
            lambda n: reader.search_keys([keys[n]], K, filters=Filters(other_products=True))
        ),
        "the same, among 3 000": timed(lambda n: reader.search_keys([keys[n]], K, filters=Filters(keys=listed))),
    }


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--within", type=float, default=0.8)
    parser.add_argument("--nprobe", type=int, default=16)
    asked = parser.parse_args()
    set_threads(1)
    vectors = np.concatenate(list(Embeddings(asked.vectors, asked.dimension, within=asked.within).chunks()))
    rows = np.random.default_rng(1).integers(0, asked.vectors, SEARCHES).tolist()
    results = {}
    for shards in asked.shards:
        with tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
            made = VectorLake(f"{folder}/lake", asked.dimension)
            lake = open_lake(made.uri)
            publish(lake, made.look, vectors, shards, asked.nprobe, Path(folder, "index"))
            score(lake, made.promote_model(), asked.vectors)
            started = time.process_time()
            reader = Reader(lake, Path(folder, "cache"))
            opening = time.process_time() - started
            results[shards] = {"opening, s": opening, **measure(reader, rows)}
    print(f"{asked.vectors} x {asked.dimension}, spread {asked.within}; milliseconds\n")
    print("| | " + " | ".join(f"{shards} shards" for shards in results) + " |")
    print("|---|" + "--:|" * len(results))
    for name in next(iter(results.values())):
        print(f"| {name} | " + " | ".join(f"{result[name]:.3f}" for result in results.values()) + " |")


if __name__ == "__main__":
    main()
