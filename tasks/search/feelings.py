"""What the serving model says of the index's pictures, row by row, and search among them by feeling.

The index knows no feelings: a promotion moves them and leaves the index as it is. Shapes: N rows, Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from index.arrays import Floats, Mask
from index.errors import BadVectors
from index.key_table import in_one_piece
from index.searching import Neighbours, Searcher
from lake import catalogue
from lake.lake import Lake

FEELING = ("polarity", "positive_intensity", "negative_intensity")  # a point in the space of feelings
LARGEST_DISTANCE = 3**0.5  # of two points in it

OF_ROWS = """
    SELECT polarity, positive_intensity, negative_intensity, label
    FROM asked LEFT JOIN (
        SELECT sha256, polarity, positive_intensity, negative_intensity, label FROM score_history
        WHERE model_version = $model
        QUALIFY row_number() OVER (PARTITION BY sha256 ORDER BY scored_at) = 1
    ) USING (sha256)
    ORDER BY row
"""


@dataclass(frozen=True)
class Feelings:
    """One model's scores of an index's rows. It searches them as a `Searcher` does its vectors, exactly."""

    model_version: int
    table: pa.Table  # N rows: polarity, positive_intensity, negative_intensity, label; null where there is no score

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def points(self) -> Floats:
        """N×3 in the order of `FEELING`; NaN where there is no score."""
        columns = [self.table[name].to_numpy().astype(np.float32) for name in FEELING]
        return np.stack(columns, axis=1)

    @cached_property
    def is_scored(self) -> Mask:
        """One bool a row."""
        return np.asarray(np.isfinite(self.points).all(axis=1))

    def between(self, low: float, high: float) -> Mask:
        """One bool a row: whether its polarity lies in the range, both ends included."""
        polarity = self.points[:, 0]
        mask: Mask = (polarity >= low) & (polarity <= high)
        return mask

    def search(
        self,
        queries: ArrayLike,
        k: int,
        *,
        keep: ArrayLike | None = None,
        thorough: bool = False,
    ) -> Neighbours:
        """The `k` rows that feel most like each of the points, Q×3, among the scored rows that `keep` names.

        The similarity is 1 at equal points and 0 at those farthest apart. Every search is exact, `thorough` or not.

        Raises:
            BadVectors: a query that is no point.
        """
        points = np.asarray(queries, dtype=np.float32)
        if points.ndim != 2 or points.shape[1] != len(FEELING):
            raise BadVectors(f"expected points of shape (Q, {len(FEELING)}), found {points.shape}")
        if not np.isfinite(points).all():
            raise BadVectors("expected finite points, found NaN or infinity")
        rows = np.flatnonzero(self.is_scored if keep is None else self.is_scored & np.asarray(keep))
        k = min(k, len(rows))
        nearest = [_nearest(self.points[rows], point, k) for point in points]
        similarity = np.array([1 - distance / LARGEST_DISTANCE for _, distance in nearest], dtype=np.float32)
        found = np.array([rows[at] for at, _ in nearest], dtype=np.int64)
        return Neighbours(found.reshape(len(points), k), similarity.reshape(len(points), k))


def read_feelings(lake: Lake, searcher: Searcher, model_version: int) -> Feelings:
    """The model's scores of the rows of an open index."""
    asked = {"row": np.arange(len(searcher)), "sha256": searcher.table["sha256"]}
    with catalogue.workbench(lake) as sql:
        sql.register("asked", pa.table(asked))
        scores = sql.execute(OF_ROWS, {"model": model_version}).to_arrow_table()
    return Feelings(model_version, in_one_piece(scores))


def _nearest(points: Floats, point: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
    """The places of the k points nearest to one and their distances, nearest first; equally near ones by place."""
    squared = np.square(points - point).sum(axis=1)
    if k < len(points):
        farthest = np.partition(squared, k - 1)[k - 1] if k else -1.0
        near = np.flatnonzero(squared <= farthest)
    else:
        near = np.arange(len(points))
    at = near[np.argsort(squared[near], kind="stable")][:k]
    return at, np.sqrt(squared[at])
