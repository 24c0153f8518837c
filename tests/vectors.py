"""Vectors that look like a network's embeddings, and small indexes of them, for the tests of `index/`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from index.arrays import Floats
from index.faiss_index import set_threads
from index.searching import Searcher
from index.shards import write_index
from index.spec import IndexSpec

set_threads(1)  # the default spins on cores that other tests use


def clustered(count: int, dimension: int, *, seed: int, clusters: int = 40, spread: float = 0.5) -> Floats:
    """Unit vectors, none negative, in clusters: what pooling after a ReLU gives. Shape count×dimension.

    Inside a cluster they vary in few directions, as a network's embeddings do; without that, neighbours are
    equally far and nothing that compresses can find them.
    """
    random = np.random.default_rng(seed)
    centres = random.standard_normal((clusters, dimension))
    directions = random.standard_normal((max(2, dimension // 8), dimension))
    noise = spread * random.standard_normal((count, len(directions))) @ directions / np.sqrt(len(directions))
    vectors = np.maximum(centres[random.integers(clusters, size=count)] + noise, 0) + 1e-4
    unit: Floats = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def as_found(vectors: Floats) -> Floats:
    """Unit vectors as an index gives them back: rounded to fp16, and of length 1 again."""
    rounded = vectors.astype(np.float16).astype(np.float32)
    unit: Floats = rounded / np.linalg.norm(rounded, axis=-1, keepdims=True)
    return unit


def keys_for(count: int, *, first: int = 0) -> pa.Table:
    """Keys with the columns that the pipeline writes."""
    rows = range(first, first + count)
    return pa.table(
        {
            "image_key": pa.array([f"shop/{row:06d}.jpg" for row in rows], pa.string()),
            "product_id": pa.array([None if row % 3 else f"p{row}" for row in rows], pa.string()),
            "sha256": pa.array([f"{row:064x}" for row in rows], pa.string()),
        }
    )


def ivfpq(dimension: int = 64, *, nlist: int = 32, **others: object) -> IndexSpec:
    """A spec that keeps lists and codes where `for_catalogue` would choose flat."""
    settings = {"pca": dimension // 2, "pq_subquantizers": dimension // 4, **others}
    return IndexSpec("ivfpq", dimension, nlist=nlist, **settings)  # type: ignore[arg-type]


def build(
    directory: Path,
    vectors: Floats,
    spec: IndexSpec,
    *,
    shards: Sequence[int] | None = None,
    nprobe: int = 8,
    keys: pa.Table | None = None,
) -> Searcher:
    """Write an index of `vectors`, cut into shards of the given sizes, and open it."""
    keys = keys_for(len(vectors)) if keys is None else keys
    write_index(directory, vectors, keys, spec, shards=shards, seed=1, nprobe=nprobe, look_version=7)
    return Searcher.open(directory)
