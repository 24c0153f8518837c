"""faiss's own index behind an IndexSpec: its parts, and how its bytes are read without being trusted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np

from index.arrays import Floats
from index.errors import CorruptIndex
from index.spec import CODE_BITS, PQ_CENTROIDS, IndexSpec

untyped: Any = faiss  # whose stubs are stricter than the library, or wrong, where this name is used

_byte_limit = threading.Lock()


def set_threads(count: int) -> None:
    """Set how many threads faiss uses for what the calling thread asks of it.

    OpenMP keeps the number for each thread, so a pool's workers set it themselves. More than there are free
    cores is slow: they spin while they wait, unless OMP_WAIT_POLICY=passive was set before the process began.
    """
    faiss.omp_set_num_threads(count)


def inverted_file(index: Any) -> Any:
    """The inverted file itself, without the rotation in front of it.

    It belongs to `index`, which must outlive it: what `downcast_index` returns owns nothing, and outliving
    its owner is a segmentation fault.
    """
    return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index


def to_encoded(index: Any, vectors: Floats) -> Floats:
    """Apply the rotation in front of the inverted file, if there is one: N×D to N×encoded dimension."""
    if not isinstance(index, untyped.IndexPreTransform):
        return vectors
    encoded: Floats = untyped.downcast_VectorTransform(index.chain.at(0)).apply(vectors)
    return encoded


def read_codebook(codebook: bytes, spec: IndexSpec) -> Any:
    """The empty index that `train_codebook` serialized.

    Raises:
        CorruptIndex: not an index, or not the one that `spec` describes.
    """
    try:
        with reading(len(codebook), spec):
            index = faiss.deserialize_index(np.frombuffer(codebook, dtype=np.uint8))
    except (RuntimeError, MemoryError) as error:
        raise CorruptIndex(f"the codebook cannot be read: {error}") from error
    _check_parts(index, spec)
    return index


def _check_parts(index: Any, spec: IndexSpec) -> None:
    """Raise CorruptIndex unless a faiss index has the parts that `spec` names."""
    inverted = inverted_file(index)
    if not isinstance(inverted, untyped.IndexIVFPQFastScan):
        raise CorruptIndex(f"expected {spec.factory_string()}, found a {type(inverted).__name__}")
    lists: Any = untyped.downcast_InvertedLists(inverted.invlists)
    if not isinstance(lists, untyped.BlockInvertedLists):
        raise CorruptIndex(f"expected lists of blocks, found {type(lists).__name__}")
    # The last ones are sizes that faiss believes without looking, and that reach beyond its memory when wrong.
    sizes = {
        "dimension": (spec.dimension, index.d),
        "encoded dimension": (spec.encoded_dimension, inverted.d),
        "lists": (spec.nlist, inverted.nlist),
        "trained": (True, inverted.is_trained),
        "lists stored": (spec.nlist, lists.nlist),
        "rows": (index.ntotal, lists.compute_ntotal()),
        "sub-quantizers": (spec.pq_subquantizers, inverted.pq.M),
        "bits": (CODE_BITS, inverted.pq.nbits),
        "block": ((inverted.bbs, inverted.bbs * inverted.M2 // 2), (lists.n_per_block, lists.block_size)),
    }
    wrong = [f"{name}: expected {a}, found {b}" for name, (a, b) in sizes.items() if a != b]
    if wrong:
        raise CorruptIndex("; ".join(wrong))


@contextmanager
def reading(file_bytes: int, spec: IndexSpec) -> Iterator[None]:
    """While faiss reads a file: allow no vector longer than the file, or than the table it checks for.

    Without the limit a damaged length is allocated, up to 1 TiB. The limit is the process's, hence the lock. faiss
    refuses an index whose table of every code against every list would exceed the limit, though it makes none here.
    """
    table_bytes = 4 * spec.nlist * spec.pq_subquantizers * PQ_CENTROIDS
    with _byte_limit:
        before = faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_vector_byte_limit(file_bytes + table_bytes + 1)
        try:
            yield
        finally:
            faiss.set_deserialization_vector_byte_limit(before)
