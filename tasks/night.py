"""The night: ingest, score, rebuild; afterwards SQL and search agree on the night's pictures."""

from __future__ import annotations

from dataclasses import dataclass, field

from lake.errors import ModelReplaced
from lake.lake import Lake
from tasks.errors import CountsDisagree
from tasks.ingest.config import IngestConfig
from tasks.ingest.stage import IngestSummary, ingest
from tasks.models import require_model
from tasks.rebuild.config import RebuildConfig
from tasks.rebuild.stage import IndexSummary, rebuild
from tasks.runner import Runner
from tasks.runs import Run, running
from tasks.score.config import ScoreConfig
from tasks.score.stage import ScoreSummary, score
from tasks.timing import StageTime, bottleneck

ATTEMPTS = 3  # a person rolls back once or twice in a night


@dataclass(frozen=True)
class NightConfig:
    """How each part of a night does its work."""

    ingest: IngestConfig = field(default_factory=IngestConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    rebuild: RebuildConfig = field(default_factory=RebuildConfig)


@dataclass(frozen=True)
class NightSummary:
    """One night, and where its time went."""

    ingest: IngestSummary
    score: ScoreSummary
    index: IndexSummary
    seconds: float
    pictures_per_second: float | None  # of those that were new or changed, while they were worked on
    stage_times: tuple[StageTime, ...]
    bottleneck: str | None  # the stage that the others waited for

    def __str__(self) -> str:
        return f"{self.ingest}; {self.score}; {self.index}"


def night(lake: Lake, source: str, config: NightConfig, runner: Runner) -> NightSummary:
    """Bring images, scores and the published index up to date with the source.

    Raises what its parts raise; CountsDisagree where they do not agree on how many pictures there are.
    """
    with running(lake, "nightly", runner, source=source) as run:
        require_model(run.lake)  # said at once rather than after hours of fetching
        ingested = ingest(run.lake, source, config.ingest, runner)
        runner.say("ingest: %s", ingested)
        run.count(**ingested.counts())
        scored, indexed = _serve(run, config)
        run.count(**scored.counts())
        run.count(**indexed.counts())
        _check_counts(ingested, scored, indexed)
        times = run.times()
        return NightSummary(ingested, scored, indexed, run.seconds, run.pictures_per_second(), times, bottleneck(times))


def _serve(run: Run, config: NightConfig) -> tuple[ScoreSummary, IndexSummary]:
    """Score and index under the promoted model, and again where a rollback puts another in its place meanwhile."""
    for attempt in range(ATTEMPTS):
        version = require_model(run.lake)
        scored = score(run.lake, config.score, run.runner, model_version=version)
        run.runner.say("score: %s", scored)
        try:
            indexed = rebuild(run.lake, config.rebuild, run.runner, model_version=version)
        except ModelReplaced as error:
            if attempt == ATTEMPTS - 1:
                raise
            run.runner.say("again: %s", error)
        else:
            run.runner.say("index: %s", indexed)
            return scored, indexed
    raise AssertionError("the last attempt returns or raises")


def _check_counts(ingested: IngestSummary, scored: ScoreSummary, indexed: IndexSummary) -> None:
    """What ingest left alive is what was scored and what is searched."""
    if not ingested.live == scored.live == indexed.rows:
        raise CountsDisagree(
            f"the night lost count: {ingested.live} live pictures after ingest, {scored.live} looked at by scoring, "
            f"{indexed.rows} in the index: another run was at work, run it again"
        )
