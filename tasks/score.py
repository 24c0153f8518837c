"""From stored pixels to rows of `scores`: find what the model has not seen, decode, predict, write, commit.

Pictures are scored by content: of several keys with the same sha256 one is scored, and a content that has a
score under the model is left alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lake import catalogue
from lake.lake import Lake, open_lake
from lake.store import Store
from lake.tables import SCORES, Part, round_to_bfloat16
from model.errors import ModelError
from tasks import progress
from tasks.errors import CountsDisagree
from tasks.models import CLASSES, predictor
from tasks.parallel import bounded_map
from tasks.pictures import prepare
from tasks.units import device_slot, unit
from tasks.workspace import Shard, in_tables, read_shard, write_shard

if TYPE_CHECKING:
    from model.predict import Predictions, Predictor

logger = logging.getLogger(__name__)


# One row for each content that the model has not scored, where its pixels lie.
UNSCORED = """
    SELECT any_value(image_key ORDER BY image_key) AS image_key, sha256, min_by(url, image_key) AS url,
           min_by(row, image_key) AS row
    FROM stored_pictures
    ANTI JOIN (SELECT sha256 FROM score_history WHERE model_version = $model) USING (sha256)
    GROUP BY sha256
"""


@dataclass(frozen=True)
class ScoreConfig:
    """Where the network runs and how much is in flight."""

    device: str = "auto"
    batch_size: int = 64
    shard_pictures: int = 2048
    decode_threads: int = os.cpu_count() or 1
    device_slot: str | None = None  # a Prefect concurrency limit that GPU work holds


@dataclass(frozen=True)
class ScorePlan:
    """What a model has not seen yet."""

    model_version: int
    live: int  # pictures
    contents: int  # different pictures among them
    already_scored: int  # contents
    shards: tuple[Shard, ...]

    @property
    def to_score(self) -> int:
        """Contents that need the network."""
        return self.contents - self.already_scored


@dataclass(frozen=True)
class ScoredShard:
    """One shard's part, and how many contents it scores."""

    part: Part
    scored: int


@unit
def plan_scoring(lake_uri: str, model_version: int, run_id: str, config: ScoreConfig) -> ScorePlan:
    """Find the contents without a score under the model and write them in shards."""
    lake = open_lake(lake_uri)
    with catalogue.workbench(lake) as sql:
        plan = _count(sql, model_version)
        # In the order of the files, so that a shard reads each of its files once.
        unscored = sql.execute(f"{UNSCORED} ORDER BY url, row", {"model": model_version})
        tables = in_tables(unscored.to_arrow_reader(config.shard_pictures), config.shard_pictures)
        shards = [write_shard(lake.store, run_id, "score", number, rows) for number, rows in enumerate(tables)]
    return ScorePlan(plan.model_version, plan.live, plan.contents, plan.already_scored, tuple(shards))


def preview_scoring(lake: Lake, model_version: int) -> ScorePlan:
    """What `plan_scoring` would say, without writing anything."""
    with catalogue.workbench(lake) as sql:
        return _count(sql, model_version)


@unit
def score_shard(lake_uri: str, model_version: int, run_id: str, shard: Shard, config: ScoreConfig) -> ScoredShard:
    """Predict the shard's pictures and write their scores as one part, not yet committed."""
    lake = open_lake(lake_uri)
    rows = read_shard(lake.store, shard)
    with device_slot(config.device_slot):
        model = predictor(lake_uri, model_version, config.device)
        prepared = bounded_map(
            lambda pixels: prepare(pixels, model),
            _read_pixels(lake.store, rows),
            workers=config.decode_threads,
            window=2 * config.batch_size,
        )
        predictions = [_predict(model, batch) for batch in _batches(prepared, config.batch_size)]
    table = _score_rows(rows, predictions)
    part = lake.scores.write_part(
        table, f"{run_id}-{shard.number:05d}", partition={"model_version": str(model_version)}
    )
    logger.info("shard %d: %d scored under model %d", shard.number, part.rows, model_version)
    return ScoredShard(part, part.rows)


@unit
def commit_scores(lake_uri: str, run_id: str, plan: ScorePlan, shards: list[ScoredShard]) -> None:
    """Make the run's scores visible in one transaction. Raises CountsDisagree before anything is committed."""
    scored = sum(shard.scored for shard in shards)
    if plan.contents != plan.already_scored + scored:
        raise CountsDisagree(
            f"scoring lost count: {plan.contents} different pictures, but {plan.already_scored} already scored + "
            f"{scored} scored; nothing was committed, run it again"
        )
    parts = [shard.part for shard in shards]
    open_lake(lake_uri).scores.commit(parts, application_id=f"score-{run_id}")


def _count(sql: Any, model_version: int) -> ScorePlan:
    live, contents = sql.execute("SELECT count(*), count(DISTINCT sha256) FROM images").fetchone()
    (unscored,) = sql.execute(f"SELECT count(*) FROM ({UNSCORED})", {"model": model_version}).fetchone()
    return ScorePlan(model_version, int(live), int(contents), int(contents) - int(unscored), ())


def _read_pixels(store: Store, rows: pa.Table) -> Iterator[bytes]:
    """The JPEGs of rows that are sorted by file, one row group in memory at a time."""
    root = store.url().rstrip("/") + "/"
    urls, numbers = rows["url"].to_pylist(), rows["row"].to_numpy()
    start = 0
    while start < len(urls):
        end = start + urls[start:].count(urls[start])
        path = urls[start].removeprefix(root)
        yield from _read_rows(pq.ParquetFile(pa.BufferReader(store.get(path))), numbers[start:end])
        start = end


def _read_rows(file: pq.ParquetFile, wanted: np.ndarray) -> Iterator[bytes]:
    first = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        inside = wanted[(wanted >= first) & (wanted < first + count)] - first
        if len(inside):
            pixels = file.read_row_group(group, columns=["pixels"])["pixels"]
            yield from (pixels[int(row)].as_py() for row in inside)
        first += count


def _batches(prepared: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    batch: list[np.ndarray] = []
    for picture in prepared:
        batch.append(picture)
        if len(batch) == size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def _predict(model: Predictor, batch: np.ndarray) -> Predictions:
    predictions = model.predict(batch)
    if not np.isfinite(predictions.embedding).all() or not np.isfinite(predictions.polarity).all():
        raise ModelError("the model gives scores that are not numbers: roll back to an earlier version")
    progress.advance(len(batch))
    return predictions


def _score_rows(rows: pa.Table, predictions: list[Predictions]) -> pa.Table:
    """The predictions as rows of `scores`, without the partition column."""
    embedding = round_to_bfloat16(np.concatenate([found.embedding for found in predictions]))
    labels = np.concatenate([found.labels for found in predictions])
    size = embedding.shape[1]
    offsets = pa.array(np.arange(0, embedding.size + 1, size, dtype=np.int32))
    columns = {
        "image_key": rows["image_key"],
        "sha256": rows["sha256"],
        "polarity": np.concatenate([found.polarity for found in predictions]),
        "label": pa.array(CLASSES).take(pa.array(labels)),
        "positive_intensity": np.concatenate([found.positive_intensity for found in predictions]),
        "negative_intensity": np.concatenate([found.negative_intensity for found in predictions]),
        "embedding": pa.ListArray.from_arrays(
            offsets, pa.array(embedding.reshape(-1)), type=SCORES.field("embedding").type
        ),
        "scored_at": pa.repeat(pa.scalar(datetime.now(UTC), SCORES.field("scored_at").type), rows.num_rows),
    }
    return pa.table(columns)
