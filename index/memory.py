"""How much memory the building and the searching of an index takes, said before either starts.

Estimates are upper bounds of what a process holds for itself. Memory-mapped vectors are not counted: the system
keeps them while it has room and drops them when it has none.
"""

from __future__ import annotations

from dataclasses import dataclass

from index.arrays import BLOCK_BYTES
from index.spec import PQ_CENTROIDS, IndexSpec
from index.stored_vectors import COPIED_BYTES

KEY_BYTES = 250  # a row of keys and columns as Arrow, twice: once read, once joined
LIBRARIES = 64 << 20  # what allocators and thread pools keep for themselves, whatever the size
QUERY_RESULTS = 1 << 10  # bytes a query: candidates and distances


@dataclass(frozen=True)
class Memory:
    """Peak bytes of each step; 0 where it is not taken."""

    training: int
    encoding: int  # of one shard
    searching: int  # an open index
    measuring: int  # the same, with the queries held out


def estimate(spec: IndexSpec, *, rows: int, training_rows: int, shard_rows: int, queries: int) -> Memory:
    """Peak memory for an index of `rows` rows, of which `shard_rows` at most are encoded at a time."""
    codebook = _codebook_bytes(spec)

    def blockwise(rows: int) -> int:
        """The block that is being checked and normalised, partly in float64, and the codebook."""
        return 4 * min(BLOCK_BYTES, 4 * spec.dimension * rows) + 2 * codebook + LIBRARIES

    # The sample as read, as compared and, twice, as encoded: k-means keeps a copy.
    training = training_rows * (2 * 4 * spec.dimension + 2 * 4 * spec.encoded_dimension) + blockwise(training_rows)
    # A shard's vectors and keys, and its codes.
    encoding = shard_rows * (4 * spec.dimension + 2 * spec.code_bytes + KEY_BYTES) + blockwise(shard_rows)
    # All codes, twice while shards are merged, or where there are none a copy of the vectors; and all keys.
    copied = 2 * spec.dimension * rows if spec.kind == "flat" else 0
    searching = rows * (2 * spec.code_bytes + KEY_BYTES) + 2 * codebook + LIBRARIES
    searching += copied if copied <= COPIED_BYTES else 0
    return Memory(
        training=training if training_rows and spec.kind != "flat" else 0,
        encoding=encoding if shard_rows else 0,
        searching=searching,
        measuring=searching + queries * (8 * spec.dimension + QUERY_RESULTS) + 2 * BLOCK_BYTES,
    )


def _codebook_bytes(spec: IndexSpec) -> int:
    """The rotation and the centroids."""
    if spec.kind == "flat":
        return 0
    rotation = 4 * (spec.pca or 0) * (spec.dimension + 1)
    return rotation + 4 * spec.encoded_dimension * (spec.nlist + PQ_CENTROIDS)
