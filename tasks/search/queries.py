"""Search in the published index: by the key of a picture that it holds, or by any picture.

By key nothing of torch is imported; by picture the look that made the index embeds the query, or the serving model
scores it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from index.errors import UnknownKey
from lake.errors import LakeError
from lake.lake import Lake
from model.errors import Undecodable
from tasks.search.feelings import FEELING
from tasks.search.key_lists import KeyCounts, find_listed
from tasks.search.reader import By, Filters, Reader

if TYPE_CHECKING:
    from model.choices import ScoringPrecision

ALL = Filters()


@dataclass(frozen=True)
class SearchAnswer:
    """The neighbours of one query, nearest first, from exactly one index version."""

    query: str
    by: By
    index_version: int
    look_version: int
    model_version: int | None  # whose polarity the neighbours show; None: no model was trained yet
    neighbours: tuple[dict[str, Any], ...]  # image_key, product_id, similarity, polarity, label
    among: KeyCounts | None = None  # of the keys that the answer was to be among


def search_by_key(
    lake: Lake, image_key: str, k: int, cache: Path, *, by: By = "look", filters: Filters = ALL
) -> SearchAnswer:
    """The pictures most like one that the index holds; itself left out. Raises UnknownKey, LakeError."""
    reader = Reader(lake, cache)
    try:
        reader.index.searcher.find(image_key)
    except UnknownKey as error:
        raise UnknownKey(f"{error}; search by picture for one that is not in the catalogue") from error
    (neighbours,) = reader.search_keys([image_key], k, by=by, filters=filters)
    return _answer(reader, image_key, by, neighbours, filters)


def search_by_picture(
    lake: Lake,
    picture: Path,
    k: int,
    cache: Path,
    device: str,
    *,
    by: By = "look",
    filters: Filters = ALL,
    precision: ScoringPrecision = "auto",
) -> SearchAnswer:
    """The pictures most like a file. Raises LakeError where it can't be read, Undecodable where it is no picture."""
    from tasks.pictures import predict_picture

    try:
        data = picture.read_bytes()
    except OSError as error:
        raise LakeError(f"{picture} can't be read: {error.strerror}") from error
    reader = Reader(lake, cache)
    try:
        if by == "look":
            look = reader.index.look_version
            vector = predict_picture(data, lake, device, precision, look_version=look).embedding
            (neighbours,) = reader.search(vector, k, look_version=look, filters=filters)
        else:
            model = reader.index.require_feelings().model_version
            said = predict_picture(data, lake, device, precision, model_version=model)
            point = np.stack([getattr(said, name) for name in FEELING], axis=1)
            (neighbours,) = reader.search_feelings(point, k, model_version=model, filters=filters)
    except Undecodable as error:
        raise Undecodable(f"{picture}: {error.reason}") from error
    return _answer(reader, str(picture), by, neighbours, filters)


def _answer(
    reader: Reader, query: str, by: By, neighbours: tuple[dict[str, Any], ...], filters: Filters
) -> SearchAnswer:
    index = reader.index
    among = None if filters.keys is None else find_listed(index.searcher, filters.keys).counts
    return SearchAnswer(query, by, index.version, index.look_version, index.model_version, neighbours, among)
