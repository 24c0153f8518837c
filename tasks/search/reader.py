"""A reader of what is published: opens one index whole and verified, searches it, moves on when asked.

Newer versions may be published and old ones collected meanwhile: a reader answers from the one that it opened, whose
files stay readable while it has them open, until `refresh`. Needs neither torch nor Prefect.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from index.arrays import Mask
from index.errors import IndexingError
from index.filtering import NONE, Groups, RowFilter, search_filtered
from index.searching import Neighbours, Searcher
from lake.errors import LakeError
from lake.lake import Lake
from tasks.config import CacheConfig
from tasks.errors import OtherModel
from tasks.index_files import index_files
from tasks.models import require_model
from tasks.search.feelings import Feelings, read_feelings
from tasks.search.key_lists import find_listed

logger = logging.getLogger(__name__)

OPEN_ATTEMPTS = 3  # a version may be collected between being named and being opened

By = Literal["look", "feeling"]

Answer = tuple[dict[str, Any], ...]  # image_key, product_id, similarity, polarity, label; nearest first


@dataclass(frozen=True)
class Filters:
    """Which pictures a search may answer with."""

    other_products: bool = False  # leave out all pictures of the query's own product
    one_per_product: bool = False  # each product answers with its nearest picture
    polarity: tuple[float, float] | None = None  # both ends included
    keys: tuple[str, ...] | None = None  # these pictures only, as far as the index holds them: `find_listed`


@dataclass(frozen=True)
class OpenIndex:
    """One version of the index, open, and what one model says of its pictures; it never changes."""

    lake: Lake
    version: int
    searcher: Searcher
    model_version: int | None  # that serves; None: no model was trained yet
    scores_version: int | None  # of the scores table when the model was looked up; None without a model

    @property
    def look_version(self) -> int:
        """The look that made its vectors."""
        return self.searcher.description.look_version

    @cached_property
    def products(self) -> Groups:
        """Which pictures show one product."""
        return Groups.of(self.searcher, "product_id")

    @cached_property
    def feelings(self) -> Feelings | None:
        """What the model says of each row, read when it is first asked for; None without a model."""
        return None if self.model_version is None else read_feelings(self.lake, self.searcher, self.model_version)

    def require_feelings(self) -> Feelings:
        """The same. Raises LakeError without a model."""
        if self.feelings is None:
            require_model(self.lake)
            raise LakeError("a model of polarity was promoted after this reader was opened: refresh it")
        return self.feelings

    def row_filter(self, filters: Filters, own_row: NDArray[np.int64]) -> RowFilter:
        """The filters for queries that are these rows of the index, NONE for those that are none."""
        keep = self._kept(filters)
        if not (filters.other_products or filters.one_per_product):
            return RowFilter(keep, own_row)
        own = np.array([NONE if row == NONE else self.products.of_row[row] for row in own_row], dtype=np.int64)
        own_group = own if filters.other_products else None
        return RowFilter(keep, own_row, self.products, own_group, filters.one_per_product)

    def _kept(self, filters: Filters) -> Mask | None:
        """One bool a row; None where nothing is asked for, which is quicker than a mask of ones."""
        masks = [] if filters.keys is None else [find_listed(self.searcher, filters.keys).mask]
        if filters.polarity is not None:
            masks.append(self.require_feelings().between(*filters.polarity))
        return np.logical_and.reduce(masks) if masks else None

    def answers(self, neighbours: Sequence[Neighbours]) -> list[Answer]:
        """Keys, products and scores of each query's neighbours."""
        rows = np.concatenate([np.empty(0, np.int64), *(each.rows[0] for each in neighbours)])
        columns = self.searcher.keys(rows).select(["image_key", "product_id"]).to_pylist()
        similarity = np.concatenate([np.empty(0, np.float32), *(each.similarity[0] for each in neighbours)])
        scores = self._scores(rows)
        pictures = [
            row | score | {"similarity": value}
            for row, score, value in zip(columns, scores, similarity.tolist(), strict=True)
        ]
        ends = np.cumsum([each.rows.shape[1] for each in neighbours])
        return [tuple(pictures[end - each.rows.shape[1] : end]) for each, end in zip(neighbours, ends, strict=True)]

    def _scores(self, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
        """Polarity and label of rows, None where there is no score."""
        if self.feelings is None:
            return [{"polarity": None, "label": None}] * len(rows)
        scores: list[dict[str, Any]] = self.feelings.table.select(["polarity", "label"]).take(rows).to_pylist()
        return scores


class Reader:
    """Searches what is published; safe to use, and to refresh, from several threads."""

    def __init__(self, lake: Lake, cache: Path | None = None) -> None:
        """Open the published version; a remote lake's files are kept below `cache`, the user's own by default.

        Raises:
            LakeError: none is published yet, or its files are damaged.
        """
        self._lake = lake
        self._cache = cache or CacheConfig().cache
        self.index = self._open(None)

    def refresh(self) -> bool:
        """Move on to the index that is published, the model that serves and its scores; whether anything is new.

        Where it can't be opened the reader keeps what it has, and raises.

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
        look_version: int,
        filters: Filters = Filters(),
    ) -> list[Answer]:
        """The `k` pictures that look most like each vector, Q×D, that `look_version` made.

        Raises:
            OtherModel: the index holds another look's vectors; distances between the two mean nothing.
            BadVectors: a vector that can't be used.
            UnknownKey: the index holds none of the filters' keys.
        """
        index = self.index
        if look_version != index.look_version:
            raise OtherModel(
                f"index {index.version} holds vectors of look {index.look_version}, the query is of look "
                f"{look_version}: embed it with look {index.look_version}, or refresh the reader"
            )
        vectors = np.asarray(queries, dtype=np.float32)
        rows = index.row_filter(filters, np.full(len(vectors), NONE))
        # Nobody has measured how much the published setting finds for a picture that is like none of the index.
        return index.answers(search_filtered(index.searcher, vectors, k, rows, thorough=True))

    def search_feelings(
        self,
        queries: ArrayLike,
        k: int,
        *,
        model_version: int,
        filters: Filters = Filters(),
    ) -> list[Answer]:
        """The `k` pictures that feel most like each point, Q×3 in the order of `FEELING`, that `model_version` made.

        Raises:
            OtherModel: the pictures are scored by another model.
            LakeError: no model was trained yet.
            BadVectors: a point that can't be used.
            UnknownKey: the index holds none of the filters' keys.
        """
        index = self.index
        feelings = index.require_feelings()
        if model_version != feelings.model_version:
            raise OtherModel(
                f"the pictures are scored by model {feelings.model_version}, the query by model {model_version}: score "
                f"it with model {feelings.model_version}, or refresh the reader"
            )
        points = np.asarray(queries, dtype=np.float32)
        rows = index.row_filter(filters, np.full(len(points), NONE))
        return index.answers(search_filtered(feelings, points, k, rows))

    def search_keys(
        self, image_keys: Sequence[str], k: int, *, by: By = "look", filters: Filters = Filters()
    ) -> list[Answer]:
        """The `k` pictures that look, or feel, most like each of these, itself left out.

        Raises:
            UnknownKey: the index does not hold one of them, or none of the filters' keys.
            LakeError: by feeling, and no model has scored them yet.
        """
        index = self.index
        rows = index.searcher.find_all(image_keys)
        wanted = index.row_filter(filters, rows)
        if by == "look":
            return index.answers(search_filtered(index.searcher, index.searcher.vectors(rows), k, wanted))
        feelings = index.require_feelings()
        if not feelings.is_scored[rows].all():
            raise LakeError(f"model {feelings.model_version} has not scored every one of them: run `vitrine score`")
        return index.answers(search_filtered(feelings, feelings.points[rows], k, wanted))

    def _open(self, current: OpenIndex | None) -> OpenIndex:
        """The published version; `current` where it is that one."""
        for attempt in range(OPEN_ATTEMPTS):
            version, model_version = self._lake.indexes.current(), self._lake.serving_model()
            # A model may serve before its scores are complete: the first one, and one that was rolled back to.
            scores_version = None if model_version is None else self._lake.scores.version()
            if version is None:
                raise LakeError("the lake has no index yet: run `vitrine nightly SOURCE`, or `vitrine rebuild-index`")
            if current is not None and current.version == version:
                if (current.model_version, current.scores_version) == (model_version, scores_version):
                    return current
                return OpenIndex(self._lake, version, current.searcher, model_version, scores_version)
            try:
                files = index_files(self._lake.indexes.manifest(version))
                searcher = Searcher.open(self._lake.indexes.fetch(version, self._cache, files))
                self._lake.indexes.forget_older(version, self._cache)
                return OpenIndex(self._lake, version, searcher, model_version, scores_version)
            except (LakeError, IndexingError):
                if attempt == OPEN_ATTEMPTS - 1 or self._lake.indexes.current() == version:
                    raise
                logger.info("index %d was replaced while it was opened", version)
        raise AssertionError("unreachable")
