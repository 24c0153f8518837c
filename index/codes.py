"""The codes of a shard as a file, and the codes of all shards as the one index that is searched.

A file is the sha256 of the codebook and then faiss's inverted lists, compressed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from index.arrays import Mask
from index.errors import CorruptIndex
from index.faiss_index import inverted_file, read_codebook, reading, untyped
from index.spec import IndexSpec

COMPRESSION = "zstd"
DIGEST_BYTES = hashlib.sha256().digest_size


def write_codes(path: Path, index: Any, codebook: bytes) -> None:
    """Write the lists of an index that `codebook` became when rows were added to it.

    The codebook itself lies beside the shards, once. Compressed, because the lists of a small shard are mostly the
    padding of their blocks.
    """
    writer = faiss.VectorIOWriter()
    untyped.write_InvertedLists(inverted_file(index).invlists, writer)
    with pa.OSFile(str(path), "wb") as file, pa.CompressedOutputStream(file, COMPRESSION) as compressed:
        compressed.write(hashlib.sha256(codebook).digest())
        compressed.write(pa.py_buffer(faiss.vector_to_array(writer.data)))


def merged_codes(codebook: Path, shards: Sequence[tuple[Path, Mask]], spec: IndexSpec) -> Any:
    """Load every shard's codes into one index whose ids are the live rows of the version.

    One index rather than one a shard: a query is then assigned to its lists once, not once a shard.

    Raises:
        CorruptIndex: a file can't be read, has other rows than its mask, or is of another codebook.
    """
    try:
        content = codebook.read_bytes()
        merged = read_codebook(content, spec)
    except OSError as error:
        raise CorruptIndex(f"{codebook} cannot be read: {error}") from error
    except CorruptIndex as error:
        raise CorruptIndex(f"{codebook}: {error}") from error
    into = inverted_file(merged)
    digest = hashlib.sha256(content).digest()
    start = 0
    for path, live in shards:
        owner = _read_lists(path, digest, spec)
        _check_lists(path, owner.invlists, into.invlists, len(live))
        into.invlists.merge_from(owner.invlists, start)
        into.ntotal += len(live)
        start += len(live)
    if shards:
        _drop_deleted(into, np.concatenate([live for _, live in shards]))
    return merged


def _read_lists(path: Path, digest: bytes, spec: IndexSpec) -> Any:
    """A shard's lists, in an index that deletes them when it goes.

    Python would leak the lists themselves, and crashes where it is told to delete them.
    """
    content = _decompressed(path)
    if content[:DIGEST_BYTES] != digest:
        raise CorruptIndex(f"{path} was encoded by another codebook than the version's")
    reader = faiss.VectorIOReader()
    faiss.copy_array_to_vector(np.frombuffer(content[DIGEST_BYTES:], dtype=np.uint8), reader.data)
    try:
        with reading(len(content), spec):
            lists: Any = untyped.read_InvertedLists(reader)
    except (RuntimeError, MemoryError) as error:
        raise CorruptIndex(f"{path} cannot be read: {error}") from error
    owner: Any = faiss.IndexIVFFlat(faiss.IndexFlatL2(1), 1, lists.nlist)
    owner.code_size = lists.code_size
    owner.replace_invlists(lists, True)
    return owner


def _check_lists(path: Path, lists: Any, expected: Any, rows: int) -> None:
    """The sizes that faiss believes without looking, and that reach beyond its memory when wrong."""
    lists, expected = untyped.downcast_InvertedLists(lists), untyped.downcast_InvertedLists(expected)
    names = ("nlist", "code_size", "n_per_block", "block_size")
    sizes = {name: (getattr(expected, name), getattr(lists, name, None)) for name in names}
    sizes["type"] = (type(expected).__name__, type(lists).__name__)
    sizes["rows"] = (rows, lists.compute_ntotal())
    wrong = [f"expected {a} {name}, found {b}" for name, (a, b) in sizes.items() if a != b]
    if wrong:
        raise CorruptIndex(f"{path}: {'; '.join(wrong)}")


def _decompressed(path: Path) -> bytes:
    try:
        with pa.OSFile(str(path), "rb") as file, pa.CompressedInputStream(file, COMPRESSION) as compressed:
            content: bytes = compressed.read()
    except (OSError, pa.ArrowException) as error:
        raise CorruptIndex(f"{path} cannot be read: {error}") from error
    if len(content) <= DIGEST_BYTES:
        raise CorruptIndex(f"{path} cannot be read: it holds {len(content)} bytes")
    return content


def _drop_deleted(inverted: Any, live: Mask) -> None:
    """Remove the codes of deleted rows and number the others without gaps, so that a search needs no mask."""
    if live.all():
        return
    inverted.remove_ids(untyped.IDSelectorBitmap(np.packbits(~live, bitorder="little")))
    numbers = np.cumsum(live) - 1
    lists: Any = untyped.downcast_InvertedLists(inverted.invlists)
    for number in range(inverted.nlist):
        if size := lists.list_size(number):
            ids = untyped.rev_swig_ptr(lists.get_ids(number), size)  # faiss's own memory
            ids[:] = numbers[ids]
