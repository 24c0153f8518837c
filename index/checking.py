"""Vectors as an index compares them, and the check that they and their keys can be used.

faiss accepts NaN, zero vectors and values beyond fp16 in silence, so they are refused before it sees them.

Shapes: N rows, D dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike

from index.arrays import Floats, Rows, blocks
from index.errors import BadVectors
from index.spec import IndexSpec

FP16_MAX = 65_504.0


def as_compared(vectors: Floats, spec: IndexSpec) -> Floats:
    """Vectors as they are compared: of length 1 under cosine, unchanged under euclidean."""
    if spec.metric == "euclidean":
        return np.ascontiguousarray(vectors, dtype=np.float32)
    unit = np.empty(vectors.shape, dtype=np.float32)
    for block in blocks(*vectors.shape):  # the division is done in float64, of which a training sample has too much
        # In float64: the square of 1e-30 is 0 in float32, and a tiny vector still has a direction.
        squared = np.einsum("nd,nd->n", vectors[block], vectors[block], dtype=np.float64)
        unit[block] = vectors[block] / np.sqrt(squared)[:, None]
    return unit


def of_dimension(vectors: ArrayLike, spec: IndexSpec) -> Floats:
    """The vectors as float32. Raises BadVectors where they are not of shape N×D."""
    array = np.asarray(vectors, dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != spec.dimension:
        raise BadVectors(f"expected vectors of shape (N, {spec.dimension}), found {array.shape}")
    return array


def refuse_bad_rows(vectors: Floats, spec: IndexSpec, name: Callable[[int], str]) -> None:
    """Raise BadVectors where a row cannot be compared; `name` says in the error which vector a row is."""
    bad: dict[str, list[int]] = {}
    for block in blocks(*vectors.shape):
        for reason, rows in bad_rows(vectors[block], spec).items():
            bad.setdefault(reason, []).extend((rows + block.start).tolist())
    if bad:
        raise BadVectors("; ".join(_some(rows, reason, name) for reason, rows in bad.items()))


def bad_rows(vectors: Floats, spec: IndexSpec) -> dict[str, Rows]:
    """The rows that cannot be compared, by reason."""
    finite = np.isfinite(vectors).all(axis=1)
    bad = {"NaN or infinite": ~finite}
    if spec.metric == "cosine":
        bad["all zero"] = finite & ~vectors.any(axis=1)
    else:
        bad["too large for fp16"] = finite & (np.abs(vectors) > FP16_MAX).any(axis=1)
    return {reason: np.flatnonzero(rows) for reason, rows in bad.items() if rows.any()}


def check_keys(keys: pa.Table, rows: int) -> None:
    """Raise BadVectors unless there are so many image_keys, all of them strings and each there once."""
    if "image_key" not in keys.column_names:
        raise BadVectors(f"keys have no column image_key, only {keys.column_names}")
    if keys.num_rows != rows:
        raise BadVectors(f"{rows} vectors but {keys.num_rows} keys")
    names = keys["image_key"]
    if not (pa.types.is_string(names.type) or pa.types.is_large_string(names.type)):
        raise BadVectors(f"image_key: expected strings, found {names.type}")
    if names.null_count:
        raise BadVectors(f"{names.null_count} of {rows} image_keys are missing")
    repeated = repeated_keys(names)
    if repeated:
        raise BadVectors(_some(list(range(len(repeated))), "duplicate image_keys", lambda i: repr(repeated[i])))


def repeated_keys(names: pa.ChunkedArray) -> list[str]:
    """The keys that are there more than once."""
    if pc.count_distinct(names).as_py() == len(names):
        return []
    counts = pc.value_counts(names)
    repeated = pc.filter(counts.field("values"), pc.greater(counts.field("counts"), 1))
    return [str(name) for name in repeated.to_pylist()]


def _some(rows: list[int], what: str, name: Callable[[int], str]) -> str:
    """How many rows there are of what, and the names of the first three."""
    return f"{len(rows)} {what}: {', '.join(map(name, rows[:3]))}{', …' if len(rows) > 3 else ''}"
