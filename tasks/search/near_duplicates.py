"""Near-identical pictures in the published index: what a shop may want to merge, drop or correct.

The index proposes groups by the cosine of embeddings. How near two different pictures may be depends on the model: a
trained one puts all that feels alike close together. So the stored pixels confirm each group, or take it apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from index.duplicates import NearDuplicates, groups_of, near_duplicates
from lake import catalogue
from lake.lake import Lake
from model.pictures.decode import decode
from model.pictures.hashing import HASH_BYTES, join_groups, perceptual_hash
from tasks.search.reader import OpenIndex, Reader

PICTURES_AT_ONCE = 256


@dataclass(frozen=True)
class Duplicate:
    """One picture of a group and how similar it is to the group's first."""

    image_key: str
    product_id: str | None
    similarity: float  # cosine


@dataclass(frozen=True)
class DuplicateGroup:
    """Near-identical pictures, by key."""

    products: int  # that the group's pictures show
    pictures: tuple[Duplicate, ...]


@dataclass(frozen=True)
class NearDuplicatesReport:
    """What the index holds more than once."""

    index_version: int
    model_version: int
    threshold: float
    pictures: int  # in the index
    groups: int
    superfluous: int  # pictures that would go if each group kept one
    shown: tuple[DuplicateGroup, ...]  # the largest groups


def find_near_duplicates(
    lake: Lake, cache: Path, threshold: float, limit: int, *, across_products: bool = False, confirm: bool = True
) -> NearDuplicatesReport:
    """Groups of pictures at least so similar, largest first.

    With `across_products` only those that show several products: one photograph used for two of them. With
    `confirm` the pictures of a group must look alike in their pixels too (`model.pictures.hashing`).
    Raises LakeError where no index is published.
    """
    index = Reader(lake, cache).index
    # Embeddings have length 1, so a cosine is a distance too.
    euclidean = index.searcher.spec.metric == "euclidean"
    groups = near_duplicates(index.searcher, -math.sqrt(2 - 2 * threshold) if euclidean else threshold)
    if confirm and groups:
        groups = _confirmed(lake, index, groups)
    if across_products:
        groups = [group for group in groups if len(np.unique(index.products.of_row[group.rows])) > 1]
    return NearDuplicatesReport(
        index_version=index.version,
        model_version=index.model_version,
        threshold=threshold,
        pictures=len(index.searcher),
        groups=len(groups),
        superfluous=sum(len(group.rows) - 1 for group in groups),
        shown=tuple(_described(index, group) for group in groups[:limit]),
    )


def _confirmed(lake: Lake, index: OpenIndex, groups: list[NearDuplicates]) -> list[NearDuplicates]:
    """The parts of each group whose pixels agree. What the catalogue has lost since is left out."""
    keys = index.searcher.keys(np.concatenate([group.rows for group in groups]))
    names = keys["image_key"].to_pylist()
    hashes = _hashes(lake, names)
    parts, start = [], 0  # of each row the name of its part
    for group in groups:
        known = [name for name in names[start : start + len(group.rows)] if name in hashes]
        start += len(group.rows)
        # Each its own group, until its pixels join it to another.
        parts.append(join_groups(known, known, np.array([hashes[name] for name in known]).reshape(-1, HASH_BYTES)))
    rows = np.concatenate([group.rows for group in groups])[[name in hashes for name in names]]
    return groups_of(index.searcher, rows, np.unique(np.concatenate(parts), return_inverse=True)[1])


def _hashes(lake: Lake, image_keys: list[str]) -> dict[str, NDArray[np.uint8]]:
    """Each live picture's perceptual hash, a few hundred pictures in memory at a time."""
    hashes: dict[str, NDArray[np.uint8]] = {}
    with catalogue.connect(lake) as sql:
        sql.register("asked", pa.table({"image_key": pa.array(image_keys, pa.string())}))
        batches = sql.execute("SELECT image_key, pixels FROM pixels SEMI JOIN asked USING (image_key)")
        for batch in batches.to_arrow_reader(PICTURES_AT_ONCE):
            names, pixels = (batch[name].to_pylist() for name in ("image_key", "pixels"))
            # Not reduced first, which would bring torch: the stored pixels are small.
            hashes |= {name: perceptual_hash(decode(data).rgb) for name, data in zip(names, pixels, strict=True)}
    return hashes


def _described(index: OpenIndex, group: NearDuplicates) -> DuplicateGroup:
    rows = index.searcher.keys(group.rows).select(["image_key", "product_id"]).to_pylist()
    euclidean = index.searcher.spec.metric == "euclidean"
    cosines = 1 - group.similarity**2 / 2 if euclidean else group.similarity
    pictures = (
        Duplicate(row["image_key"], row["product_id"], cosine)
        for row, cosine in zip(rows, cosines.tolist(), strict=True)
    )
    return DuplicateGroup(len(np.unique(index.products.of_row[group.rows])), tuple(pictures))
