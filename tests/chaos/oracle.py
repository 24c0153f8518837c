"""What a lake holds against what a dictionary of its source says; each difference is a line."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from index.errors import IndexingError
from lake import catalogue
from lake.errors import LakeError
from lake.lake import Lake
from lake.lease import held_by
from lake.tables import WRITER, Table
from model.errors import Undecodable
from model.predict import Predictor
from tasks.pictures import StoredPicture, prepare, read_picture
from tasks.predictors import predictor
from tasks.search.reader import Reader
from tests.chaos.nights import Work

FENCED = ("images", "embeddings", "scores")


@dataclass
class Oracle:
    """Compares one lake; what a content must come to is computed once."""

    cache: Path
    _answers: dict[str, tuple[float, Any]] = field(default_factory=dict)

    def differences(self, lake: Lake, content: Mapping[str, bytes], runs: Sequence[tuple[Work, str]]) -> list[str]:
        """After a night that nothing disturbed: rows lost, doubled or wrong, versions that can't be read.

        `runs` are all that were begun, each with what became of it: completed, failed or killed.
        """
        with catalogue.connect(lake) as sql:
            found = [
                *self._pictures(sql, content),
                *self._answered(sql, lake, content),
                *_doubled(sql),
                *_runs(sql, runs),
            ]
        found += [*self._searched(lake, content), *self._versions(lake), *_epochs(lake)]
        alive = [path for path in lake.store.names("running") if path.endswith(".json")]  # else cut off while written
        if alive or held_by(lake.store) is not None:
            found.append(f"a run that has ended holds the lease, or gives signs of life: {alive}")
        return found

    def unseen_states(self, lake: Lake, ever: Mapping[str, set[bytes]]) -> list[str]:
        """At any moment: a reader sees whole states, and of each key a content that it has had."""
        with catalogue.connect(lake) as sql:
            rows = sql.execute("SELECT image_key, sha256 FROM images").fetchall()
        doubled = [key for key, times in Counter(key for key, _ in rows).items() if times > 1]
        known = {key: {sha256(data) for data in contents} for key, contents in ever.items()}
        wrong = [key for key, content in rows if content not in known.get(key, ())]
        found = [f"{key} is there twice" for key in doubled] + [f"{key} never held its row's content" for key in wrong]
        return found + [each for each in self._opened(lake) if isinstance(each, str)]

    def _pictures(self, sql: duckdb.DuckDBPyConnection, content: Mapping[str, bytes]) -> Iterator[str]:
        expected = {key: (sha256(data), stored) for key, data in content.items() if (stored := _stored(data))}
        live = sql.execute(
            "SELECT image_key, images.sha256, size_bytes, width, height, product_id, pixels.pixels "
            "FROM images LEFT JOIN pixels USING (image_key)"
        ).fetchall()
        yield from _compared("images", (row[0] for row in live), expected)
        for key, content_hash, size, width, height, product, pixels in live:
            if key not in expected:
                continue
            content_hash_of, picture = expected[key]
            shape, product_of = (picture.width, picture.height), key.split("/")[0]
            as_is = (content_hash, size, width, height, product, pixels)
            if as_is != (content_hash_of, len(content[key]), *shape, product_of, picture.pixels):
                yield f"{key} has a wrong row in images"
        rejected = [key for (key,) in sql.execute("SELECT image_key FROM rejected").fetchall()]
        yield from _compared("rejected", rejected, content.keys() - expected.keys())

    def _answered(self, sql: duckdb.DuckDBPyConnection, lake: Lake, content: Mapping[str, bytes]) -> Iterator[str]:
        """Embeddings and scores: one a live picture, and what the networks say when they are asked directly."""
        live = {key: data for key, data in content.items() if _stored(data)}
        embedded = sql.execute("SELECT image_key, embedding FROM embeddings").fetchall()
        scored = sql.execute("SELECT image_key, polarity FROM scores").fetchall()
        yield from _compared("embeddings", (key for key, _ in embedded), live)
        yield from _compared("scores", (key for key, _ in scored), live)
        model = predictor(lake, "cpu", look_version=lake.looks.current(), model_version=lake.models.current())
        polarity = dict(scored)
        for key, embedding in embedded:
            if key in live:
                expected_polarity, expected = self._answer(live[key], model)
                if not np.allclose(embedding, expected, atol=2e-3):  # bfloat16 in the lake
                    yield f"{key} has a wrong embedding"
                if abs(polarity.get(key, 2) - expected_polarity) > 1e-4:
                    yield f"{key} has a wrong score"

    def _answer(self, data: bytes, model: Predictor) -> tuple[float, Any]:
        name = sha256(data)
        if name not in self._answers:
            pixels = prepare(read_picture(data).pixels, model)
            said = model.predict(pixels[np.newaxis])
            self._answers[name] = float(said.polarity[0]), said.embedding[0]
        return self._answers[name]

    def _searched(self, lake: Lake, content: Mapping[str, bytes]) -> Iterator[str]:
        live = [key for key, data in content.items() if _stored(data)]
        for opened in self._opened(lake):
            if isinstance(opened, str):
                yield opened
            else:
                searcher = opened.index.searcher
                yield from _compared("the index", searcher.keys(range(searcher.rows))["image_key"].to_pylist(), live)

    def _opened(self, lake: Lake) -> Iterator[Reader | str]:
        """The published index with its files verified, or why it can't be opened."""
        if lake.indexes.current() is not None:
            try:
                yield Reader(lake, self.cache)
            except (LakeError, IndexingError) as error:
                yield f"the published index can't be opened: {error}"

    def _versions(self, lake: Lake) -> Iterator[str]:
        for versions in (lake.looks, lake.models, lake.indexes):
            for version in versions.known():
                try:
                    versions.fetch(version, self.cache)
                except LakeError as error:
                    yield f"{versions.kind} version {version} can't be read: {error}"


