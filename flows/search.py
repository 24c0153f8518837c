"""Search in the published index: by the key of a picture that it holds, or by any picture.

By key nothing of torch is imported; by picture the model that made the index embeds the query.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index.errors import UnknownKey
from index.searching import Searcher
from lake.errors import LakeError
from lake.lake import Lake
from model.errors import Undecodable


@dataclass(frozen=True)
class Found:
    """The neighbours of one query, nearest first, from exactly one index version."""

    query: str
    index_version: int
    model_version: int
    neighbours: tuple[dict[str, Any], ...]  # image_key, product_id, similarity, polarity, label


def search_by_key(lake: Lake, image_key: str, k: int, cache: Path) -> Found:
    """The pictures most like one that the index holds; itself left out. Raises UnknownKey, LakeError."""
    searcher, version = open_index(lake, cache)
    try:
        row = searcher.find(image_key)
    except UnknownKey as error:
        raise UnknownKey(f"{error}; search by picture for one that is not in the catalogue") from error
    keep = np.ones(len(searcher), dtype=bool)
    keep[row] = False
    return _found(searcher, version, image_key, searcher.vector(row), k, keep)


def search_by_picture(lake: Lake, picture: Path, k: int, cache: Path, device: str) -> Found:
    """The pictures most like a file. Raises LakeError where it can't be read, Undecodable where it is no picture."""
    from tasks.pictures import embed

    try:
        data = picture.read_bytes()
    except OSError as error:
        raise LakeError(f"{picture} can't be read: {error.strerror}") from error
    searcher, version = open_index(lake, cache)
    try:
        vector = embed(data, lake.uri, searcher.description.model_version, device)
    except Undecodable as error:
        raise Undecodable(f"{picture}: {error.reason}") from error
    return _found(searcher, version, str(picture), vector, k, None)


def open_index(lake: Lake, cache: Path) -> tuple[Searcher, int]:
    """The published index version, its files verified. Raises LakeError where none is published yet."""
    version = lake.indexes.current()
    if version is None:
        raise LakeError("the lake has no index yet: run `vitrine nightly SOURCE`, or `vitrine rebuild-index`")
    return Searcher.open(lake.indexes.fetch(version, cache)), version


def _found(searcher: Searcher, version: int, query: str, vector: np.ndarray, k: int, keep: np.ndarray | None) -> Found:
    found = searcher.search(vector.reshape(1, -1), k, keep=keep)
    rows = searcher.keys(found.rows[0]).to_pylist()
    neighbours = tuple(
        {
            "image_key": row["image_key"],
            "product_id": row["product_id"],
            "similarity": float(similarity),
            "polarity": row["polarity"],
            "label": row["label"],
        }
        for row, similarity in zip(rows, found.similarity[0], strict=True)
    )
    return Found(query, version, searcher.description.model_version, neighbours)
