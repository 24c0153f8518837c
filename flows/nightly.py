"""nightly: ingest, score, index; afterwards SQL and search agree on the night's pictures."""

from __future__ import annotations

from dataclasses import dataclass

from flows.ingest import IngestSummary, counts_of_ingest, ingest_catalogue
from flows.on_prefect import log, stated
from flows.parameters import IngestParameters, NightlyParameters, RebuildParameters, ScoreParameters
from flows.rebuild import IndexSummary, counts_of_index, rebuild_index
from flows.running import Run, running
from flows.score import ScoreSummary, counts_of_score, score_catalogue
from lake.errors import ModelReplaced
from tasks.errors import CountsDisagree
from tasks.models import require_model
from tasks.timing import StageTime, bottleneck

ATTEMPTS = 3  # a person rolls back once or twice in a night


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


@stated("nightly")
def nightly(parameters: NightlyParameters = NightlyParameters()) -> NightSummary:  # noqa: B008 (never changed)
    """Bring images, scores and the published index up to date with the source."""
    source = parameters.source_uri
    with running("nightly", parameters.lake_uri, source=source) as run:
        require_model(run.lake)  # said at once rather than after hours of fetching
        ingested = ingest_catalogue(parameters.part(IngestParameters))
        log("ingest: %s", ingested)
        run.count(**counts_of_ingest(ingested))
        scored, indexed = _serve(run, parameters)
        run.count(**counts_of_score(scored))
        run.count(**counts_of_index(indexed))
        _check_counts(ingested, scored, indexed)
        times = run.times()
        return NightSummary(ingested, scored, indexed, run.seconds, run.pictures_per_second(), times, bottleneck(times))


def _serve(run: Run, parameters: NightlyParameters) -> tuple[ScoreSummary, IndexSummary]:
    """Score and index under the promoted model, and again where a rollback puts another in its place meanwhile."""
    for attempt in range(ATTEMPTS):
        version = require_model(run.lake)
        scored = score_catalogue(parameters.part(ScoreParameters, model_version=version))
        log("score: %s", scored)
        try:
            indexed = rebuild_index(parameters.part(RebuildParameters, model_version=version))
        except ModelReplaced as error:
            if attempt == ATTEMPTS - 1:
                raise
            log("again: %s", error)
        else:
            log("index: %s", indexed)
            return scored, indexed
    raise AssertionError("the last attempt returns or raises")


def _check_counts(ingested: IngestSummary, scored: ScoreSummary, indexed: IndexSummary) -> None:
    """What ingest left alive is what was scored and what is searched."""
    if not ingested.live == scored.live == indexed.rows:
        raise CountsDisagree(
            f"the night lost count: {ingested.live} live pictures after ingest, {scored.live} looked at by scoring, "
            f"{indexed.rows} in the index: another run was at work, run it again"
        )
