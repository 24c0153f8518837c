"""Opens an index version in a local directory and finds the rows nearest to a query.

Two stages: 4-bit codes choose candidates, and exact distances to the fp16 vectors, memory-mapped, rank them. A search
among all rows looks in as many lists and ranks as many candidates as were measured to be enough. How near a filter's
rows lie to a query nobody has measured: there every list is looked in, and ever more candidates are ranked until more
of them change nothing. Knows rows and keys, not pictures, models or where files came from.

Shapes: Q queries, D dimension, K neighbours, R candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from index.arrays import Floats, Mask, Rows, blocks
from index.checking import as_compared, bad_rows
from index.description import IndexDescription, read_description
from index.errors import BadVectors, UnknownKey
from index.faiss_index import inverted_file, to_encoded, untyped
from index.key_table import MISSING, KeyTable
from index.opening import open_shards
from index.similar_keys import similar_keys
from index.stored_vectors import CACHED_BYTES, StoredVectors

K = 10  # neighbours that a search is judged by
MEASURED = K + 1  # that the published setting was measured for: K, and a query's own row
EXHAUSTIVE_BELOW, EXHAUSTIVE_SHARE = 1_000, 1 / 100  # kept rows that are quicker compared than all codes scanned
WATCHED = 3 * K  # nearest rows, at least, whose places tell a thorough search whether it has seen enough
CANDIDATES_EACH = 10  # that it ranks at first for each row that it watches
LATE_SHARE = 0.02  # of the rows watched may come from the farther half of the candidates
ONE_QUERY, OF_MANY_CANDIDATES, SEVERAL_QUERIES = 10, 11, 0  # faiss's names of its fast-scan loops; 0 lets it choose
MANY_CANDIDATES = 100
SPARE = 8  # candidates beyond k that faiss.knn's rounding may have ordered wrongly


@dataclass(frozen=True)
class Neighbours:
    """The nearest rows of each query, nearest first; equally near ones by row.

    `rows` is int64 Q×K. `similarity` is float32 Q×K, larger is nearer: the cosine, in [−1, 1], or minus the
    Euclidean distance.
    """

    rows: Rows
    similarity: Floats


class Searcher:
    """An open index version; safe to search from several threads. Make one with `Searcher.open`."""

    def __init__(self, description: IndexDescription, vectors: StoredVectors, keys: KeyTable, codes: Any) -> None:
        self.description = description
        self.spec = description.spec
        self.rows = description.rows
        self.table = keys.table
        self._keys = keys
        self._vectors = vectors
        self._codes = codes  # None when flat

    @classmethod
    def open(cls, directory: Path, description: IndexDescription | None = None) -> Self:
        """Open the version whose files lie in `directory`, their checksums already verified.

        `description` stands for an `index.json` that is not written yet. Loads all codes (`spec.code_bytes` a
        row) and keys into memory; vectors stay on disk.

        Raises:
            NotAnIndex: no index here, or one of another format.
            CorruptIndex: a file is missing, cut short, or contradicts the others.
        """
        description = description or read_description(directory)
        return cls(description, *open_shards(directory, description))

    def __len__(self) -> int:
        return self.rows

    def search(
        self,
        queries: ArrayLike,
        k: int,
        *,
        keep: ArrayLike | None = None,
        thorough: bool = False,
        nprobe: int | None = None,
        rerank_factor: int | None = None,
    ) -> Neighbours:
        """Find the `k` rows nearest to each query, among the rows that `keep` names.

        Exactly min(k, rows kept) neighbours come back for every query, each with a real row.

        The published setting is what was measured to be enough for at most MEASURED neighbours of the index's own
        rows, among all of them. Any other search is thorough: with a filter, wherever the kept rows lie, with a larger
        `k`, and where it is asked for, such as for a query that is like none of the rows.

        Args:
            queries: Q×D, of any length under cosine.
            k: at least 1.
            keep: one bool a row; rows that are False never come back.
            thorough: look in every list, and rank as many candidates as the search turns out to need.
            nprobe, rerank_factor: lists to look in, more where they hold fewer than `k` kept rows, and candidates for
                each neighbour; a search with either given is not thorough.

        Raises:
            BadVectors: a query of another shape, with NaN or infinity, or zero under cosine.
        """
        compared, mask = self._checked(queries, k, keep)
        kept = self.rows if mask is None else int(np.count_nonzero(mask))
        k = min(k, kept)
        is_set = nprobe is not None or rerank_factor is not None
        nprobe = _at_least_one("nprobe", nprobe, self.description.nprobe)
        factor = _at_least_one("rerank_factor", rerank_factor, self.description.rerank_factor)
        if self._codes is None or kept <= k * factor:
            return self._exhaustive(compared, k, mask)
        if not is_set and (thorough or mask is not None or k > MEASURED):
            return self._thorough(compared, k, mask, kept)
        candidates = self._candidates(compared, k, k * factor, nprobe, mask)
        return self._ranked(compared, candidates, k)

    def exact(self, queries: ArrayLike, k: int, *, keep: ArrayLike | None = None) -> Neighbours:
        """Find the same as `search` by comparing with every row: the truth to measure against."""
        compared, mask = self._checked(queries, k, keep)
        kept = self.rows if mask is None else int(np.count_nonzero(mask))
        return self._exhaustive(compared, min(k, kept), mask)

    def keys(self, rows: ArrayLike) -> pa.Table:
        """The keys and columns of rows, in the order asked for."""
        return self._keys.take(self._checked_rows(rows))

    def find(self, image_key: str) -> int:
        """The row of a picture. Raises UnknownKey where the index does not hold it."""
        return int(self.find_all([image_key])[0])

    def find_all(self, image_keys: Sequence[str]) -> Rows:
        """The rows of pictures, in the order asked for.

        Raises:
            UnknownKey: the index does not hold one of them; named are the keys that are most like it.
        """
        rows = self.rows_of(image_keys)
        for line in np.flatnonzero(rows == MISSING)[:1].tolist():
            raise UnknownKey(self._unknown(image_keys[line]))
        return rows

    def rows_of(self, image_keys: Sequence[str]) -> Rows:
        """The rows of pictures, in the order asked for; MISSING for one that the index does not hold."""
        return self._keys.find(image_keys)

    def vectors(self, rows: ArrayLike) -> Floats:
        """The vectors of rows, float32 N×D: of length 1 under cosine, to fp16's precision."""
        return self._gather(self._checked_rows(rows))

    def similarity(self, row: int, others: ArrayLike) -> Floats:
        """How near other rows are to one, float32 N: the same number that a search for it gives."""
        near: Floats = self._similarity(self.vectors([row]), self.vectors(others)[None])[0]
        return near

    def compares_all(self, keep: Mask) -> bool:
        """Whether a search with this filter compares with every kept row, and so misses nothing."""
        return self._codes is None or self._few(int(np.count_nonzero(keep)), CANDIDATES_EACH * WATCHED)

    def farthest_lists(self, row: int, share: float) -> Mask | None:
        """The rows of the lists farthest from one row, at least such a share of all; None where there are no lists."""
        if self._codes is None or self.spec.nlist == 1:
            return None
        inverted = inverted_file(self._codes)
        lists: Any = untyped.downcast_InvertedLists(inverted.invlists)
        _, order = inverted.quantizer.search(to_encoded(self._codes, self.vectors([row])), self.spec.nlist)
        keep = np.zeros(self.rows, dtype=np.bool_)
        left = share * self.rows
        for number in order[0, ::-1].tolist():
            if left <= 0:
                break
            if size := lists.list_size(number):
                keep[untyped.rev_swig_ptr(lists.get_ids(number), size)] = True
                left -= size
        return keep

    @property
    def imbalance(self) -> float:
        """How unequally long the lists are: 1 where all are alike, which a flat index is."""
        if self._codes is None or not self.rows:
            return 1.0
        lists: Any = untyped.downcast_InvertedLists(inverted_file(self._codes).invlists)
        return float(lists.imbalance_factor())

    def _checked(self, queries: ArrayLike, k: int, keep: ArrayLike | None) -> tuple[Floats, Mask | None]:
        array = np.asarray(queries, dtype=np.float32)
        if array.ndim != 2 or array.shape[1] != self.spec.dimension:
            raise BadVectors(f"expected queries of shape (Q, {self.spec.dimension}), found {array.shape}")
        for reason, rows in bad_rows(array, self.spec).items():
            raise BadVectors(f"{len(rows)} of {len(array)} queries {reason}, the first is query {rows[0]}")
        _at_least_one("k", k, k)
        mask = None if keep is None else np.asarray(keep)
        if mask is not None and (mask.dtype != np.bool_ or mask.shape != (self.rows,)):
            raise ValueError(f"keep: expected {self.rows} bools, found {mask.dtype} of {mask.shape}")
        return as_compared(array, self.spec), mask

    def _checked_rows(self, rows: ArrayLike) -> Rows:
        array = np.asarray(rows, dtype=np.int64)
        if array.ndim != 1 or (array.size and not 0 <= array.min() <= array.max() < self.rows):
            raise IndexError(f"expected a list of rows in 0..{self.rows - 1}, found {rows!r}")
        return array

    def _unknown(self, image_key: str) -> str:
        some = similar_keys(image_key, self.table["image_key"])
        hint = f"similar keys: {', '.join(map(repr, some))}" if some else "no key is like it"
        return (
            f"no picture {image_key!r} among the {self.rows} of this index ({hint}); it may have been "
            "deleted, rejected, or added since the index was built"
        )

    def _candidates(self, queries: Floats, k: int, candidates: int, nprobe: int, mask: Mask | None) -> Rows:
        """Rows whose codes are nearest, Q×R, at least k of them in each line and −1 in what is left."""
        encoded = to_encoded(self._codes, queries)
        inverted = inverted_file(self._codes)
        selector = None if mask is None else untyped.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        rows = np.full((len(queries), candidates), -1, dtype=np.int64)
        short = np.arange(len(queries))
        while short.size:
            nprobe = min(nprobe, inverted.nlist)
            # One query alone is answered list by list, a quarter quicker than by the way that lets several share
            # a list. Both find the same, so a search in another thread that meets this choice loses only time.
            one_query = ONE_QUERY if candidates < MANY_CANDIDATES else OF_MANY_CANDIDATES
            inverted.implem = one_query if short.size == 1 else SEVERAL_QUERIES
            settings = untyped.SearchParametersIVF(nprobe=nprobe, sel=selector)
            _, rows[short] = inverted.search(encoded[short], candidates, params=settings)
            if nprobe == inverted.nlist:
                break  # every kept row was seen
            short = short[(rows[short] >= 0).sum(axis=1) < k]
            nprobe *= 4
        return rows

    def _thorough(self, queries: Floats, k: int, mask: Mask | None, kept: int) -> Neighbours:
        """Rank candidates of every list, ever more of them until more change nothing.

        A query far from all that is kept has neighbours that are nearly equally far, which codes tell apart badly.
        Where they do, the nearest rows are spread over the candidates; where the farther half of them holds none, the
        codes beyond hold none either. Where most of what is kept would be ranked, all of it is compared.
        """
        rows = np.empty((len(queries), k), dtype=np.int64)
        similarity = np.empty((len(queries), k), dtype=np.float32)
        short = np.arange(len(queries))
        watched = max(k, WATCHED)
        count = CANDIDATES_EACH * watched
        while short.size and not self._few(kept, count):
            candidates = self._candidates(queries[short], watched, count, self.spec.nlist, mask)
            places, near = self._ordered(queries[short], candidates)
            rows[short], similarity[short] = np.take_along_axis(candidates, places[:, :k], axis=1), near[:, :k]
            late = (places[:, :watched] >= count // 2).sum(axis=1)
            short = short[late > LATE_SHARE * watched]
            count *= 4
        if short.size:
            rest = self._exhaustive(queries[short], k, mask)
            rows[short], similarity[short] = rest.rows, rest.similarity
        return Neighbours(rows, similarity)

    def _few(self, kept: int, candidates: int) -> bool:
        """Whether comparing with all kept rows is quicker than scanning every code and ranking so many candidates."""
        return kept <= max(EXHAUSTIVE_BELOW, EXHAUSTIVE_SHARE * self.rows, 2 * candidates)

    def _ranked(self, queries: Floats, candidates: Rows, k: int) -> Neighbours:
        """The k nearest of each query's candidates by exact distance."""
        places, similarity = self._ordered(queries, candidates)
        return Neighbours(np.take_along_axis(candidates, places[:, :k], axis=1), similarity[:, :k])

    def _ordered(self, queries: Floats, candidates: Rows) -> tuple[Rows, Floats]:
        """The places of each query's candidates, nearest first, and their similarity; row −1 is no candidate."""
        similarity = np.empty(candidates.shape, dtype=np.float32)
        for block in blocks(len(queries), candidates.shape[1] * self.spec.dimension, CACHED_BYTES):
            vectors = self._gather(np.maximum(candidates[block], 0).ravel())
            shape = (*candidates[block].shape, self.spec.dimension)
            similarity[block] = self._similarity(queries[block], vectors.reshape(shape))
        similarity[candidates < 0] = -np.inf
        order = np.lexsort((candidates, -similarity), axis=1)
        return order, np.take_along_axis(similarity, order, axis=1)

    def _similarity(self, queries: Floats, vectors: Floats) -> Floats:
        """Q×D against Q×R×D, to Q×R."""
        if self.spec.metric == "cosine":
            # One dot product a pair, not a matrix product: its last bit then depends on nothing else that is asked.
            cosine: Floats = np.vecdot(vectors, queries[:, None, :])
            return cosine.clip(-1, 1)
        apart: Floats = -np.linalg.norm(vectors - queries[:, None, :], axis=2)
        return apart

    def _exhaustive(self, queries: Floats, k: int, mask: Mask | None) -> Neighbours:
        """Compare with every kept row, a block at a time, then rank by the same distances as `_ranked`."""
        if not k or not len(queries):
            return Neighbours(np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32))
        if (rows := self._vectors.nearest(queries, k, mask)) is not None:
            return self._ranked(queries, rows, k)
        candidates = k + SPARE
        metric = faiss.METRIC_INNER_PRODUCT if self.spec.metric == "cosine" else faiss.METRIC_L2
        sign = -1 if self.spec.metric == "cosine" else 1
        distances = np.empty((len(queries), 0), dtype=np.float32)
        rows = np.empty((len(queries), 0), dtype=np.int64)
        for block_rows, vectors in self._vectors.blocks(mask):
            near, at = faiss.knn(queries, vectors, min(candidates, len(vectors)), metric=metric)
            distances = np.hstack([distances, sign * near])
            rows = np.hstack([rows, block_rows[at]])
            nearest = np.argsort(distances, axis=1, kind="stable")[:, :candidates]
            distances = np.take_along_axis(distances, nearest, axis=1)
            rows = np.take_along_axis(rows, nearest, axis=1)
        return self._ranked(queries, rows, k)

    def _gather(self, rows: Rows) -> Floats:
        return self._vectors.gather(rows, self.spec.dimension)


def _at_least_one(name: str, value: int | None, default: int) -> int:
    chosen = default if value is None else value
    if chosen < 1:
        raise ValueError(f"{name}: expected at least 1, found {chosen}")
    return chosen
