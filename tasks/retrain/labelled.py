"""The labelled pictures of one training run, and which of them count as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lake import catalogue
from lake.lake import Lake
from model.errors import LabelsUnusable
from model.evaluation import answers_of
from model.pictures.grouping import join_groups
from model.pictures.hashing import hash_pictures
from tasks.retrain.labels import LabelSnapshot
from tasks.shards import read_shard


@dataclass(frozen=True)
class Labelled:
    """Labelled pictures in the order of their keys, in memory: JPEGs as stored, and what is known of each."""

    keys: list[str]
    jpegs: list[bytes]
    shares: NDArray[np.float64]  # the label, or the share of raters who felt positive, in [0, 1]
    strengths: NDArray[np.float64]  # of what the label says, NaN where the labels do not say how strong it is
    weights: NDArray[np.float32]
    products: NDArray[Any]  # of str; the content where there is no product
    groups: NDArray[Any]  # of str; products, joined where they share a content or nearly so
    categories: list[str | None]

    @property
    def labels(self) -> NDArray[np.int64]:
        """0 or 1: what the share comes to."""
        return answers_of(self.shares)

    @property
    def felt(self) -> NDArray[np.float64] | None:
        """How positive people felt, by the strengths (NaN where one is missing) or by shares; None where neither is."""
        if not np.isnan(self.strengths).all():
            return np.where(self.labels == 1, self.strengths, -self.strengths)
        return self.shares if ((self.shares > 0) & (self.shares < 1)).any() else None


def read_labelled(lake: Lake, labels: LabelSnapshot, *, seed: int) -> Labelled:
    """The pictures of a label snapshot. Raises LabelsUnusable where none has a label.

    `seed` is that of the split: a joined group bears the name that the split holds out first.
    """
    snapshot = read_shard(lake.store, labels.shard)
    if snapshot.num_rows == 0:
        raise LabelsUnusable("no picture has a label from 0 to 1: fill in the label column")
    with catalogue.workbench(lake) as sql:
        sql.register("snapshot", snapshot)
        rows = sql.execute(
            """
            SELECT image_key, pixels, sha256, label, strength, weight, product, category
            FROM snapshot JOIN pictures_ever USING (image_key) ORDER BY image_key
            """
        ).to_arrow_table()
    jpegs = rows["pixels"].to_pylist()
    names: list[str] = rows["product"].to_pylist()
    return Labelled(
        keys=rows["image_key"].to_pylist(),
        jpegs=jpegs,
        shares=rows["label"].to_numpy(),
        strengths=rows["strength"].fill_null(float("nan")).to_numpy(),
        weights=rows["weight"].to_numpy(),
        products=np.array(names),
        groups=join_groups(names, rows["sha256"].to_pylist(), hash_pictures(jpegs), seed=seed),
        categories=rows["category"].to_pylist(),
    )
