"""nightly: ingest, score, index; afterwards SQL and search agree on the night's pictures."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import flow

from flows.ingest import IngestSummary, counts_of_ingest, ingest_catalogue
from flows.parameters import IngestParameters, NightlyParameters, RebuildParameters, ScoreParameters
from flows.rebuild import IndexSummary, counts_of_index, rebuild_index
from flows.running import running
from flows.score import ScoreSummary, counts_of_score, score_catalogue
from tasks.errors import CountsDisagree
from tasks.models import require_model
from tasks.stage_times import StageTime, bottleneck


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


@flow(name="nightly")
def nightly(parameters: NightlyParameters = NightlyParameters()) -> NightSummary:  # noqa: B008 (never changed)
    """Bring images, scores and the published index up to date with the source."""
    lake, source = parameters.lake_uri, parameters.source_uri
    with running("nightly", lake, source=source) as run:
        version = require_model(run.lake)  # said at once rather than after hours of fetching, and kept all night
        ingested = ingest_catalogue(parameters.part(IngestParameters))
        run.count(**counts_of_ingest(ingested))
        scored = score_catalogue(parameters.part(ScoreParameters, model_version=version))
        run.count(**counts_of_score(scored))
        indexed = rebuild_index(parameters.part(RebuildParameters, model_version=version))
        run.count(**counts_of_index(indexed))
        _check_counts(ingested, scored, indexed)
        times = run.times()
        return NightSummary(ingested, scored, indexed, run.seconds, run.pictures_per_second(), times, bottleneck(times))


def _check_counts(ingested: IngestSummary, scored: ScoreSummary, indexed: IndexSummary) -> None:
    """What ingest left alive is what was scored and what is searched."""
    if not ingested.live == scored.live == indexed.rows:
        raise CountsDisagree(
            f"the night lost count: {ingested.live} live pictures after ingest, {scored.live} looked at by scoring, "
            f"{indexed.rows} in the index: another run was at work, run it again"
        )
