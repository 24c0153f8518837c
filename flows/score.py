"""score-catalogue: rows in `scores` for the pictures that a model has not seen."""

from __future__ import annotations

from dataclasses import dataclass

from flows.on_prefect import stated
from flows.parameters import ScoreParameters
from flows.running import each, running, threads
from tasks.device_lock import device_lock
from tasks.models import require_model
from tasks.score.units import ScoredShard, ScorePlan, commit_scores, plan_scoring, score_shard
from tasks.timing import StageTime, merged

SHARDS_AT_ONCE = 4  # one feeds the device, one is written, one is read ahead; and one for a second GPU


@dataclass(frozen=True)
class ScoreSummary:
    """What was scored: contents = already scored + scored; several pictures may have one content."""

    model_version: int
    live: int
    contents: int
    already_scored: int
    scored: int
    arithmetic: str | None = None  # in which numbers the network computed; None where it had nothing to do
    pictures_per_second: float | None = None
    times: tuple[StageTime, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.contents} different pictures: {self.already_scored} already scored, {self.scored} scored under "
            f"model {self.model_version}"
        )


@stated("score-catalogue", task_runner=threads(SHARDS_AT_ONCE))
def score_catalogue(parameters: ScoreParameters = ScoreParameters()) -> ScoreSummary:  # noqa: B008 (never changed)
    """Score every live picture whose content the model has not scored, and commit in one transaction."""
    config = parameters.score_config()
    with running("score-catalogue", parameters.lake_uri) as run:
        version = parameters.model_version or require_model(run.lake)
        run.lake.models.require(version)
        with run.stage("find unscored pictures"):
            plan = plan_scoring(run.lake, version, run.run_id, config)
        with run.stage("score", plan.to_score) as stage, device_lock(config.device_lock if plan.shards else None):
            shards = each(
                plan.shards,
                lambda shard: score_shard.submit(run.lake, version, run.run_id, shard, config, plan.to_score),
                key="score-progress",
                what=f"Pictures scored under model {version}",
            )
        with run.stage("commit scores"):
            commit_scores(run.lake, run.run_id, plan, shards)
        summary = _summarise(plan, shards, stage.seconds)
        stage.times = summary.times
        run.count(**counts_of_score(summary))
    return summary


def counts_of_score(summary: ScoreSummary) -> dict[str, int | str | None]:
    """The summary as columns of `runs`."""
    return {
        name: getattr(summary, name) for name in ("model_version", "live", "already_scored", "scored", "arithmetic")
    }


def _summarise(plan: ScorePlan, shards: list[ScoredShard], seconds: float) -> ScoreSummary:
    scored = sum(shard.scored for shard in shards)
    return ScoreSummary(
        model_version=plan.model_version,
        live=plan.live,
        contents=plan.contents,
        already_scored=plan.already_scored,
        scored=scored,
        arithmetic=shards[-1].arithmetic if shards else None,
        pictures_per_second=scored / seconds if scored else None,
        times=tuple(
            StageTime(time_.name, time_.busy_s, max(0.0, seconds - time_.busy_s))
            for time_ in merged(time_ for shard in shards for time_ in shard.times)
        ),
    )