def sha256(data: bytes) -> str:
    """The name of a content."""
    return hashlib.sha256(data).hexdigest()


@lru_cache(10_000)
def _stored(data: bytes) -> StoredPicture | None:
    """What the lake must keep of a content; None of one that is no picture."""
    try:
        return read_picture(data)
    except Undecodable:
        return None


def _compared(where: str, found: Iterable[str], expected: Iterable[str]) -> Iterator[str]:
    counted, there = Counter(found), set(expected)
    yield from (f"{key} is lost from {where}" for key in there - counted.keys())
    yield from (f"{key} is in {where} and should not" for key in counted.keys() - there)
    yield from (f"{key} is {times} times in {where}" for key, times in counted.items() if times > 1)


def _doubled(sql: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Work that was done twice: one content answered twice, one state of a picture written twice."""
    for table, version in (("embedding", "look_version"), ("score", "model_version")):
        rows = sql.execute(f"SELECT sha256 FROM {table}_history GROUP BY sha256, {version} HAVING count(*) > 1")
        yield from (f"content {name} is doubled in {table}_history" for (name,) in rows.fetchall())
    rows = sql.execute(
        """
        SELECT image_key FROM image_history
        QUALIFY status <> 'deleted' AND (etag, size_bytes, status) = lag((etag, size_bytes, status))
                OVER (PARTITION BY image_key ORDER BY ingested_at)
        """
    )
    yield from (f"a state of {key} is doubled in image_history" for (key,) in rows.fetchall())


def _runs(sql: duckdb.DuckDBPyConnection, runs: Sequence[tuple[Work, str]]) -> Iterator[str]:
    """Each run that was begun has one row, and it says what became of it."""
    rows: dict[str, str] = dict(sql.execute("SELECT run_id, status FROM runs").fetchall())
    allowed: dict[str, set[str | None]] = {
        "completed": {"completed"},
        # completed: all but catalogue.duckdb was written; None: it was not let in, or the store was away to the end
        "failed": {"failed", "crashed", "completed", None},
        "killed": {"crashed", "completed", "failed", None},  # killed before its sign of life, or after its row
    }
    for work, outcome in runs:
        if rows.get(work.run_id) not in allowed[outcome]:
            yield f"run {work.run_id} {outcome}, and its row says {rows.get(work.run_id)}"
    lost = sql.execute(
        "SELECT run_id FROM runs WHERE status = 'completed' AND flow = 'ingest-catalogue' "
        "AND listed <> unchanged + ingested + rejected + failed"
    )
    yield from (f"the counts of run {name} do not add up" for (name,) in lost.fetchall())


def _epochs(lake: Lake) -> Iterator[str]:
    """No commit of a run after one of the run that took over from it, in any log."""
    for name in FENCED:
        epochs = list(_committed_under(getattr(lake, name)))
        if epochs != sorted(epochs):
            yield f"two writers in {name}: commits under epochs {epochs}"
        if 0 in epochs[1:]:
            yield f"a commit to {name} under no lease"
    for versions in (lake.looks, lake.models, lake.indexes):
        paths = [path for path in lake.store.names(f"{versions.kind}/log") if path.endswith(".json")]
        epochs = [json.loads(lake.store.get(path))["epoch"] for path in paths]
        if epochs != sorted(epochs):
            yield f"two writers in the log of {versions.kind}: epochs {epochs}"


def _committed_under(table: Table) -> Iterator[int]:
    for path in table.store.names(f"{table.name}/_delta_log"):
        if re.search(r"/\d{20}\.json$", path):
            actions = [json.loads(line) for line in table.store.get(path).splitlines()]
            said = (each["txn"]["version"] for each in actions if each.get("txn", {}).get("appId") == WRITER)
            yield max(said, default=0)
