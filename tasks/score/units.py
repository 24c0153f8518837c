"""From stored pixels to rows of `scores`: find what the model has not seen, decode, predict, write, commit.

Pictures are scored by content: of several keys with the same sha256 one is scored, and a content that has a
score under the model is left alone.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lake import catalogue
from lake.lake import Lake
from lake.tables import Part
from tasks import progress
from tasks.errors import CountsDisagree
from tasks.located_rows import opener
from tasks.models import predictor, usable_devices
from tasks.score.config import ScoreConfig
from tasks.score.rows import read_pixels, score_rows
from tasks.shards import Shard, in_tables, read_shard, write_shard
from tasks.timing import StageTime

if TYPE_CHECKING:  # it brings torch, which a night without new pictures never needs
    from tasks.score.scorer import Scorer

logger = logging.getLogger(__name__)

_making = threading.Lock()
_scorers: dict[str, Scorer] = {}

# One row for each content that the model has not scored, where its pixels lie.
UNSCORED = """
    SELECT any_value(image_key ORDER BY image_key) AS image_key, sha256, min_by(url, image_key) AS url,
           min_by(row, image_key) AS row
    FROM stored_pictures
    ANTI JOIN (SELECT sha256 FROM score_history WHERE model_version = $model) USING (sha256)
    GROUP BY sha256
"""


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
    times: tuple[StageTime, ...]
    arithmetic: str  # in which numbers, as "bfloat16, compiled"


def plan_scoring(lake: Lake, model_version: int, run_id: str, config: ScoreConfig) -> ScorePlan:
    """Find the contents without a score under the model and write them in shards."""
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


def score_shard(
    lake: Lake, model_version: int, run_id: str, shard: Shard, config: ScoreConfig, of: int = 0
) -> ScoredShard:
    """Predict the shard's pictures and write their scores as one part, not yet committed.

    `of`: how many pictures the whole run scores, which decides whether compiling repays.
    """
    from model.predict import Predictions

    rows = read_shard(lake.store, shard)
    scorer, load_s = _resident_scorer(lake, model_version, shard.number, config)
    watches = scorer.watches()
    jpegs = read_pixels(rows, opener(lake.store), watches.read)
    predictions = []
    for some in scorer.score(jpegs, watches, pictures=rows.num_rows, of=of or rows.num_rows):
        predictions.append(some)
        progress.advance(len(some.polarity))
    with watches.write.busy():
        table = score_rows(rows, Predictions.concatenate(predictions))
        part = lake.scores.write_part(
            table, f"{run_id}-{shard.number:05d}", partition={"model_version": str(model_version)}
        )
    logger.info("shard %d: %d scored under model %d", shard.number, part.rows, model_version)
    times = (StageTime("load network", load_s, 0.0), *watches.times())
    return ScoredShard(part, part.rows, times, scorer.model.arithmetic)


def commit_scores(lake: Lake, run_id: str, plan: ScorePlan, shards: list[ScoredShard]) -> None:
    """Make the run's scores visible in one transaction. Raises CountsDisagree before anything is committed."""
    scored = sum(shard.scored for shard in shards)
    if plan.contents != plan.already_scored + scored:
        raise CountsDisagree(
            f"scoring lost count: {plan.contents} different pictures, but {plan.already_scored} already scored + "
            f"{scored} scored; nothing was committed, run it again"
        )
    parts = [shard.part for shard in shards]
    lake.scores.commit(parts, application_id=f"score-{run_id}")


def _count(sql: Any, model_version: int) -> ScorePlan:
    live, contents = sql.execute("SELECT count(*), count(DISTINCT sha256) FROM images").fetchone()
    (unscored,) = sql.execute(f"SELECT count(*) FROM ({UNSCORED})", {"model": model_version}).fetchone()
    return ScorePlan(model_version, int(live), int(contents), int(contents) - int(unscored), ())


def _resident_scorer(lake: Lake, model_version: int, shard: int, config: ScoreConfig) -> tuple[Scorer, float]:
    """The scorer of the model on the device that the shard falls to, and how long it took to have it.

    One a device stays with its network.
    """
    from tasks.score.scorer import make_scorer

    with _making:
        started = time.perf_counter()
        devices = usable_devices(config.device)
        device = devices[shard % len(devices)]
        model = predictor(lake, model_version, device, config.precision)
        scorer = _scorers.get(device)
        if scorer is None or scorer.model is not model or scorer.config != config:
            scorer = _scorers[device] = make_scorer(model, config)
        return scorer, time.perf_counter() - started
