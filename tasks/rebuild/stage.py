"""Rebuild: a published index version of every live picture, where anything changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from index.errors import BelowTarget
from lake.errors import CorruptFile
from lake.lake import Lake
from tasks.looks import require_look
from tasks.rebuild.base import may_compare_all
from tasks.rebuild.config import RebuildConfig
from tasks.rebuild.plan import IndexPlan, plan_index
from tasks.rebuild.product_rates import drift
from tasks.rebuild.units import (
    PublishedIndex,
    draft_index,
    encode_shard,
    measure_index,
    publish_index,
    published,
    rates_of,
    replaced,
    republish_index,
    train_index,
)
from tasks.runner import Runner
from tasks.runs import Run, running

SHARDS_AT_ONCE = 1  # faiss uses all cores for each


@dataclass(frozen=True)
class IndexSummary:
    """The index version that readers use after the run, and whether the run published it."""

    index_version: int | None  # None: no pictures, no index
    look_version: int
    is_new: bool
    rows: int
    recall_at_1: float | None = None
    recall_at_10: float | None = None
    latency_ms: float | None = None
    shards_kept: int = 0  # of earlier versions
    shards_written: int = 0
    bytes_written: int = 0
    rebuild_reason: str = ""  # why nothing of an earlier version served again
    same_product_at_1: float | None = None  # how often the nearest picture shows the query's own product
    same_product_at_5: float | None = None
    warning: str = ""

    def __str__(self) -> str:
        if self.index_version is None:
            return "no pictures, no index"
        if not self.is_new:
            return f"index {self.index_version} serves on: nothing changed"
        recall = "" if self.recall_at_10 is None else f", recall@10 {self.recall_at_10:.3f}"
        return f"index {self.index_version} published: {self.rows} pictures{recall}"

    def counts(self) -> dict[str, int | bool | float | None]:
        """The summary as columns of `runs`."""
        return {
            "look_version": self.look_version,
            "index_version": self.index_version,
            "indexed": self.rows,
            "published": self.is_new,
            "same_product_at_1": self.same_product_at_1,
            "same_product_at_5": self.same_product_at_5,
        }


def rebuild(
    lake: Lake,
    config: RebuildConfig,
    runner: Runner,
    *,
    look_version: int | None = None,
    full_rebuild: str | None = None,
) -> IndexSummary:
    """Encode the live pictures' embeddings, measure the search against exact search, publish by one log entry.

    With `full_rebuild`, a reason, nothing of an earlier version serves again. Raises BelowTarget where the search does
    not reach its target, ModelReplaced where another look was promoted meanwhile: then nothing is published.
    """
    with running(lake, "rebuild-index", runner) as run:
        lake = run.lake
        version = look_version or require_look(lake)
        lake.looks.require(version)
        with run.stage("compare with the published index"):
            plan = runner.call(plan_index, lake, version, run.run_id, config, full_rebuild)
        if run.parent is not None and plan.promoted != version:
            raise replaced(plan.promoted, version)
        index = _bring_up_to_date(run, plan, config)
        summary = _summarise(plan, index, _drift(lake, plan, index, config))
        if summary.warning:
            runner.say("warning: %s", summary.warning)
        run.count(**summary.counts())
    return summary


def _bring_up_to_date(run: Run, plan: IndexPlan, config: RebuildConfig) -> PublishedIndex | None:
    if plan.rows == 0 and plan.newest is None:
        return None
    if plan.is_current and plan.same_as is not None:
        return published(run.lake, plan.same_as)
    if plan.same_as is not None:
        return run.runner.call(republish_index, run.lake, plan)
    return _build(run, plan, config)


def _build(run: Run, plan: IndexPlan, config: RebuildConfig) -> PublishedIndex:
    """Build the version, or another one where it fails. Raises BelowTarget, CorruptFile where nothing else is left."""
    try:
        return build_version(run, plan, config)
    except (BelowTarget, CorruptFile) as error:
        instead_of = None
        if not plan.reuses:
            # No codes tell these pictures apart: few enough of them are compared with all.
            if isinstance(error, CorruptFile) or plan.spec.kind == "flat" or not may_compare_all(plan.rows, config):
                raise
            instead_of, config = config.index_kind, replace(config, index_kind="flat")
        # Else what served again is worn out or damaged: once more, with nothing of an earlier version.
        with run.stage("compare with the published index"):
            plan = run.runner.call(plan_index, run.lake, plan.look_version, run.run_id, config, str(error))
        return _build(run, replace(plan, instead_of=instead_of), config)


def build_version(run: Run, plan: IndexPlan, config: RebuildConfig) -> PublishedIndex:
    """Make and publish what the plan says. Raises BelowTarget, CorruptFile, LostRace: then nothing is published."""
    lake, runner = run.lake, run.runner
    version = runner.call(draft_index, lake)
    with run.stage("train the codebook"):
        codebook = runner.call(train_index, lake, version, plan, config)
    with run.stage("encode shards", sum(shard.rows for shard in plan.to_write)):
        encode = partial(encode_shard, lake, version, plan, codebook=codebook)
        encoded = runner.map(encode, plan.to_write, at_once=SHARDS_AT_ONCE, key="index-progress")
    with run.stage("measure recall"):
        measured = runner.call(measure_index, lake, version, plan, codebook, encoded, config)
    with run.stage("publish"):
        return runner.call(publish_index, lake, version, plan, encoded, measured)


def _drift(lake: Lake, plan: IndexPlan, index: PublishedIndex | None, config: RebuildConfig) -> str:
    """What to warn of, compared with the index of the same look that served before."""
    before = None if plan.newest is None else plan.newest.current
    if index is None or before is None or before == index.version or lake.look_of(before) != plan.look_version:
        return ""
    return drift(index.rates, rates_of(lake, before), config.same_product_loss)


def _summarise(plan: IndexPlan, index: PublishedIndex | None, warning: str) -> IndexSummary:
    if index is None:
        return IndexSummary(None, plan.look_version, is_new=False, rows=0)
    is_new = not plan.is_current
    return IndexSummary(
        index_version=index.version,
        look_version=plan.look_version,
        is_new=is_new,
        rows=index.rows,
        recall_at_1=index.recall_at_1,
        recall_at_10=index.recall_at_10,
        latency_ms=index.latency_ms,
        shards_kept=index.shards_kept,
        shards_written=index.shards_written,
        bytes_written=index.bytes_written,
        rebuild_reason=index.rebuild_reason if is_new else "",
        same_product_at_1=None if index.rates is None else index.rates.at_1,
        same_product_at_5=None if index.rates is None else index.rates.at_5,
        warning=warning,
    )
