"""Opens the files of a version: vectors memory-mapped, keys and codes in memory, each held against the others.

Their checksums are verified by whoever fetched them; this finds what contradicts, and never crashes on what is damaged.
"""

from __future__ import annotations

import logging
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from index.arrays import Halves, Mask
from index.codes import merged_codes
from index.deletions import live_rows
from index.description import IndexDescription
from index.errors import CorruptIndex
from index.key_table import KeyTable
from index.spec import IndexSpec
from index.stored_vectors import StoredVectors

logger = logging.getLogger(__name__)


def open_shards(directory: Path, description: IndexDescription) -> tuple[StoredVectors, KeyTable, Any]:
    """The live rows of a version: their vectors, their keys and, unless flat, the index of their codes.

    Raises:
        CorruptIndex: a file is missing, cut short, or contradicts the others.
    """
    spec = description.spec
    names = [shard.files(spec) for shard in description.shards]
    vectors = [_read_vectors(directory / files[0], spec) for files in names]
    for files, shard, held in zip(names, description.shards, vectors, strict=True):
        _expect_rows(directory / files[0], len(held), shard.rows)
    live = _read_live(directory, description)
    tables = []
    for files, mask in zip(names, live, strict=True):
        table = _read_table(directory / files[1], ("image_key",))
        _expect_rows(directory / files[1], table.num_rows, len(mask))
        tables.append(table if mask.all() else table.filter(pa.array(mask)))
    keys = _one_table(tables, directory)
    _expect_rows(directory, len(keys), description.rows)
    codes = None
    if description.codebook is not None:
        coded = [(directory / files[2], mask) for files, mask in zip(names, live, strict=True)]
        codes = merged_codes(directory / description.codebook.path, coded, spec)
    logger.info("opened %s: %d rows, %s", directory, len(keys), spec.factory_string())
    stored = StoredVectors(vectors, live, unit=spec.metric == "cosine", copied=codes is None)
    return stored, keys, codes


def _expect_rows(path: Path, rows: int, expected: int) -> None:
    if rows != expected:
        raise CorruptIndex(f"{path}: expected {expected} rows, found {rows}")


def _read_vectors(path: Path, spec: IndexSpec) -> Halves:
    try:
        # Not np.load: it falls back to zip and pickle by what the first bytes say.
        vectors = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError) as error:  # its header is Python
        raise CorruptIndex(f"{path} cannot be read: {error}") from error
    if vectors.dtype != np.float16 or vectors.ndim != 2 or vectors.shape[1] != spec.dimension:
        raise CorruptIndex(
            f"{path}: expected float16 of (N, {spec.dimension}), found {vectors.dtype} of {vectors.shape}"
        )
    return vectors.view(np.ndarray)  # np.memmap's own indexing costs more than the rows it fetches


def _read_live(directory: Path, description: IndexDescription) -> list[Mask]:
    """One bool a row of each shard: whether search may return it."""
    counts = [shard.rows for shard in description.shards]
    if description.deleted is None:
        return [np.ones(count, dtype=np.bool_) for count in counts]
    path = directory / description.deleted
    return live_rows(_read_table(path, ("shard", "row")), counts, str(path))


def _read_table(path: Path, required: tuple[str, ...]) -> pa.Table:
    try:
        # Not memory-mapped: a file cut short later would then end the process with SIGBUS.
        table = parquet.read_table(path, memory_map=False, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise CorruptIndex(f"{path} cannot be read: {error}") from error
    for name in required:
        if name not in table.column_names:
            raise CorruptIndex(f"{path} has no column {name}, only {table.column_names}")
    return table


def _one_table(tables: list[pa.Table], directory: Path) -> KeyTable:
    if not tables:
        return KeyTable(pa.table({"image_key": pa.array([], pa.string())}))
    try:
        table = KeyTable(pa.concat_tables(tables, promote_options="default"))
    except pa.ArrowException as error:
        raise CorruptIndex(f"{directory}: the shards' keys have different columns: {error}") from error
    repeated = table.repeated()
    if repeated:
        raise CorruptIndex(f"{directory}: {len(repeated)} image_keys are there twice, such as {repeated[0]!r}")
    return table
