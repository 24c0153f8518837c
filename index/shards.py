"""Writes the files of a version: one shard at a time, or a whole index of vectors that lie at hand.

A shard's files never change. Another version may name them again, where they lie, and list which of their rows are
deleted. Knows local directories only; everything is checked before anything is written.

Shapes: N rows, D dimension.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike
from pyarrow import parquet

from index.arrays import Floats, blocks
from index.checking import as_compared, check_keys, of_dimension, refuse_bad_rows
from index.codebook import mean_coarse_distance, train_codebook, write_codebook
from index.codes import write_codes
from index.description import CodebookHistory, IndexDescription, IndexShard, write_description
from index.faiss_index import read_codebook
from index.spec import IndexSpec

logger = logging.getLogger(__name__)

DISTANCE_ROWS = 2048  # of the training sample, whose distance to the centroids is remembered


class Sliceable(Protocol):
    """Vectors N×D that are read by slices of rows: an array, a memory-mapped file, or what reads one."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, rows: slice, /) -> Any:
        """Some of them, as an array."""


def write_index(
    directory: Path,
    vectors: Sliceable,
    keys: pa.Table,
    spec: IndexSpec,
    *,
    shards: Sequence[int] | None = None,
    seed: int = 0,
    nprobe: int = 32,
    look_version: int = 1,
) -> IndexDescription:
    """Write a whole index: the codebook, trained on evenly spread rows, the shards and `index.json`.

    Args:
        directory: of the version; made where there is none.
        vectors: N×D, read a shard at a time.
        keys: N rows, see `write_shard`.
        spec: the parts, such as `IndexSpec.for_catalogue` chooses.
        shards: how many rows each shard holds; one shard of all rows by default.
        seed: of the codebook's training.
        nprobe: lists that a search looks in by default.
        look_version: the look model that made the vectors.

    Raises:
        BadVectors: as `train_codebook` and `write_shard`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    codebook, history = None, None
    if spec.kind != "flat":
        sample = vectors[:: max(1, len(vectors) // spec.training_rows)][: spec.training_rows]
        codebook = train_codebook(sample, spec, seed=seed)
        distance = mean_coarse_distance(codebook, sample[:DISTANCE_ROWS], spec)
        history = CodebookHistory(write_codebook(directory, codebook), 1, "the first", len(sample), distance)
    written = [
        write_shard(directory, number, vectors[start:end], keys.slice(start, end - start), codebook, spec)
        for number, (start, end) in enumerate(pairwise(accumulate([0, *(shards or [len(vectors)])])))
    ]
    rows = sum(shard.rows for shard in written)
    description = IndexDescription(spec, rows, tuple(written), look_version, "", nprobe=nprobe, codebook=history)
    write_description(directory, description)
    return description


def write_shard(
    directory: Path, number: int, vectors: ArrayLike, keys: pa.Table, codebook: bytes | None, spec: IndexSpec
) -> IndexShard:
    """Check and write one shard; row i of `vectors` belongs to row i of `keys`.

    Args:
        directory: exists; holds all shards of one version.
        number: from 0, among the shards that this version writes.
        vectors: N×D; normalised here when the metric is cosine.
        keys: N rows; `image_key` is required, other columns pass through.
        codebook: what `train_codebook` returned; None for flat.
        spec: the same for every shard of a version.

    Raises:
        BadVectors: a wrong shape or length, NaN or infinity, a zero vector under cosine, values beyond fp16,
            a key that is missing or there twice. Nothing is written then.
    """
    if (codebook is None) != (spec.kind == "flat"):
        raise ValueError(f"a {spec.kind} index {'needs' if codebook is None else 'has no'} codebook")
    rows = of_dimension(vectors, spec)
    check_keys(keys, len(rows))
    refuse_bad_rows(rows, spec, lambda row: repr(keys["image_key"][row].as_py()))
    index = None if codebook is None else read_codebook(codebook, spec)
    shard = IndexShard(f"shard-{number:05d}", len(rows))
    files = shard.files(spec)
    _write_vectors(directory / files[0], rows, spec, index)
    parquet.write_table(keys, directory / files[1], compression="zstd")
    if codebook is not None:
        write_codes(directory / files[2], index, codebook)
    logger.info("wrote shard %d: %d rows of %s", number, len(rows), spec.factory_string())
    return shard


def _write_vectors(path: Path, vectors: Floats, spec: IndexSpec, index: Any | None) -> None:
    """Write the vectors as fp16 and add them to `index`, a block at a time."""
    store = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=vectors.shape)
    for block in blocks(*vectors.shape):
        compared = as_compared(vectors[block], spec)
        store[block] = compared
        if index is not None:
            index.add(compared)
    store.flush()
