"""How often what looks nearest is what it should be. Knows arrays and a search, no index and no network.

Two questions of each picture that asks: does a picture of its own product come among the first k, and, its product's
pictures set aside, does one of its kind? The whole catalogue answers.

Shapes: N pictures of the catalogue; Q that ask; K neighbours; E numbers an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bootstrap import group_means, middle
from model.split import position

Integers = NDArray[np.int64]
Floats = NDArray[np.floating]
Neighbours = tuple[Integers, Floats]
"""Q×K rows, the nearest first, −1 where there are no more; and how near they are, the larger the nearer."""
Search = Callable[[Integers, int], Neighbours]
"""Finds K neighbours of the pictures in these rows of the catalogue. Each may find itself or not."""

BOOTSTRAP = 1000
QUERY_BATCH = 256  # similarities in memory: this many times N
MOST_QUERIES = 2000
LARGEST_PRODUCT = 500  # pictures; those of a larger one do not ask, because the lists would have to be longer
UNKNOWN = -1


@dataclass(frozen=True)
class Recall:
    """Recall at one k."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Retrieval:
    """How many of the pictures that ask find a right one among their k nearest."""

    queries: int
    recall: Mapping[int, Recall]
    """The recall at each k; empty where nobody could ask."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, for a manifest."""
        return {"queries": self.queries, "recall": {str(k): asdict(recall) for k, recall in self.recall.items()}}


@dataclass(frozen=True)
class LookRecall:
    """What a look model finds."""

    same_product: Retrieval
    """Another picture of the product; pictures of products with two pictures or more ask."""
    same_kind: Retrieval
    """A picture of the same kind among those of other products; pictures of kinds with two products or more ask."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, for a manifest."""
        return {"same_product": self.same_product.to_dict(), "same_kind": self.same_kind.to_dict()}


class Catalogue:
    """Which pictures show one product and which one kind; None and "" are of none."""

    def __init__(self, products: Sequence[str | None], kinds: Sequence[str | None] | None = None) -> None:
        """One product, and one kind where they are given, for each of N pictures.

        Raises:
            ValueError: lengths differ.
        """
        kinds = [None] * len(products) if kinds is None else kinds
        if len(kinds) != len(products):
            raise ValueError(f"expected a kind for each of {len(products)} pictures, found {len(kinds)}")
        self.names = ["" if name is None else str(name) for name in products]
        self.product, self.kind = _numbered(products), _numbered(kinds)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sizes(self) -> Integers:
        """N: how many pictures each one's product has; 1 where it has none."""
        counts = np.bincount(self.product[self.product >= 0], minlength=1)
        return np.where(self.product == UNKNOWN, 1, counts[self.product])

    def of_several_pictures(self) -> NDArray[np.bool_]:
        """N: whether the picture's product has another one."""
        return self.sizes > 1

    def of_several_products(self) -> NDArray[np.bool_]:
        """N: whether another product is of the picture's kind."""
        # A picture without a product is a product of its own.
        product = np.where(self.product == UNKNOWN, -2 - np.arange(len(self)), self.product)
        pairs = np.unique(np.stack([self.kind, product]), axis=1)[0]
        counts = np.bincount(pairs[pairs >= 0], minlength=1)
        return np.asarray((self.kind != UNKNOWN) & (counts[self.kind] > 1))

    def asking(self, most: int, seed: int) -> Integers:
        """Rows of at most so many pictures that may ask, in order. As a catalogue grows, most of them stay the same."""
        may = (self.of_several_pictures() | self.of_several_products()) & (self.sizes <= LARGEST_PRODUCT)
        rows = np.flatnonzero(may)
        if len(rows) <= most:
            return rows
        of_product: dict[str, int] = {}
        places = []
        for row in rows.tolist():
            number = of_product[self.names[row]] = of_product.get(self.names[row], -1) + 1
            places.append(position(f"{self.names[row]}\0{number}", seed))
        return np.sort(rows[np.argsort(places, kind="stable")[:most]])


def measure_look(
    search: Search,
    catalogue: Catalogue,
    ks: Sequence[int] = (1, 5),
    *,
    most_queries: int = MOST_QUERIES,
    bootstrap: int = BOOTSTRAP,
    seed: int = 0,
) -> LookRecall:
    """Asks with a sample of the catalogue's pictures, once each.

    Args:
        search: over the whole catalogue; `exact_search`, or the index that is served.
        catalogue: what the rows show.
        ks: how many neighbours.
        most_queries: how many pictures ask at most.
        bootstrap: samples of whole products for the intervals.
        seed: of the sample and of the bootstrap.

    Raises:
        ValueError: a k is below 1.
    """
    if min(ks) < 1:
        raise ValueError(f"expected every k from 1, found {tuple(ks)}")
    queries = catalogue.asking(most_queries, seed)
    ahead = wrong_ahead(search, catalogue, queries, max(ks))
    measured = []
    for may, wrong in zip((catalogue.of_several_pictures(), catalogue.of_several_products()), ahead, strict=True):
        asked = may[queries]
        groups = np.where(catalogue.product == UNKNOWN, -2 - np.arange(len(catalogue)), catalogue.product)[queries]
        measured.append(_recall(wrong[asked], groups[asked], ks, bootstrap, seed))
    return LookRecall(*measured)


