"""nightly: ingest, score, index; afterwards SQL and search agree on the night's pictures."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import flow

from flows.ingest import IngestSummary, ingest_catalogue
from flows.parameters import IngestParameters, NightlyParameters, RebuildParameters, ScoreParameters
from flows.rebuild import IndexSummary, rebuild_index
from flows.running import running
from flows.score import ScoreSummary, score_catalogue
from tasks.errors import CountsDisagree
from tasks.models import require_model


@dataclass(frozen=True)
class NightSummary:
    """One night."""

    ingest: IngestSummary
    score: ScoreSummary
    index: IndexSummary


@flow(name="nightly")
def nightly(parameters: NightlyParameters = NightlyParameters()) -> NightSummary:  # noqa: B008 (never changed)
    """Bring images, scores and the published index up to date with the source."""
    lake, source = parameters.lake_uri, parameters.source_uri
    with running("nightly", lake, source=source) as run:
        require_model(run.lake)  # said at once rather than after hours of fetching
        ingested = ingest_catalogue(parameters.part(IngestParameters))
        scored = score_catalogue(parameters.part(ScoreParameters))
        indexed = rebuild_index(parameters.part(RebuildParameters))
        run.count(
            listed=ingested.listed,
            skipped=ingested.skipped,
            unchanged=ingested.unchanged,
            ingested=ingested.ingested,
            rejected=ingested.rejected,
            failed=ingested.failed,
            deleted=ingested.deleted,
            live=ingested.live,
            model_version=scored.model_version,
            already_scored=scored.already_scored,
            scored=scored.scored,
            index_version=indexed.index_version,
            indexed=indexed.rows,
            published=indexed.is_new,
        )
        _check_counts(ingested, scored, indexed)
    return NightSummary(ingested, scored, indexed)


def _check_counts(ingested: IngestSummary, scored: ScoreSummary, indexed: IndexSummary) -> None:
    """What ingest left alive is what was scored and what is searched."""
    if not ingested.live == scored.live == indexed.rows:
        raise CountsDisagree(
            f"the night lost count: {ingested.live} live pictures after ingest, {scored.live} looked at by scoring, "
            f"{indexed.rows} in the index: another run was at work, run it again"
        )
