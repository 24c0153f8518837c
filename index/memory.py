"""How much memory the building and the searching of an index takes, said before either starts.

Estimates are upper bounds of what a process holds for itself. Memory-mapped vectors are not counted: the system
keeps them while it has room and drops them when it has none.
"""

from dataclasses import dataclass

from index.arrays import BLOCK_BYTES
from index.spec import PQ_CENTROIDS, IndexSpec

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
    searching = searching_bytes(spec, rows)
    return Memory(
        training=training_bytes(spec, training_rows),
        encoding=encoding_bytes(spec, shard_rows),
        searching=searching,
        measuring=searching + queries * (8 * spec.dimension + QUERY_RESULTS) + 2 * BLOCK_BYTES,
    )


def training_bytes(spec: IndexSpec, rows: int) -> int:
    """The sample as read, as compared and, twice, as encoded: k-means keeps a copy."""
    if spec.kind == "flat" or not rows:
        return 0
    return rows * (2 * 4 * spec.dimension + 2 * 4 * spec.encoded_dimension) + _overhead(spec, rows)


def encoding_bytes(spec: IndexSpec, rows: int) -> int:
    """A shard's vectors and keys, its codes, and the blocks that are normalised."""
    if not rows:
        return 0
    return rows * (4 * spec.dimension + 2 * spec.code_bytes + KEY_BYTES) + _overhead(spec, rows)


def searching_bytes(spec: IndexSpec, rows: int) -> int:
    """All codes, twice while shards are merged, and all keys."""
    return rows * (2 * spec.code_bytes + KEY_BYTES) + 2 * codebook_bytes(spec) + LIBRARIES


def _overhead(spec: IndexSpec, rows: int) -> int:
    """The block that is being checked and normalised, partly in float64, and the codebook."""
    return 4 * min(BLOCK_BYTES, 4 * spec.dimension * rows) + 2 * codebook_bytes(spec) + LIBRARIES


def codebook_bytes(spec: IndexSpec) -> int:
    """The rotation and the centroids."""
    if spec.kind == "flat":
        return 0
    rotation = 4 * (spec.pca or 0) * (spec.dimension + 1)
    centroids = 4 * spec.encoded_dimension * (spec.nlist + (PQ_CENTROIDS))
    return rotation + centroids
