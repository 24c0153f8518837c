"""One lake: its store, its tables and its versions, opened from one URI."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from lake.errors import DamagedDocument, LakeError, NoLake, ObjectNotFound
from lake.schemas import EMBEDDINGS, IMAGES, RUNS, SCORES
from lake.store import Store, open_store
from lake.tables import Table
from lake.versions import Versions

MARKER = "vitrine.json"  # says that this root is a lake, and in which layout
LAYOUT = b'{"format": 1}\n'
# DuckDB globs by the first three; delta-rs decodes %, turns a backslash, and cuts an S3 URI at #.
UNFIT = {"directory": "*?[%\\", "S3": "*?[%\\#"}


@dataclass(frozen=True)
class Serving:
    """What readers use. The first two go together: an index is made of one look model's embeddings."""

    look_version: int | None
    index_version: int | None  # that search answers from
    model_version: int | None  # whose polarity SQL and search show


class Lake:
    """The lake at one root URI. It pickles as its URI.

    `epoch` is that of the lease (`lake/lease.py`) under which its commits are made: one whose lease another run has
    taken over is refused. 0: no lease is held, nothing is refused.
    """

    def __init__(self, store: Store, epoch: int = 0) -> None:
        self.store = store
        self.epoch = epoch
        self.images = Table(store, "images", IMAGES, epoch=epoch)
        self.embeddings = Table(store, "embeddings", EMBEDDINGS, partition_by="look_version", epoch=epoch)
        self.scores = Table(store, "scores", SCORES, partition_by="model_version", epoch=epoch)
        self.runs = Table(store, "runs", RUNS)  # of any run, also of one that lost its lease
        self.looks = Versions(store, "looks", epoch)
        self.models = Versions(store, "models", epoch)
        self.indexes = Versions(store, "indexes", epoch)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.uri, self.epoch)

    def under(self, epoch: int) -> Lake:
        """The same lake, its commits under this epoch."""
        return Lake(self.store, epoch)

    def fence(self) -> None:
        """Have every log refuse commits under an older epoch from here on."""
        for table in (self.images, self.embeddings, self.scores):
            table.fence()
        for versions in (self.looks, self.models, self.indexes):
            versions.fence()

    @property
    def uri(self) -> str:
        """The root URI."""
        return self.store.uri

    def serving(self) -> Serving:
        """What readers use.

        The newest index entry names the index and with it the look model; before any index, the promoted look
        serves. The newest entry of the models' log names the model whose scores are complete; before any are, the
        promoted one serves.
        """
        index_version = self.indexes.current()
        look_version = self.looks.current() if index_version is None else self.look_of(index_version)
        return Serving(look_version, index_version, self.serving_model())

    def serving_model(self) -> int | None:
        """The model whose polarity readers see; None where none was trained yet."""
        newest = self.models.newest()
        return None if newest is None else newest.serving or newest.current

    def look_of(self, index_version: int) -> int:
        """The look model whose embeddings an index version holds. Raises UnknownVersion."""
        return int(self.indexes.manifest(index_version).properties["look_version"])


def open_lake(uri: str, *, create: bool = False) -> Lake:
    """The lake at the URI. Raises LakeError where there is none (unless `create`) or where it can't be used."""
    try:
        store = open_store(uri, create=create, check=False)  # the marker is asked for next
    except ObjectNotFound as error:
        raise NoLake(_no_lake(uri)) from error
    unfit = UNFIT["directory" if store.s3 is None else "S3"]
    if not store.url().isprintable() or any(character in store.url() for character in unfit):
        raise LakeError(
            f"the lake's path {store.url()!r} has one of {' '.join(unfit)} or a control character, which the engines "
            "that read its tables take for something else: rename it"
        )
    try:
        layout = store.get(MARKER)
    except ObjectNotFound as error:
        if not create:
            raise NoLake(_no_lake(store.uri)) from error
        store.put(MARKER, LAYOUT)  # proves, before any work, that the lake can be written
        layout = LAYOUT
    if layout != LAYOUT:
        raise _other_layout(store, layout)
    return Lake(store)


def _other_layout(store: Store, layout: bytes) -> LakeError:
    try:
        json.loads(layout)
    except ValueError:
        return DamagedDocument(f"{MARKER} in {store.uri} is damaged: `vitrine doctor --repair` writes it anew")
    return LakeError(f"the lake at {store.uri} has another layout than this Vitrine writes: update Vitrine")


def _reopened(uri: str, epoch: int) -> Lake:
    return open_lake(uri).under(epoch)


def _no_lake(uri: str) -> str:
    return (
        f"there is no lake at {uri}: run `vitrine init-model` or `vitrine ingest SOURCE` with it first, or "
        "correct --lake"
    )
