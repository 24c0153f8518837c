"""Ingest: rows in `images` for what is new, changed or gone in the source."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial

from lake.errors import StoreUnavailable
from lake.lake import Lake
from tasks.ingest.config import IngestConfig
from tasks.ingest.plan import IngestPlan, plan_ingest
from tasks.ingest.units import IngestedShard, check_images, commit_images, ingest_shard
from tasks.runner import Runner
from tasks.runs import running
from tasks.timing import within

SHARDS_AT_ONCE = 2  # one is written while the next is decoded
MAX_FAILED_SHARE = 0.1  # of the pictures asked for; beyond it the run is no success


@dataclass(frozen=True)
class IngestSummary:
    """What became of the pictures: listed = unchanged + new + changed; of these, ingested + rejected + failed."""

    source: str
    listed: int
    skipped: int
    unchanged: int
    new: int
    changed: int
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

    def counts(self) -> dict[str, int]:
        """The summary as columns of `runs`."""
        return {name: count for name, count in asdict(self).items() if name not in ("source", "new", "changed")}


def ingest(lake: Lake, source: str, config: IngestConfig, runner: Runner) -> IngestSummary:
    """Find new, changed and deleted pictures, read them, and commit their rows in one transaction.

    Raises SourceError where the source can't be used, StoreUnavailable where much of it could not be fetched.
    """
    with running(lake, "ingest-catalogue", runner, source=source) as run:
        lake = run.lake
        with run.stage("list and compare") as planning:
            plan = runner.call(plan_ingest, lake, source, run.run_id, config)
        planning.times = plan.times
        with run.stage("fetch and decode", plan.new + plan.changed) as reading:
            read = partial(ingest_shard, lake, source, run.run_id, ingested_at=plan.ingested_at, config=config)
            shards = runner.map(read, plan.shards, at_once=SHARDS_AT_ONCE, key="ingest-progress")
        reading.times = within((spent for shard in shards for spent in shard.times), reading.seconds)
        with run.stage("commit images"):
            runner.call(commit_images, lake, run.run_id, plan, shards)
            live = runner.call(check_images, lake, plan, shards)
        summary = _summarise(plan, shards, live)
        run.count(**summary.counts())
        _check_failed(plan, summary)
    return summary


def _summarise(plan: IngestPlan, shards: list[IngestedShard], live: int) -> IngestSummary:
    return IngestSummary(
        source=plan.source,
        listed=plan.listed,
        skipped=plan.skipped,
        unchanged=plan.unchanged,
        new=plan.new,
        changed=plan.changed,
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