def retrieval_recall(
    embeddings: Floats, groups: NDArray[Any], ks: Sequence[int] = (1, 5), *, bootstrap: int = BOOTSTRAP, seed: int = 0
) -> Retrieval:
    """The share of pictures that find another one of their group among their k nearest by cosine; all ask.

    Raises:
        ValueError: lengths differ, an embedding is not finite, or a k is below 1.
    """
    if len(embeddings) != len(groups):
        raise ValueError(f"expected a group an embedding, found {len(embeddings)}, {len(groups)}")
    catalogue = Catalogue([str(group) for group in groups.tolist()])
    search = exact_search(embeddings)
    return measure_look(search, catalogue, ks, most_queries=len(catalogue), bootstrap=bootstrap, seed=seed).same_product


def wrong_ahead(search: Search, catalogue: Catalogue, queries: Integers, k: int) -> tuple[Integers, Integers]:
    """How many wrong pictures come before the first right one, by product and by kind, Q each: right answers below k.

    A wrong picture that is exactly as near as the right one comes first: embeddings that are all alike must not score.
    """
    if not len(queries):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    # One more than can be needed: who is as near as the last may have others as near behind it.
    wanted = min(len(catalogue), k + 1 + int(catalogue.sizes[queries].max()))
    rows, near = search(queries, wanted)
    found = (rows >= 0) & (rows != queries[:, None])
    near = np.where(rows >= 0, near, -np.inf)
    beyond = np.where(wanted < len(catalogue), near[:, -1:], -np.inf)
    product, kind = catalogue.product, catalogue.kind
    own = found & (product[rows] == product[queries, None]) & (product[queries, None] != UNKNOWN)
    others = found & ~own
    alike = others & (kind[rows] == kind[queries, None]) & (kind[queries, None] != UNKNOWN)
    return _before(near, own, others, beyond), _before(near, alike, others & ~alike, beyond)


def _before(near: Floats, right: NDArray[np.bool_], wrong: NDArray[np.bool_], beyond: Floats) -> Integers:
    best = np.where(right & (near > beyond), near, -np.inf).max(axis=1, keepdims=True)
    counts = (wrong & (near >= best)).sum(axis=1)
    return np.asarray(np.where(np.isneginf(best[:, 0]), near.shape[1], counts), dtype=np.int64)


def _recall(wrong: Integers, groups: Integers, ks: Sequence[int], bootstrap: int, seed: int) -> Retrieval:
    recall = {}
    for k in ks if len(wrong) else ():
        hit = wrong < k
        low, high = middle(group_means(hit, groups, bootstrap, seed)) or (None, None)
        recall[k] = Recall(float(hit.mean()), low, high)
    return Retrieval(len(wrong), recall)


def exact_search(embeddings: Floats) -> Search:
    """Search by cosine in N×E embeddings of any length, one after the other.

    Raises:
        ValueError: an embedding is not finite.
    """
    if not np.isfinite(embeddings).all():
        raise ValueError("expected finite embeddings, found others")
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings.astype(np.float32) / np.maximum(lengths, np.finfo(np.float32).tiny)
    return search_by(lambda queries: unit[queries] @ unit.T)


def search_by(similarity: Callable[[Integers], Floats]) -> Search:
    """Search by what a function says of some rows: how near each of the N pictures is to each, larger is nearer."""

    def search(queries: Integers, count: int) -> Neighbours:
        lists = []
        for start in range(0, len(queries), QUERY_BATCH):
            near = similarity(queries[start : start + QUERY_BATCH])
            rows = np.argpartition(-near, min(count, near.shape[1]) - 1, axis=1)[:, :count]
            rows = np.take_along_axis(rows, np.argsort(-np.take_along_axis(near, rows, 1), axis=1, kind="stable"), 1)
            lists.append((rows.astype(np.int64), np.take_along_axis(near, rows, 1)))
        return np.concatenate([rows for rows, _ in lists]), np.concatenate([near for _, near in lists])

    return search


def _numbered(names: Sequence[str | None]) -> Integers:
    """N numbers from 0, one for each name; UNKNOWN where there is none."""
    known = np.array([name not in (None, "") for name in names], dtype=bool)
    numbers = np.full(len(names), UNKNOWN, dtype=np.int64)
    if known.any():
        chosen = [str(name) for name, there in zip(names, known.tolist(), strict=True) if there]
        numbers[known] = np.unique(np.array(chosen), return_inverse=True)[1]
    return numbers
