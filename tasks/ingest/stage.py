"""Ingest: rows in `images` for what is new, changed or gone in the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from lake.lake import Lake
from tasks.errors import SourceError
from tasks.ingest.config import IngestConfig
from tasks.ingest.plan import IngestPlan, plan_ingest
from tasks.ingest.units import NAMED, IngestedShard, check_answers, check_images, commit_images, ingest_shard
from tasks.runner import Runner
from tasks.runs import running
from tasks.timing import within

SHARDS_AT_ONCE = 2  # one is written while the next is decoded
COUNTS = (
    "listed",
    "unchanged",
    "ingested",
    "rejected",
    "failed",
    "unreadable",
    "skipped",
    "deleted",
    "unlisted",
    "live",
)


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
    unreadable: int  # of the failed, the ones that the store refuses, and would again
    deleted: int
    unlisted: int  # known pictures in folders that could not be listed: they stay as they are
    renamed: int  # unchanged pictures that belong to another product than before
    live: int
    skipped_by_kind: Mapping[str, int] = field(default_factory=dict)
    first_unreadable: tuple[tuple[str, str], ...] = ()  # keys and reasons, a few
    unreadable_folders: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        failed = f", {self.failed} not fetched" if self.failed else ""
        unlisted = f"; {self.unlisted} in folders that can't be listed left as they were" if self.unlisted else ""
        named = f"; not fetched: {_named(self.first_unreadable)}" if self.first_unreadable else ""
        return (
            f"{self.listed} pictures listed: {self.unchanged} unchanged, {self.ingested} ingested, "
            f"{self.rejected} rejected{failed}; {self.deleted} deleted{unlisted}{named}"
        )

    def counts(self) -> dict[str, object]:
        """The summary as columns of `runs`."""
        kinds = [{"name": name, "objects": objects} for name, objects in self.skipped_by_kind.items()]
        return {name: getattr(self, name) for name in COUNTS} | {"skipped_by_kind": kinds}


def ingest(lake: Lake, source: str, config: IngestConfig, runner: Runner) -> IngestSummary:
    """Find new, changed and deleted pictures, read them, and commit their rows in one transaction.

    Raises SourceError where the source can't be used or has lost too much at once, StoreUnavailable where it as a whole
    is away.
    """
    with running(lake, "ingest-catalogue", runner, source=source) as run:
        lake = run.lake
        with run.stage("list and compare") as planning:
            plan = runner.call(plan_ingest, lake, source, run.run_id, config)
        planning.times = plan.times
        config = replace(config, product_id_pattern=plan.products.pattern)
        with run.stage("fetch and decode", plan.new + plan.changed) as reading:
            read = partial(ingest_shard, lake, source, run.run_id, ingested_at=plan.ingested_at, config=config)
            shards = runner.map(read, plan.shards, at_once=SHARDS_AT_ONCE, key="ingest-progress")
            runner.call(check_answers, source, config, plan, shards)
        reading.times = within((spent for shard in shards for spent in shard.times), reading.seconds)
        _check_damage(plan, shards, config)
        with run.stage("commit images"):
            runner.call(commit_images, lake, run.run_id, plan, shards)
            live = runner.call(check_images, lake, plan, shards)
        summary = _summarise(plan, shards, live)
        run.count(**summary.counts())
    return summary


def _summarise(plan: IngestPlan, shards: Sequence[IngestedShard], live: int) -> IngestSummary:
    same = sum(shard.same for shard in shards)
    unreadable = [each for shard in shards for each in shard.first_unreadable]
    return IngestSummary(
        source=plan.source,
        listed=plan.listed,
        skipped=plan.skipped,
        unchanged=plan.unchanged + same,
        new=plan.new,
        changed=plan.changed - same,
        ingested=sum(shard.ingested for shard in shards),
        rejected=sum(shard.rejected for shard in shards),
        failed=sum(shard.failed for shard in shards),
        unreadable=sum(shard.unreadable for shard in shards),
        deleted=plan.deleted,
        unlisted=plan.unlisted,
        renamed=plan.renamed,
        live=live,
        skipped_by_kind=plan.skipped_by_kind,
        first_unreadable=tuple(unreadable[:NAMED]),
        unreadable_folders=tuple((folder.path, folder.cause) for folder in plan.unreadable_folders),
    )


def _check_damage(plan: IngestPlan, shards: Sequence[IngestedShard], config: IngestConfig) -> None:
    """Raise SourceError where too many live pictures turned undecodable, or did so and vanished, at once."""
    damaged = sum(shard.damaged for shard in shards)
    if not damaged or damaged + plan.deleted_live <= config.max_deleted_share * plan.live:
        return
    first = _named([each for shard in shards for each in shard.first_damaged])
    gone = f", and {plan.deleted_live} are gone" if plan.deleted_live else ""
    raise SourceError(
        f"{damaged} of the {plan.live} pictures that are live can no longer be decoded{gone} ({first}): nothing was "
        f"changed; mend the source {plan.source}, or, if that is meant, allow it with --max-deleted-share 1"
    )


def _named(some: Sequence[tuple[str, str]]) -> str:
    """The first keys, each with its reason."""
    return ", ".join(f"{key}: {reason}" for key, reason in some[:3]) + (", …" if len(some) > 3 else "")
