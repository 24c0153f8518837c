"""Search in the published index: by the key of a picture that it holds, or by any picture.

By key nothing of torch is imported; by picture the model that made the index embeds the query.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from index.errors import UnknownKey
from lake.errors import LakeError
from lake.lake import Lake
from model.errors import Undecodable
from tasks.search.reader import Filters, Reader

if TYPE_CHECKING:
    from model.choices import ScoringPrecision

ALL = Filters()


@dataclass(frozen=True)
class SearchAnswer:
    """The neighbours of one query, nearest first, from exactly one index version."""

    query: str
    index_version: int
    model_version: int
    neighbours: tuple[dict[str, Any], ...]  # image_key, product_id, similarity, polarity, label


def search_by_key(lake: Lake, image_key: str, k: int, cache: Path, filters: Filters = ALL) -> SearchAnswer:
    """The pictures most like one that the index holds; itself left out. Raises UnknownKey, LakeError."""
    reader = Reader(lake, cache)
    try:
        reader.index.searcher.find(image_key)
    except UnknownKey as error:
        raise UnknownKey(f"{error}; search by picture for one that is not in the catalogue") from error
    (neighbours,) = reader.search_keys([image_key], k, filters=filters)
    return SearchAnswer(image_key, reader.index.version, reader.index.model_version, neighbours)


def search_by_picture(
    lake: Lake,
    picture: Path,
    k: int,
    cache: Path,
    device: str,
    *,
    filters: Filters = ALL,
    precision: ScoringPrecision = "auto",
) -> SearchAnswer:
    """The pictures most like a file. Raises LakeError where it can't be read, Undecodable where it is no picture."""
    from tasks.pictures import embed

    try:
        data = picture.read_bytes()
    except OSError as error:
        raise LakeError(f"{picture} can't be read: {error.strerror}") from error
    reader = Reader(lake, cache)
    model_version = reader.index.model_version
    try:
        vector = embed(data, lake, model_version, device, precision)
    except Undecodable as error:
        raise Undecodable(f"{picture}: {error.reason}") from error
    (neighbours,) = reader.search(vector[None], k, model_version=model_version, filters=filters)
    return SearchAnswer(str(picture), reader.index.version, model_version, neighbours)


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys that a file lists, one a line. Raises LakeError where it can't be read."""
    try:
        return tuple(line for line in path.read_text(encoding="utf-8").splitlines() if line)
    except OSError as error:
        raise LakeError(f"{path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LakeError(f"{path} is not UTF-8 text: {error.reason}") from error
