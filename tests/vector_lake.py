"""A lake whose scores are given vectors: what the tests of the index need, without pictures or a network."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from index.arrays import Floats
from lake.lake import Lake, open_lake
from lake.parquet import encode_parquet
from lake.schemas import IMAGES, SCORES
from tasks.models import HELD_OUT

PART_ROWS = 2048  # as scoring writes them
START = datetime(2026, 1, 1, tzinfo=UTC)


class VectorLake:
    """A lake with one promoted model. A content is a vector: two keys with the same vector are one content."""

    def __init__(self, uri: str, dimension: int) -> None:
        self.lake: Lake = open_lake(uri, create=True)
        self.dimension = dimension
        self.pictures: dict[str, Floats] = {}  # that live, and their vectors
        self._changes = 0
        self._scored: set[str] = set()
        self.model = self.promote_model()

    @property
    def uri(self) -> str:
        """The lake's URI, as the tasks take it."""
        return self.lake.uri

    def promote_model(self, held_out: pa.Table | None = None) -> int:
        """Register and promote a model; nothing is scored under it yet."""
        draft = self.lake.models.draft()
        draft.add("weights", b"")
        if held_out is not None:
            draft.add(HELD_OUT, encode_parquet(held_out))
        draft.seal({"embedding_size": self.dimension, "trained": True})
        self.lake.models.append("promote", draft.version, based_on=self.lake.models.newest())
        self.model, self._scored = draft.version, set()
        return draft.version

    def change(self, pictures: Mapping[str, Floats | None], product_id: str | None = None) -> None:
        """One night's ingest and scoring: new and changed pictures with their vectors, None for deleted ones."""
        self._changes += 1
        at = START + timedelta(seconds=self._changes)
        names = {key: None if vector is None else _name(vector) for key, vector in pictures.items()}
        images = [
            {
                "image_key": key,
                "sha256": name,
                "product_id": product_id,
                "status": "deleted" if name is None else "ok",
                "ingested_at": at,
            }
            for key, name in names.items()
        ]
        new = {name: key for key, name in names.items() if name is not None and name not in self._scored}
        self._commit(pa.Table.from_pylist(images, schema=IMAGES), self._scores(new, pictures, at))
        self._scored |= new.keys()
        changed = self.pictures | dict(pictures)
        self.pictures = {key: vector for key, vector in changed.items() if vector is not None}

    def _scores(self, new: Mapping[str, str], pictures: Mapping[str, Floats | None], at: datetime) -> pa.Table:
        if not new:
            return SCORES.empty_table()
        matrix = np.stack([np.asarray(pictures[key], dtype=np.float32) for key in new.values()])
        offsets = pa.array(np.arange(0, matrix.size + 1, self.dimension, dtype=np.int32))
        embedding = pa.ListArray.from_arrays(offsets, pa.array(matrix.ravel()), type=SCORES.field("embedding").type)
        half, count = pa.array(np.full(len(new), 0.5, dtype=np.float32)), len(new)
        columns = {
            "image_key": pa.array(new.values(), pa.string()),
            "sha256": pa.array(new.keys(), pa.string()),
            "model_version": pa.array(np.full(count, self.model, dtype=np.int32)),
            "polarity": half,
            "label": pa.array(["positive"] * count),
            "positive_intensity": half,
            "negative_intensity": half,
            "embedding": embedding,
            "scored_at": pa.array([at] * count, SCORES.field("scored_at").type),
        }
        return pa.table(columns, schema=SCORES)

    def _commit(self, images: pa.Table, scores: pa.Table) -> None:
        run = uuid.uuid4().hex
        parts = [
            self.lake.scores.write_part(
                scores.slice(start, PART_ROWS), f"{run}-{start}", partition={"model_version": str(self.model)}
            )
            for start in range(0, scores.num_rows, PART_ROWS)
        ]
        self.lake.scores.commit(parts, application_id=f"scores-{run}")
        # Last, unlike a night, so that whoever plans meanwhile never sees a picture without its score.
        if images.num_rows:
            self.lake.images.commit([self.lake.images.write_part(images, run)], application_id=f"images-{run}")


def _name(vector: Floats) -> str:
    return hashlib.sha256(np.ascontiguousarray(vector, dtype=np.float32).tobytes()).hexdigest()
