"""Brings the codes of all shards together in one index that is searched.

A shard's file is what `index.building.write_codes` wrote.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.building import CODES_COMPRESSION, check_matches, inverted_file, reading, untyped
from index.errors import CorruptIndex
from index.spec import IndexSpec

Mask = npt.NDArray[np.bool_]

DIGEST_BYTES = hashlib.sha256().digest_size


def merged_codes(trained: Path, shards: Sequence[tuple[Path, Mask]], spec: IndexSpec) -> Any:
    """Load every shard's codes into one index whose ids are the live rows of the version.

    One index rather than one a shard: a query is then assigned to its lists once, not once a shard.

    Raises:
        CorruptIndex: a file can't be read, has other rows than its mask, or is of other quantizers.
    """
    merged = _read_index(trained, spec)
    into = inverted_file(merged)
    quantizers = hashlib.sha256(trained.read_bytes()).digest()
    start = 0
    for path, live in shards:
        _merge_lists(path, into, quantizers, start, len(live), spec)
        start += len(live)
    if shards:
        _drop_masked(into, np.concatenate([live for _, live in shards]))
    return merged


def _merge_lists(path: Path, into: Any, quantizers: bytes, start: int, rows: int, spec: IndexSpec) -> None:
    """Append a shard's lists, its ids moved by `start`."""
    content = _decompressed(path)
    if content[:DIGEST_BYTES] != quantizers:
        raise CorruptIndex(f"{path} was encoded by other quantizers than the version's")
    reader = faiss.VectorIOReader()
    faiss.copy_array_to_vector(np.frombuffer(content[DIGEST_BYTES:], dtype=np.uint8), reader.data)
    try:
        with reading(len(content), spec):
            lists: Any = untyped.read_InvertedLists(reader)
    except (RuntimeError, MemoryError) as error:
        raise CorruptIndex(f"{path} cannot be read: {error}") from error
    owner = _owner(lists)
    _check_lists(path, untyped.downcast_InvertedLists(lists), untyped.downcast_InvertedLists(into.invlists), rows)
    into.invlists.merge_from(owner.invlists, start)
    into.ntotal += rows


def _owner(lists: Any) -> Any:
    """An index that deletes the lists when it goes: Python would leak them, and crashes where it is told to delete."""
    owner: Any = faiss.IndexIVFFlat(faiss.IndexFlatL2(1), 1, lists.nlist)
    owner.code_size = lists.code_size
    owner.replace_invlists(lists, True)
    return owner


def _check_lists(path: Path, lists: Any, expected: Any, rows: int) -> None:
    """The sizes that faiss believes without looking, and that reach beyond its memory when wrong."""
    names = ("nlist", "code_size", "n_per_block", "block_size")
    found = {name: (getattr(expected, name), getattr(lists, name, None)) for name in names if hasattr(expected, name)}
    found["type"] = (type(expected).__name__, type(lists).__name__)
    found["rows"] = (rows, lists.compute_ntotal())
    wrong = [f"expected {a} {name}, found {b}" for name, (a, b) in found.items() if a != b]
    if wrong:
        raise CorruptIndex(f"{path}: {'; '.join(wrong)}")


def _decompressed(path: Path) -> bytes:
    try:
        with pa.OSFile(str(path), "rb") as file, pa.CompressedInputStream(file, CODES_COMPRESSION) as compressed:
            content: bytes = compressed.read()
    except (OSError, pa.ArrowException) as error:
        raise CorruptIndex(f"{path} cannot be read: {error}") from error
    if len(content) <= DIGEST_BYTES:
        raise CorruptIndex(f"{path} cannot be read: it holds {len(content)} bytes")
    return content


def _drop_masked(inverted: Any, live: Mask) -> None:
    """Remove the codes of masked rows and number the others without gaps, so that a search needs no mask."""
    if live.all():
        return
    inverted.remove_ids(untyped.IDSelectorBitmap(np.packbits(~live, bitorder="little")))
    numbers = np.cumsum(live) - 1
    lists: Any = untyped.downcast_InvertedLists(inverted.invlists)
    for number in range(inverted.nlist):
        if size := lists.list_size(number):
            ids = untyped.rev_swig_ptr(lists.get_ids(number), size)  # faiss's own memory
            ids[:] = numbers[ids]


def _read_index(path: Path, spec: IndexSpec) -> Any:
    try:
        with reading(path.stat().st_size, spec):
            index = faiss.read_index(str(path))
    except (OSError, RuntimeError, MemoryError) as error:
        raise CorruptIndex(f"{path} cannot be read: {error}") from error
    try:
        check_matches(index, spec)
    except CorruptIndex as error:
        raise CorruptIndex(f"{path}: {error}") from error
    return index
