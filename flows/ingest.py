"""ingest-catalogue: rows in `images` for what is new, changed or gone in the source."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass

from flows.on_prefect import stated
from flows.parameters import IngestParameters
from flows.running import each, running, threads
from lake.errors import StoreUnavailable
from tasks.ingest.units import IngestedShard, IngestPlan, check_images, commit_images, ingest_shard, plan_ingest
from tasks.timing import within

logger = logging.getLogger(__name__)

SHARDS_AT_ONCE = 2  # one is written while the next is decoded
MAX_FAILED_SHARE = 0.1  # of the pictures asked for; beyond it the run is no success


@dataclass(frozen=True)
class IngestSummary:
    """What became of the source's pictures: listed = unchanged + ingested + rejected + failed."""

    source: str
    listed: int
    skipped: int
    unchanged: int
    ingested: int
    rejected: int
    failed: int
    deleted: int
    live: int

    def __str__(self) -> str:
        failed = f", {self.failed} not fetched" if self.failed else ""
        return (
            f"{self.listed} pictures listed: {self.unchanged} unchanged, {self.ingested} ingested, "
            f"{self.rejected} rejected{failed}; {self.deleted} deleted"
        )


@stated("ingest-catalogue", task_runner=threads(SHARDS_AT_ONCE))
def ingest_catalogue(parameters: IngestParameters = IngestParameters()) -> IngestSummary:  # noqa: B008 (never changed)
    """Find new, changed and deleted pictures, read them, and commit their rows in one transaction."""
    source, config = parameters.source_uri, parameters.ingest_config()
    with running("ingest-catalogue", parameters.lake_uri, source=source, create=True) as run:
        with run.stage("list and compare") as planning:
            plan = plan_ingest(run.lake, source, run.run_id, config)
        planning.times = plan.times
        with run.stage("fetch and decode", plan.new + plan.changed) as reading:
            shards = each(
                plan.shards,
                lambda shard: ingest_shard.submit(run.lake, source, run.run_id, shard, plan.ingested_at, config),
                key="ingest-progress",
                what="Pictures fetched and decoded",
            )
        reading.times = within((spent for shard in shards for spent in shard.times), reading.seconds)
        with run.stage("commit images"):
            commit_images(run.lake, run.run_id, plan, shards)
            live = check_images(run.lake, plan, shards)
        summary = _summarise(plan, shards, live)
        run.count(**counts_of_ingest(summary))
        _check_failed(plan, summary)
    return summary


def counts_of_ingest(summary: IngestSummary) -> dict[str, int]:
    """The summary as columns of `runs`."""
    return {name: value for name, value in asdict(summary).items() if name != "source"}


def _summarise(plan: IngestPlan, shards: list[IngestedShard], live: int) -> IngestSummary:
    return IngestSummary(
        source=plan.source,
        listed=plan.listed,
        skipped=plan.skipped,
        unchanged=plan.unchanged,
        ingested=sum(shard.ingested for shard in shards),
        rejected=sum(shard.rejected for shard in shards),
        failed=sum(shard.failed for shard in shards),
        deleted=plan.deleted,
        live=live,
    )


def _check_failed(plan: IngestPlan, summary: IngestSummary) -> None:
    asked = plan.new + plan.changed
    if summary.failed > MAX_FAILED_SHARE * asked:
        raise StoreUnavailable(
            f"{summary.failed} of {asked} pictures could not be fetched from {plan.source}; the others are "
            "committed, run it again for the rest"
        )
