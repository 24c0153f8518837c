"""A reader of the published index: opens one version whole and verified, searches it, moves on when asked.

Newer versions may be published and old ones collected meanwhile: a reader answers from the one that it opened, whose
files stay readable while it has them open, until `refresh`. Needs neither torch nor Prefect.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from index.errors import IndexingError
from index.filtering import NONE, Groups, RowFilter, rows_with, search_filtered
from index.searching import Neighbours, Searcher
from lake.errors import LakeError
from lake.lake import Lake
from tasks.config import CacheConfig
from tasks.errors import OtherModel
from tasks.index_files import index_files

logger = logging.getLogger(__name__)

OPEN_ATTEMPTS = 3  # a version may be collected between being named and being opened
ANSWER_COLUMNS = ("image_key", "product_id", "polarity", "label")

Answer = tuple[dict[str, Any], ...]  # image_key, product_id, similarity, polarity, label; nearest first


@dataclass(frozen=True)
class Filters:
    """Which pictures a search may answer with."""

    other_products: bool = False  # leave out all pictures of the query's own product
    one_per_product: bool = False  # each product answers with its nearest picture
    polarity: tuple[float, float] | None = None  # both ends included
    keys: tuple[str, ...] | None = None  # these pictures only


@dataclass(frozen=True)
class OpenIndex:
    """One version of the index, open; it never changes."""

    version: int
    searcher: Searcher

    @property
    def model_version(self) -> int:
        """The model that made its vectors."""
        return self.searcher.description.model_version

    @cached_property
    def products(self) -> Groups:
        """Which pictures show one product."""
        return Groups.of(self.searcher, "product_id")

    def row_filter(self, filters: Filters, own_row: NDArray[np.int64]) -> RowFilter:
        """The filters for queries that are these rows of the index, NONE for those that are none."""
        searcher = self.searcher
        between = None if filters.polarity is None else ("polarity", *filters.polarity)
        keep = rows_with(searcher, keys=filters.keys, between=between)
        if not (filters.other_products or filters.one_per_product):
            return RowFilter(keep, own_row)
        own = np.array([NONE if row == NONE else self.products.of_row[row] for row in own_row], dtype=np.int64)
        own_group = own if filters.other_products else None
        return RowFilter(keep, own_row, self.products, own_group, filters.one_per_product)

    def answers(self, neighbours: Sequence[Neighbours]) -> list[Answer]:
        """Keys, products and scores of each query's neighbours."""
        rows = np.concatenate([np.empty(0, np.int64), *(each.rows[0] for each in neighbours)])
        columns = self.searcher.keys(rows).select(ANSWER_COLUMNS).to_pylist()
        similarity = np.concatenate([np.empty(0, np.float32), *(each.similarity[0] for each in neighbours)])
        pictures = [row | {"similarity": value} for row, value in zip(columns, similarity.tolist(), strict=True)]
        ends = np.cumsum([each.rows.shape[1] for each in neighbours])
        return [tuple(pictures[end - each.rows.shape[1] : end]) for each, end in zip(neighbours, ends, strict=True)]


class Reader:
    """Searches the published index; safe to use, and to refresh, from several threads."""

    def __init__(self, lake: Lake, cache: Path | None = None) -> None:
        """Open the published version; a remote lake's files are kept below `cache`, the user's own by default.

        Raises:
            LakeError: none is published yet, or its files are damaged.
        """
        self._lake = lake
        self._cache = cache or CacheConfig().cache
        self.index = self._open(None)

    def refresh(self) -> bool:
        """Move on to the version that is published now; whether there was another.

        Where it can't be opened the reader keeps the one it has, and raises.

        Raises:
            LakeError, IndexingError: the published version is damaged or can't be reached.
        """
        before = self.index
        self.index = self._open(before)  # one assignment: a search in another thread sees the old or the new, whole
        return self.index is not before

    def search(
        self,
        queries: ArrayLike,
        k: int,
        *,
        model_version: int,
        filters: Filters = Filters(),
    ) -> list[Answer]:
        """The `k` pictures most like each vector, Q×D, that `model_version` made.

        Raises:
            OtherModel: the index holds another model's vectors; distances between the two mean nothing.
            BadVectors, UnknownKey: a vector, or a key of the filters, that can't be used.
        """
        index = self.index
        if model_version != index.model_version:
            raise OtherModel(
                f"index {index.version} holds vectors of model {index.model_version}, the query is of model "
                f"{model_version}: embed it with model {index.model_version}, or refresh the reader"
            )
        vectors = np.asarray(queries, dtype=np.float32)
        rows = index.row_filter(filters, np.full(len(vectors), NONE))
        return index.answers(search_filtered(index.searcher, vectors, k, rows))

    def search_keys(self, image_keys: Sequence[str], k: int, *, filters: Filters = Filters()) -> list[Answer]:
        """The `k` pictures most like each of these, itself left out. Raises UnknownKey."""
        index = self.index
        rows = np.array([index.searcher.find(key) for key in image_keys], dtype=np.int64)
        vectors = index.searcher.vectors(rows)
        return index.answers(search_filtered(index.searcher, vectors, k, index.row_filter(filters, rows)))

    def _open(self, current: OpenIndex | None) -> OpenIndex:
        """The published version; `current` where it is that one."""
        for attempt in range(OPEN_ATTEMPTS):
            version = self._lake.indexes.current()
            if version is None:
                raise LakeError("the lake has no index yet: run `vitrine nightly SOURCE`, or `vitrine rebuild-index`")
            if current is not None and current.version == version:
                return current
            try:
                files = index_files(self._lake.indexes.manifest(version))
                opened = OpenIndex(version, Searcher.open(self._lake.indexes.fetch(version, self._cache, files)))
                self._lake.indexes.forget_older(version, self._cache)
                return opened
            except (LakeError, IndexingError):
                if attempt == OPEN_ATTEMPTS - 1 or self._lake.indexes.current() == version:
                    raise
                logger.info("index %d was replaced while it was opened", version)
        raise AssertionError("unreachable")
