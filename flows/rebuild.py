"""rebuild-index: a published index version of every live picture, where anything changed."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import flow

from flows.parameters import RebuildParameters
from flows.running import Run, each, running, threads
from tasks.models import require_model
from tasks.rebuild import (
    IndexPlan,
    PublishedIndex,
    RebuildConfig,
    draft_index,
    encode_shard,
    measure_index,
    plan_index,
    publish_index,
    published,
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


@flow(name="rebuild-index", task_runner=threads(SHARDS_AT_ONCE))
def rebuild_index(parameters: RebuildParameters = RebuildParameters()) -> IndexSummary:  # noqa: B008 (never changed)
    """Encode the live pictures' embeddings, measure the search against exact search, publish by one log entry."""
    lake, config = parameters.lake_uri, parameters.rebuild_config()
    with running("rebuild-index", lake) as run:
        version = parameters.model_version or require_model(run.lake)
        run.lake.models.require(version)
        with run.stage("compare with the published index"):
            plan = plan_index(lake, version, config)
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
        return republish_index(run.lake.uri, plan)
    return _build(run, plan, config)


def _build(run: Run, plan: IndexPlan, config: RebuildConfig) -> PublishedIndex:
    lake = run.lake.uri
    version = draft_index(lake)
    with run.stage("train the quantizers"):
        trained = train_index(lake, version, plan, config)
    with run.stage("encode shards", plan.rows):
        shards = each(
            plan.shards,
            lambda shard: encode_shard.submit(lake, version, plan, shard, trained),
            key="index-progress",
            what="Index shards encoded",
        )
    files = trained + tuple(record for shard in shards for record in shard.files)
    with run.stage("measure recall"):
        tuned, description = measure_index(lake, version, plan, files, config)
    with run.stage("publish"):
        return publish_index(lake, version, plan, shards, (*files, description), tuned)


def _summarise(plan: IndexPlan, found: PublishedIndex | None) -> IndexSummary:
    if found is None:
        return IndexSummary(None, plan.model_version, is_new=False, rows=0)
    return IndexSummary(
        index_version=found.version,
        model_version=plan.model_version,
        is_new=not plan.is_current,
        rows=found.rows,
        recall_at_1=found.recall_at_1,
        recall_at_10=found.recall_at_10,
        latency_ms=found.latency_ms,
    )
