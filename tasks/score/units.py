"""From stored pixels to rows of `embeddings` and `scores`: find what is missing, decode, predict, write, commit.

Pictures are seen by content: of several keys with the same sha256 one is decoded, and what a look or a model has
answered is left alone. Where both stand on one trunk, one forward pass answers for both.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lake import catalogue
from lake.errors import LostRace, ModelReplaced
from lake.lake import Lake
from lake.log import Entry
from lake.tables import Part
from tasks import progress
from tasks.errors import CountsDisagree
from tasks.located_rows import opener
from tasks.predictors import predictor, share_trunk, usable_devices
from tasks.score.config import ScoreConfig
from tasks.score.rows import embedding_rows, read_pixels, score_rows
from tasks.shards import Shard, in_tables, read_shard, write_shard
from tasks.timing import StageTime

if TYPE_CHECKING:  # it brings torch, which a night without new pictures never needs
    from tasks.score.scorer import Scorer

logger = logging.getLogger(__name__)

_making = threading.Lock()
_scorers: dict[str, Scorer] = {}

# One row for each content that the look or the model has not answered, where its pixels lie, and who has not.
UNSEEN = """
    CREATE TEMP TABLE unseen AS
    SELECT sha256, min_by(url, image_key) AS url, min_by(row, image_key) AS row,
           bool_or(NOT is_embedded) AS embeds, $model IS NOT NULL AND bool_or(NOT is_scored) AS scores
    FROM (
        SELECT stored_pictures.*, embedded.sha256 IS NOT NULL AS is_embedded, scored.sha256 IS NOT NULL AS is_scored
        FROM stored_pictures
        LEFT JOIN (SELECT DISTINCT sha256 FROM embedding_history WHERE look_version = $look) AS embedded USING (sha256)
        LEFT JOIN (SELECT DISTINCT sha256 FROM score_history WHERE model_version = $model) AS scored USING (sha256)
        WHERE embedded.sha256 IS NULL OR ($model IS NOT NULL AND scored.sha256 IS NULL)
    )
    GROUP BY sha256
"""
COUNTS = """
    SELECT live, contents, (SELECT count(*) FROM unseen WHERE embeds), (SELECT count(*) FROM unseen WHERE scores)
    FROM (SELECT count(*) AS live, count(DISTINCT sha256) AS contents FROM images)
"""


@dataclass(frozen=True)
class Pass:
    """Contents that go through one trunk together: for their embeddings, their scores or both."""

    look_version: int | None
    model_version: int | None
    shards: tuple[Shard, ...]

    @property
    def contents(self) -> int:
        """How many they are."""
        return sum(shard.rows for shard in self.shards)


@dataclass(frozen=True)
class ScorePlan:
    """What the look and the model have not seen yet."""

    look_version: int
    model_version: int | None  # None: no model was trained yet
    newest: Entry | None  # of the models' log, when the plan was made
    live: int  # pictures
    contents: int  # different pictures among them
    to_embed: int  # contents
    to_score: int
    passes: tuple[Pass, ...] = ()

    @property
    def already_embedded(self) -> int:
        """Contents that have an embedding under the look."""
        return self.contents - self.to_embed

    @property
    def already_scored(self) -> int:
        """Contents that have a score under the model; 0 without one."""
        return 0 if self.model_version is None else self.contents - self.to_score

    @property
    def work(self) -> int:
        """Contents that go through a trunk; one that goes through two counts twice."""
        return sum(each.contents for each in self.passes)


@dataclass(frozen=True)
class ScoredShard:
    """One shard's parts, not yet committed."""

    embeddings: Part | None
    scores: Part | None
    times: tuple[StageTime, ...]
    arithmetic: str  # in which numbers, as "bfloat16, compiled"


def plan_scoring(
    lake: Lake, look_version: int, model_version: int | None, run_id: str, config: ScoreConfig
) -> ScorePlan:
    """Find the contents without an embedding under the look, or a score under the model; write them in shards."""
    newest = lake.models.newest()
    shared = model_version is not None and share_trunk(lake, look_version, model_version)
    with catalogue.workbench(lake) as sql:
        plan = _count(sql, look_version, model_version, newest)
        passes: list[Pass] = []
        for embeds, scores, rows in _passes(shared):
            begun = sum(len(each.shards) for each in passes)
            # In the order of the files, so that a shard reads each of its files once.
            found = sql.execute(f"SELECT sha256, url, row FROM unseen WHERE {rows} ORDER BY url, row")
            tables = in_tables(found.to_arrow_reader(config.shard_pictures), config.shard_pictures)
            shards = tuple(
                write_shard(lake.store, run_id, "score", number, table) for number, table in enumerate(tables, begun)
            )
            passes.append(Pass(look_version if embeds else None, model_version if scores else None, shards))
    return replace(plan, passes=tuple(each for each in passes if each.shards))


