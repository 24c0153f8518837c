"""How often a picture's nearest neighbours show its own product. Knows arrays only, no index.

Shapes: N pictures; E numbers an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bootstrap import group_means, middle

BOOTSTRAP = 1000
QUERY_BATCH = 256  # similarities in memory: this many times N


@dataclass(frozen=True)
class Recall:
    """Recall at one k."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Retrieval:
    """How often a picture's k nearest neighbours show its own product."""

    queries: int
    """Pictures of products with two pictures or more."""
    recall: Mapping[int, Recall]
    """The recall at each k; empty where no product has two pictures."""


def retrieval_recall(
    embeddings: NDArray[np.floating],
    groups: NDArray[Any],
    ks: Sequence[int] = (1, 5),
    *,
    bootstrap: int = BOOTSTRAP,
    seed: int = 0,
) -> Retrieval:
    """The share of queries that find a picture of their group among their k nearest by cosine.

    Every picture of a group of two or more is a query against all the others. A picture of another group that
    is exactly as near counts as nearer: embeddings that are all alike must not score.

    Args:
        embeddings: N×E of any length.
        groups: N.
        ks: how many neighbours.
        bootstrap: samples of whole groups for the intervals.
        seed: of the bootstrap.

    Raises:
        ValueError: lengths differ, an embedding is not finite, or a k is below 1.
    """
    if len(embeddings) != len(groups) or min(ks) < 1:
        raise ValueError(
            f"expected a group an embedding and every k from 1, found {len(embeddings)}, {len(groups)}, {ks}"
        )
    if not np.isfinite(embeddings).all():
        raise ValueError("expected finite embeddings, found others")
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    queries = np.flatnonzero(sizes[group] > 1)
    if not len(queries):
        return Retrieval(0, {})
    ahead = _wrong_ahead(embeddings.astype(np.float32), group, queries)
    recall = {}
    for k in ks:
        hit = ahead < k
        low, high = middle(group_means(hit, group[queries], bootstrap, seed)) or (None, None)
        recall[k] = Recall(float(hit.mean()), low, high)
    return Retrieval(len(queries), recall)


def _wrong_ahead(
    embeddings: NDArray[np.float32], group: NDArray[np.int64], queries: NDArray[np.int64]
) -> NDArray[np.int64]:
    """How many pictures of other groups are at least as near to each query as the nearest one of its own."""
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    counts = []
    for start in range(0, len(queries), QUERY_BATCH):
        batch = queries[start : start + QUERY_BATCH]
        near = unit[batch] @ unit.T
        same = group[batch, None] == group[None]
        own = same.copy()
        own[np.arange(len(batch)), batch] = False
        best = np.where(own, near, -np.inf).max(axis=1, keepdims=True)
        counts.append(((near >= best) & ~same).sum(axis=1))
    return np.concatenate(counts)
