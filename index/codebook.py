"""Trains the codebook that every shard of a version is encoded with: the rotation, the lists' centroids, the codes'.

It is an empty faiss index, serialized. It is trained once and serves night after night; `mean_coarse_distance` tells
when what comes in no longer fits it.

Shapes: N rows, D dimension.
"""

from __future__ import annotations

from pathlib import Path

import faiss
from numpy.typing import ArrayLike

from index.checking import as_compared, of_dimension, refuse_bad_rows
from index.errors import BadVectors
from index.faiss_index import inverted_file, read_codebook, to_encoded
from index.spec import IndexSpec

CODEBOOK = "codebook.faiss"


def train_codebook(sample: ArrayLike, spec: IndexSpec, *, seed: int) -> bytes:
    """Learn the rotation, the lists and the codes of `spec`; return the empty index, serialized.

    Train once and hand the same bytes to every `write_shard`: PCA differs in its last bits with the number of
    threads, and shards of different trainings do not merge.

    Args:
        sample: N×D, about `spec.training_rows` rows.
        spec: of kind pq or ivfpq.
        seed: of k-means.

    Raises:
        BadVectors: bad values, or too few rows for the spec.
    """
    if spec.kind == "flat":
        raise ValueError("a flat index has nothing to train")
    vectors = of_dimension(sample, spec)
    if len(vectors) < spec.minimum_training_rows:
        raise BadVectors(
            f"{spec.factory_string()} needs at least {spec.minimum_training_rows} training rows, found {len(vectors)}"
        )
    refuse_bad_rows(vectors, spec, lambda row: f"training row {row}")
    index = faiss.index_factory(spec.dimension, spec.factory_string(), faiss.METRIC_L2)
    inverted = inverted_file(index)
    inverted.cp.seed = inverted.pq.cp.seed = seed
    # Codes of the vectors themselves, not of what is left beyond their list's centroid: a query's table of
    # distances is then computed once, not once a list, which took longer than reading the codes.
    inverted.by_residual = False
    index.train(as_compared(vectors, spec))
    return bytes(faiss.serialize_index(index).tobytes())


def write_codebook(directory: Path, codebook: bytes) -> str:
    """Write the codebook beside the shards that it encodes; return the file's name."""
    (directory / CODEBOOK).write_bytes(codebook)
    return CODEBOOK


def mean_coarse_distance(codebook: bytes, vectors: ArrayLike, spec: IndexSpec) -> float:
    """The mean squared distance of vectors to their list's centroid.

    Compare new rows with the training sample: above 1.2 times, the codebook no longer fits what comes in,
    which the recall over all rows hides for a long time.
    """
    index = read_codebook(codebook, spec)
    encoded = to_encoded(index, as_compared(of_dimension(vectors, spec), spec))
    distances, _ = inverted_file(index).quantizer.search(encoded, 1)
    return float(distances.mean())
