"""A lake whose embeddings are given vectors: what the tests of the index need, without pictures or a network."""

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
from lake.schemas import EMBEDDINGS, IMAGES, SCORES
from tasks.models import HELD_OUT
from tasks.score.config import ScoreConfig
from tasks.score.units import ScorePlan, plan_scoring, serve_model

PART_ROWS = 2048  # as scoring writes them
START = datetime(2026, 1, 1, tzinfo=UTC)

Feeling = tuple[float, float, float]  # polarity, between 0 and 1, and both intensities


class VectorLake:
    """A lake with one promoted look and no model. A content is a vector: two keys with one vector are one content."""

    def __init__(self, uri: str, dimension: int) -> None:
        self.lake: Lake = open_lake(uri, create=True)
        self.dimension = dimension
        self.pictures: dict[str, Floats] = {}  # that live, and their vectors
        self._changes = 0
        self._embedded: set[str] = set()
        self.look = self.promote_look()

    @property
    def uri(self) -> str:
        """The lake's URI, as the tasks take it."""
        return self.lake.uri

    def promote_look(self) -> int:
        """Register and promote a look; nothing is embedded under it yet."""
        draft = self.lake.looks.draft()
        draft.add("weights", b"")
        draft.seal({"embedding_size": self.dimension, "trunk": "of the look", "preprocessing": {}})
        self.lake.looks.append("promote", draft.version, based_on=self.lake.looks.newest())
        self.look, self._embedded = draft.version, set()
        return draft.version

    def promote_model(self, held_out: pa.Table | None = None) -> int:
        """Register and promote a model of polarity; nothing is scored under it yet."""
        draft = self.lake.models.draft()
        draft.add("weights", b"")
        if held_out is not None:
            draft.add(HELD_OUT, encode_parquet(held_out))
        draft.seal({"trunk": "its own", "preprocessing": {}})
        self.lake.models.append("promote", draft.version, based_on=self.lake.models.newest())
        return draft.version

    def change(self, pictures: Mapping[str, Floats | None], product_id: str | None = None) -> None:
        """One night's ingest and embedding: new and changed pictures with their vectors, None for deleted ones."""
        at = self._next_time()
        names = {key: None if vector is None else content_of(vector) for key, vector in pictures.items()}
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
        new = {name: key for key, name in names.items() if name is not None and name not in self._embedded}
        self._commit_embeddings({name: np.asarray(pictures[key], np.float32) for name, key in new.items()}, at)
        self._embedded |= new.keys()
        # Last, unlike a night, so that whoever plans meanwhile never sees a picture without its embedding.
        if images:
            part = self.lake.images.write_part(pa.Table.from_pylist(images, schema=IMAGES), uuid.uuid4().hex)
            self.lake.images.commit([part], application_id=f"images-{part.path}")
        changed = self.pictures | dict(pictures)
        self.pictures = {key: vector for key, vector in changed.items() if vector is not None}

    def add_scores(self, model: int, feelings: Mapping[str, Feeling]) -> None:
        """Commit what the model says of these keys' contents, one row each, also where there is a row already."""
        at = self._next_time()
        rows = [
            {
                "sha256": content_of(self.pictures[key]),
                "model_version": model,
                "polarity": polarity,
                "logit": float(np.log(polarity / (1 - polarity))),
                "label": "positive" if polarity >= 0.5 else "negative",
                "positive_intensity": positive,
                "negative_intensity": negative,
                "scored_at": at,
            }
            for key, (polarity, positive, negative) in feelings.items()
        ]
        table, run = pa.Table.from_pylist(rows, schema=SCORES), uuid.uuid4().hex
        part = self.lake.scores.write_part(table, run, partition={"model_version": str(model)})
        self.lake.scores.commit([part], application_id=run)

    def scoring_plan(self, model: int) -> ScorePlan:
        """What the score stage would do now under the model, before it does it."""
        return plan_scoring(self.lake, self.look, model, uuid.uuid4().hex, ScoreConfig())

    def serve(self, model: int) -> bool:
        """Move readers to the promoted model, as the score stage does at its end; whether they used another before."""
        return serve_model(self.lake, self.scoring_plan(model))

    def _next_time(self) -> datetime:
        self._changes += 1
        return START + timedelta(seconds=self._changes)

    def _commit_embeddings(self, vectors: Mapping[str, Floats], at: datetime) -> None:
        if not vectors:
            return
        matrix, count = np.stack(list(vectors.values())), len(vectors)
        offsets = pa.array(np.arange(0, matrix.size + 1, self.dimension, dtype=np.int32))
        of_lists = EMBEDDINGS.field("embedding").type
        columns = {
            "sha256": pa.array(vectors.keys(), pa.string()),
            "look_version": pa.array(np.full(count, self.look, dtype=np.int32)),
            "embedding": pa.ListArray.from_arrays(offsets, pa.array(matrix.ravel()), type=of_lists),
            "embedded_at": pa.array([at] * count, EMBEDDINGS.field("embedded_at").type),
        }
        table, run = pa.table(columns, schema=EMBEDDINGS), uuid.uuid4().hex
        parts = [
            self.lake.embeddings.write_part(
                table.slice(start, PART_ROWS), f"{run}-{start}", partition={"look_version": str(self.look)}
            )
            for start in range(0, count, PART_ROWS)
        ]
        self.lake.embeddings.commit(parts, application_id=f"embeddings-{run}")


def content_of(vector: Floats) -> str:
    """The sha256 that stands for a vector's picture."""
    return hashlib.sha256(np.ascontiguousarray(vector, dtype=np.float32).tobytes()).hexdigest()
