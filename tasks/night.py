"""The night: ingest, score, rebuild; afterwards SQL and search agree on the night's pictures."""

from __future__ import annotations

from dataclasses import dataclass, field

from lake.errors import ModelReplaced
from lake.lake import Lake
from tasks.config import ModelChoice
from tasks.errors import CountsDisagree
from tasks.ingest.config import IngestConfig
from tasks.ingest.stage import IngestSummary, ingest
from tasks.looks import ensure_look
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
    """How each part of a night does its work, and what a lake's first look is."""

    ingest: IngestConfig = field(default_factory=IngestConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    rebuild: RebuildConfig = field(default_factory=RebuildConfig)
    first_look: ModelChoice = field(default_factory=ModelChoice)


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
    first_look: int | None = None  # registered in this night, for want of one

    def __str__(self) -> str:
        return f"{self.ingest}; {self.score}; {self.index}"


def night(lake: Lake, source: str, config: NightConfig, runner: Runner) -> NightSummary:
    """Bring images, embeddings, scores and the published index up to date with the source.

    A lake without a look gets its first one. Raises what its parts raise; CountsDisagree where they do not agree on how
    many pictures there are.
    """
    with running(lake, "nightly", runner, source=source) as run:
        look, is_new = register_first_look(run, config.first_look)  # before hours of fetching: there may be no weights
        ingested = ingest(run.lake, source, config.ingest, runner)
        runner.say("ingest: %s", ingested)
        run.count(**ingested.counts())
        scored, indexed = _serve(run, config)
        run.count(**scored.counts())
        run.count(**indexed.counts())
        _check_counts(ingested, scored, indexed)
        times = run.times()
        return NightSummary(
            ingest=ingested,
            score=scored,
            index=indexed,
            seconds=run.seconds,
            pictures_per_second=run.pictures_per_second(),
            stage_times=times,
            bottleneck=bottleneck(times),
            first_look=look if is_new else None,
        )


def register_first_look(run: Run, choice: ModelChoice) -> tuple[int, bool]:
    """The lake's look, and whether it is new: a lake without one gets the chosen one. Raises ModelError."""
    look, is_new = run.runner.call(ensure_look, run.lake, choice)
    if is_new:
        run.runner.say("look %d registered, the lake's first: %s weights", look, choice.start)
    return look, is_new


def _serve(run: Run, config: NightConfig) -> tuple[ScoreSummary, IndexSummary]:
    """Score and index under what is promoted, and again where a rollback puts another in its place meanwhile."""
    for attempt in range(ATTEMPTS):
        try:
            scored = score(run.lake, config.score, run.runner)
            run.runner.say("score: %s", scored)
            indexed = rebuild(run.lake, config.rebuild, run.runner, look_version=scored.look_version)
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
