"""rebuild-index: a published index version of every live picture, where anything changed."""

from __future__ import annotations

from dataclasses import dataclass

from flows.on_prefect import stated
from flows.parameters import RebuildParameters
from flows.running import Run, each, running, threads
from index.errors import BelowTarget
from lake.errors import CorruptFile
from tasks.models import require_model
from tasks.rebuild.plan import IndexPlan, RebuildConfig, plan_index
from tasks.rebuild.units import (
    PublishedIndex,
    draft_index,
    encode_shard,
    measure_index,
    publish_index,
    published,
    replaced,
    republish_index,
    train_index,
)

SHARDS_AT_ONCE = 1  # faiss uses all cores for each


@dataclass(frozen=True)
class IndexSummary:
    """The index version that readers use after the run, and whether the run published it."""

    index_version: int | None  # None: no pictures, no index
    model_version: int
    is_new: bool
    rows: int
    recall_at_1: float | None = None
    recall_at_10: float | None = None
    latency_ms: float | None = None
    shards_kept: int = 0  # of earlier versions
    shards_written: int = 0
    bytes_written: int = 0
    built_because: str = ""  # why nothing of an earlier version served again

    def __str__(self) -> str:
        if self.index_version is None:
            return "no pictures, no index"
        if not self.is_new:
            return f"index {self.index_version} serves on: nothing changed"
        recall = "" if self.recall_at_10 is None else f", recall@10 {self.recall_at_10:.3f}"
        return f"index {self.index_version} published: {self.rows} pictures{recall}"


@stated("rebuild-index", task_runner=threads(SHARDS_AT_ONCE))
def rebuild_index(parameters: RebuildParameters = RebuildParameters()) -> IndexSummary:  # noqa: B008 (never changed)
    """Encode the live pictures' embeddings, measure the search against exact search, publish by one log entry."""
    config = parameters.rebuild_config()
    with running("rebuild-index", parameters.lake_uri) as run:
        version = parameters.model_version or require_model(run.lake)
        run.lake.models.require(version)
        with run.stage("compare with the published index"):
            plan = plan_index(run.lake, version, run.run_id, config, parameters.afresh)
        if run.parent is not None and plan.promoted != version:
            raise replaced(plan.promoted, version)
        found = _bring_up_to_date(run, plan, config)
        summary = _summarise(plan, found)
        run.count(**counts_of_index(summary))
    return summary


def counts_of_index(summary: IndexSummary) -> dict[str, int | bool | None]:
    """The summary as columns of `runs`."""
    return {
        "model_version": summary.model_version,
        "index_version": summary.index_version,
        "indexed": summary.rows,
        "published": summary.is_new,
    }


def _bring_up_to_date(run: Run, plan: IndexPlan, config: RebuildConfig) -> PublishedIndex | None:
    if plan.rows == 0 and plan.newest is None:
        return None
    if plan.is_current and plan.same_as is not None:
        return published(run.lake, plan.same_as)
    if plan.same_as is not None:
        return republish_index(run.lake, plan)
    try:
        return _build(run, plan, config)
    except (BelowTarget, CorruptFile) as error:
        if not plan.reuses:
            raise
        # What served again is worn out or damaged: once more, with nothing of an earlier version.
        with run.stage("compare with the published index"):
            plan = plan_index(run.lake, plan.model_version, run.run_id, config, str(error))
        return _build(run, plan, config)


def _build(run: Run, plan: IndexPlan, config: RebuildConfig) -> PublishedIndex:
    lake = run.lake
    version = draft_index(lake)
    with run.stage("train the quantizers"):
        trained = train_index(lake, version, plan, config)
    with run.stage("encode shards", sum(shard.rows for shard in plan.to_write)):
        encoded = each(
            plan.to_write,
            lambda shard: encode_shard.submit(lake, version, plan, shard, trained),
            key="index-progress",
            what="Index shards encoded",
        )
    with run.stage("measure recall"):
        measured = measure_index(lake, version, plan, trained, encoded, config)
    with run.stage("publish"):
        return publish_index(lake, version, plan, encoded, measured)


def _summarise(plan: IndexPlan, found: PublishedIndex | None) -> IndexSummary:
    if found is None:
        return IndexSummary(None, plan.model_version, is_new=False, rows=0)
    is_new = not plan.is_current
    return IndexSummary(
        index_version=found.version,
        model_version=plan.model_version,
        is_new=is_new,
        rows=found.rows,
        recall_at_1=found.recall_at_1,
        recall_at_10=found.recall_at_10,
        latency_ms=found.latency_ms,
        shards_kept=found.shards_kept,
        shards_written=found.shards_written,
        bytes_written=found.bytes_written,
        built_because=found.built_because if is_new else "",
    )
