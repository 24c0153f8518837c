"""Near-identical pictures in the published index: what a shop may want to merge, drop or correct.

The stored pixels decide, by the hashes that also keep copies on one side of a split (`model.pictures.hashing`): they
know a copy in another margin, and tell small objects on white apart, whatever model serves. The index, asked instead,
finds what its model takes for the same.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from index.duplicates import NearDuplicates, groups_of, near_duplicates
from lake import catalogue
from lake.lake import Lake
from model.pictures.decode import decode
from model.pictures.grouping import first_alike
from model.pictures.hashing import HASH_BYTES, perceptual_hash
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
    look_version: int
    threshold: float | None  # of the cosine; None where pixels decided
    pictures: int  # in the index
    groups: int
    superfluous: int  # pictures that would go if each group kept one
    shown: tuple[DuplicateGroup, ...]  # the largest groups


def find_near_duplicates(
    lake: Lake,
    cache: Path,
    limit: int,
    *,
    across_products: bool = False,
    mirrors: bool = False,
    threshold: float | None = None,
) -> NearDuplicatesReport:
    """Groups of near-identical pictures, largest first, each with the first picture that the others resemble.

    With `across_products` only those that show several products: one photograph used for two of them. With `mirrors`
    a picture and its mirror image are the same. With a `threshold` the index alone decides: the least cosine.
    Raises LakeError where no index is published.
    """
    index = Reader(lake, cache).index
    if threshold is None:
        groups = _by_pixels(lake, index, mirrors=mirrors)
    else:
        # Embeddings have length 1, so a cosine is a distance too.
        euclidean = index.searcher.spec.metric == "euclidean"
        groups = near_duplicates(index.searcher, -math.sqrt(2 - 2 * threshold) if euclidean else threshold)
    if across_products:
        groups = [group for group in groups if len(np.unique(index.products.of_row[group.rows])) > 1]
    return NearDuplicatesReport(
        index_version=index.version,
        look_version=index.look_version,
        threshold=threshold,
        pictures=len(index.searcher),
        groups=len(groups),
        superfluous=sum(len(group.rows) - 1 for group in groups),
        shown=tuple(_described(index, group) for group in groups[:limit]),
    )


def _by_pixels(lake: Lake, index: OpenIndex, *, mirrors: bool) -> list[NearDuplicates]:
    """Groups of the index's pictures by their pixels. What the catalogue has lost since is left out."""
    keys = index.searcher.keys(np.arange(len(index.searcher)))["image_key"]
    content_of, hashes = _hashes(lake, keys)
    contents = np.array([content_of.get(key, -1) for key in keys.to_pylist()], dtype=np.int64)
    rows = np.flatnonzero(contents >= 0)
    # Contents in the order of their first rows, so that a group's first row is what the others resemble.
    distinct, seen = np.unique(contents[rows], return_index=True)
    order = distinct[np.argsort(seen)]
    group = np.empty(len(hashes), dtype=np.int64)
    group[order] = first_alike(hashes[order], mirrors=mirrors)
    return groups_of(index.searcher, rows, group[contents[rows]])


def _hashes(lake: Lake, image_keys: pa.ChunkedArray) -> tuple[dict[str, int], NDArray[np.uint8]]:
    """The number of each live picture's content, and the contents' hashes; a few hundred pictures in memory at once."""
    numbers: dict[str, int] = {}  # of contents
    content_of, hashes = {}, [np.empty((0, HASH_BYTES), dtype=np.uint8)]
    with catalogue.connect(lake) as sql, ThreadPoolExecutor() as threads:
        sql.register("asked", pa.table({"image_key": image_keys}))
        rows = sql.execute("SELECT image_key, sha256, pixels FROM pixels SEMI JOIN asked USING (image_key)")
        for batch in rows.to_arrow_reader(PICTURES_AT_ONCE):
            new = []
            for row, (key, sha256) in enumerate(
                zip(batch["image_key"].to_pylist(), batch["sha256"].to_pylist(), strict=True)
            ):
                if sha256 not in numbers:
                    numbers[sha256] = len(numbers)
                    new.append(batch["pixels"][row].as_py())
                content_of[key] = numbers[sha256]
            hashes.append(np.array(list(threads.map(_hashed, new)), dtype=np.uint8).reshape(-1, HASH_BYTES))
    return content_of, np.concatenate(hashes)


def _hashed(jpeg: bytes) -> NDArray[np.uint8]:
    return perceptual_hash(decode(jpeg).rgb)


def _described(index: OpenIndex, group: NearDuplicates) -> DuplicateGroup:
    rows = index.searcher.keys(group.rows).select(["image_key", "product_id"]).to_pylist()
    euclidean = index.searcher.spec.metric == "euclidean"
    cosines = 1 - group.similarity**2 / 2 if euclidean else group.similarity
    pictures = (
        Duplicate(row["image_key"], row["product_id"], cosine)
        for row, cosine in zip(rows, cosines.tolist(), strict=True)
    )
    return DuplicateGroup(len(np.unique(index.products.of_row[group.rows])), tuple(pictures))
