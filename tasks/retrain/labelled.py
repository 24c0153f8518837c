"""The labelled pictures of one training run, and which of them count as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lake import catalogue
from lake.lake import Lake
from model.errors import LabelsUnusable
from model.pictures.hashing import hash_pictures, join_groups
from tasks.retrain.labels import LabelSnapshot
from tasks.shards import read_shard


@dataclass(frozen=True)
class Labelled:
    """Labelled pictures in the order of their keys, in memory: JPEGs as stored, and what is known of each."""

    keys: list[str]
    jpegs: list[bytes]
    labels: NDArray[np.int64]  # 0 or 1
    weights: NDArray[np.float32]
    products: NDArray[Any]  # of str; the content where there is no product
    groups: NDArray[Any]  # of str; products, joined where they share a content or nearly so
    categories: list[str | None]


def read_labelled(lake: Lake, labels: LabelSnapshot, *, seed: int) -> Labelled:
    """The pictures of a label snapshot. Raises LabelsUnusable where none has a label.

    `seed` is that of the split: a joined group bears the name that the split holds out first.
    """
    snapshot = read_shard(lake.store, labels.shard)
    if snapshot.num_rows == 0:
        raise LabelsUnusable("no picture has a label of 0 or 1: fill in the label column")
    with catalogue.workbench(lake) as sql:
        sql.register("snapshot", snapshot)
        rows = sql.execute(
            """
            SELECT image_key, pixels, sha256, label, weight, product, category
            FROM snapshot JOIN pictures_ever USING (image_key) ORDER BY image_key
            """
        ).to_arrow_table()
    jpegs = rows["pixels"].to_pylist()
    names: list[str] = rows["product"].to_pylist()
    return Labelled(
        keys=rows["image_key"].to_pylist(),
        jpegs=jpegs,
        labels=rows["label"].to_numpy(),
        weights=rows["weight"].to_numpy(),
        products=np.array(names),
        groups=join_groups(names, rows["sha256"].to_pylist(), hash_pictures(jpegs), seed=seed),
        categories=rows["category"].to_pylist(),
    )
