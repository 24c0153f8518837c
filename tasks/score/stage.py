"""Score: rows in `scores` for the pictures that a model has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from lake.lake import Lake
from tasks.device_lock import device_lock
from tasks.models import require_model
from tasks.runner import Runner
from tasks.runs import running
from tasks.score.config import ScoreConfig
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

    def counts(self) -> dict[str, int | str | None]:
        """The summary as columns of `runs`."""
        names = ("model_version", "live", "already_scored", "scored", "arithmetic")
        return {name: getattr(self, name) for name in names}


def score(lake: Lake, config: ScoreConfig, runner: Runner, *, model_version: int | None = None) -> ScoreSummary:
    """Score every live picture whose content the model has not scored, and commit in one transaction.

    The model is the promoted one unless `model_version` names another. Raises LakeError where there is none.
    """
    with running(lake, "score-catalogue", runner) as run:
        lake = run.lake
        version = model_version or require_model(lake)
        lake.models.require(version)
        with run.stage("find unscored pictures"):
            plan = runner.call(plan_scoring, lake, version, run.run_id, config)
        with run.stage("score", plan.to_score) as stage, device_lock(config.device_lock if plan.shards else None):
            predict = partial(score_shard, lake, version, run.run_id, config=config, of=plan.to_score)
            shards = runner.map(predict, plan.shards, at_once=SHARDS_AT_ONCE, key="score-progress")
        with run.stage("commit scores"):
            runner.call(commit_scores, lake, run.run_id, plan, shards)
        summary = _summarise(plan, shards, stage.seconds)
        stage.times = summary.times
        run.count(**summary.counts())
    return summary


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
