"""Score: embeddings and scores of the pictures that the look or the model has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from lake.lake import Lake
from tasks.device_lock import device_lock
from tasks.looks import require_look
from tasks.runner import Runner
from tasks.runs import running
from tasks.score.config import ScoreConfig
from tasks.score.units import ScoredShard, ScorePlan, commit_scores, plan_scoring, score_shard, serve_model
from tasks.timing import StageTime, merged

SHARDS_AT_ONCE = 4  # one feeds the device, one is written, one is read ahead; and one for a second GPU


@dataclass(frozen=True)
class ScoreSummary:
    """What was embedded and scored: contents = already embedded + embedded = already scored + scored.

    Several pictures may have one content. Without a model nothing is scored.
    """

    look_version: int
    model_version: int | None
    live: int
    contents: int
    already_embedded: int
    embedded: int
    already_scored: int
    scored: int
    serves_since: bool = False  # whether this run moved readers to the model
    arithmetic: str | None = None  # in which numbers the network computed; None where it had nothing to do
    pictures_per_second: float | None = None
    times: tuple[StageTime, ...] = ()

    def __str__(self) -> str:
        scored = "no model of polarity yet"
        if self.model_version is not None:
            scored = f"{self.scored} scored under model {self.model_version}"
        return f"{self.contents} different pictures: {self.embedded} embedded under look {self.look_version}, {scored}"

    def counts(self) -> dict[str, int | str | None]:
        """The summary as columns of `runs`."""
        names = (
            "look_version",
            "model_version",
            "live",
            "already_embedded",
            "embedded",
            "already_scored",
            "scored",
            "arithmetic",
        )
        return {name: getattr(self, name) for name in names}


def score(
    lake: Lake,
    config: ScoreConfig,
    runner: Runner,
    *,
    look_version: int | None = None,
    model_version: int | None = None,
) -> ScoreSummary:
    """Embed and score every live picture whose content the look or the model has not seen.

    Both are the promoted ones unless another is named. Where no model was trained yet, pictures are embedded only.
    Readers move to the promoted model once its scores are complete. Raises LakeError where there is no look.
    """
    with running(lake, "score-catalogue", runner) as run:
        lake = run.lake
        look, model = look_version or require_look(lake), model_version or lake.models.current()
        lake.looks.require(look)
        if model is not None:
            lake.models.require(model)
        with run.stage("find unseen pictures"):
            plan = runner.call(plan_scoring, lake, look, model, run.run_id, config)
        with run.stage("score", plan.work) as stage, device_lock(config.device_lock if plan.passes else None):
            shards: list[ScoredShard] = []
            for each in plan.passes:
                predict = partial(score_shard, lake, run.run_id, through=each, config=config)
                shards += runner.map(predict, each.shards, at_once=SHARDS_AT_ONCE, key="score-progress")
        with run.stage("commit scores"):
            runner.call(commit_scores, lake, run.run_id, plan, shards)
            serves = runner.call(serve_model, lake, plan)
        summary = _summarise(plan, shards, serves, stage.seconds)
        stage.times = summary.times
        run.count(**summary.counts())
    return summary


def _summarise(plan: ScorePlan, shards: list[ScoredShard], serves: bool, seconds: float) -> ScoreSummary:
    return ScoreSummary(
        look_version=plan.look_version,
        model_version=plan.model_version,
        live=plan.live,
        contents=plan.contents,
        already_embedded=plan.already_embedded,
        embedded=plan.to_embed,
        already_scored=plan.already_scored,
        scored=plan.to_score,
        serves_since=serves,
        arithmetic=shards[-1].arithmetic if shards else None,
        pictures_per_second=plan.work / seconds if shards else None,
        times=tuple(
            StageTime(time_.name, time_.busy_s, max(0.0, seconds - time_.busy_s))
            for time_ in merged(time_ for shard in shards for time_ in shard.times)
        ),
    )