def _passes(shared: bool) -> Iterator[tuple[bool, bool, str]]:
    """Whether each pass embeds and scores, and the rows of `unseen` that it takes."""
    if shared:
        yield True, True, "embeds AND scores"
        yield True, False, "embeds AND NOT scores"
        yield False, True, "scores AND NOT embeds"
    else:
        yield True, False, "embeds"
        yield False, True, "scores"


def preview_scoring(lake: Lake, look_version: int, model_version: int | None) -> ScorePlan:
    """What `plan_scoring` would count, without writing anything."""
    with catalogue.workbench(lake) as sql:
        return _count(sql, look_version, model_version, None)


def score_shard(
    lake: Lake,
    run_id: str,
    shard: Shard,
    *,
    through: Pass,
    config: ScoreConfig,
) -> ScoredShard:
    """Predict the pictures of one shard of a pass and write their embeddings and scores as parts, not yet committed."""
    from model.predict import Predictions

    rows = read_shard(lake.store, shard)
    look_version, model_version = through.look_version, through.model_version
    scorer, load_s = _resident_scorer(lake, look_version, model_version, shard.number, config)
    watches = scorer.watches()
    jpegs = read_pixels(rows, opener(lake.store), watches.read)
    predictions = []
    for some in scorer.score(jpegs, watches, pictures=rows.num_rows, of=through.contents):
        predictions.append(some)
        progress.advance(len(some))
    answers, name = Predictions.concatenate(predictions), f"{run_id}-{shard.number:05d}"
    embeddings = scores = None
    with watches.write.busy():
        if look_version is not None:
            table = embedding_rows(rows, answers.embedding)
            embeddings = lake.embeddings.write_part(table, name, partition={"look_version": str(look_version)})
        if model_version is not None:
            table = score_rows(rows, answers)
            scores = lake.scores.write_part(table, name, partition={"model_version": str(model_version)})
    logger.info(
        "shard %d: %d pictures under look %s, model %s", shard.number, len(answers), look_version, model_version
    )
    times = (StageTime("load network", load_s, 0.0), *watches.times())
    return ScoredShard(embeddings, scores, times, scorer.model.arithmetic)


def commit_scores(lake: Lake, run_id: str, plan: ScorePlan, shards: list[ScoredShard]) -> None:
    """Make the run's embeddings and scores visible, a transaction a table.

    Raises CountsDisagree before anything is committed.
    """
    embeddings = [shard.embeddings for shard in shards if shard.embeddings is not None]
    scores = [shard.scores for shard in shards if shard.scores is not None]
    for parts, expected, verb in ((embeddings, plan.to_embed, "embedded"), (scores, plan.to_score, "scored")):
        rows = sum(part.rows for part in parts)
        if rows != expected:
            raise CountsDisagree(
                f"scoring lost count: {expected} different pictures were to be {verb}, {rows} were; nothing was "
                "committed, run it again"
            )
    lake.embeddings.commit(embeddings, application_id=f"embed-{run_id}")
    lake.scores.commit(scores, application_id=f"score-{run_id}")


def serve_model(lake: Lake, plan: ScorePlan) -> bool:
    """Have readers use the promoted model, whose scores are complete now; whether they used another before.

    Raises ModelReplaced where another was promoted meanwhile.
    """
    newest, version = plan.newest, plan.model_version
    if newest is None or version is None or version != newest.current or version == newest.serving:
        return False
    try:
        lake.models.append("serve", version, based_on=newest, reason=f"{plan.contents} different pictures are scored")
    except LostRace as error:
        raise ModelReplaced(f"another model was put in place of model {version} meanwhile; run it again") from error
    return True


def _count(sql: Any, look_version: int, model_version: int | None, newest: Entry | None) -> ScorePlan:
    """The counts of the plan; `unseen` then holds what is to be done."""
    sql.execute(UNSEEN, {"look": look_version, "model": model_version})
    live, contents, to_embed, to_score = map(int, sql.execute(COUNTS).fetchone())
    return ScorePlan(look_version, model_version, newest, live, contents, to_embed, to_score)


def _resident_scorer(
    lake: Lake, look_version: int | None, model_version: int | None, shard: int, config: ScoreConfig
) -> tuple[Scorer, float]:
    """The scorer of these networks on the device that the shard falls to, and how long it took to have it.

    One a device stays with its networks.
    """
    from tasks.score.scorer import make_scorer

    with _making:
        started = time.perf_counter()
        devices = usable_devices(config.device)
        device = devices[shard % len(devices)]
        model = predictor(lake, device, config.precision, look_version=look_version, model_version=model_version)
        scorer = _scorers.get(device)
        if scorer is None or scorer.model is not model or scorer.config != config:
            scorer = _scorers[device] = make_scorer(model, config)
        return scorer, time.perf_counter() - started
