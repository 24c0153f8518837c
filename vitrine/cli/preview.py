"""What a flow would do, found out without a server and without writing anything."""

from __future__ import annotations

from typing import Any

from flows.parameters import IngestParameters, NightlyParameters, RebuildParameters, ScoreParameters
from index.memory import estimate
from lake.errors import NoLake
from lake.lake import Lake, open_lake
from lake.store import open_store
from tasks.config import ModelChoice
from tasks.ingest.config import IngestConfig
from tasks.ingest.plan import preview_ingest
from tasks.looks import require_look
from tasks.rebuild.config import RebuildConfig
from tasks.rebuild.plan import IndexPlan, preview_index
from tasks.score.units import preview_scoring

Previewed = IngestParameters | NightlyParameters | ScoreParameters | RebuildParameters


def preview(parameters: Previewed) -> dict[str, Any]:
    """The plan of the flow whose parameters these are, as counts."""
    if isinstance(parameters, NightlyParameters):
        return _night(parameters)
    if isinstance(parameters, IngestParameters):
        return _ingest(parameters)
    lake = open_lake(parameters.lake_uri)
    if isinstance(parameters, ScoreParameters):
        look, model = parameters.look_version, parameters.model_version
        if model is not None:
            lake.models.require(model)
        return _score(lake, look or require_look(lake), model or lake.models.current())
    version = parameters.look_version or require_look(lake)
    config = parameters.config(RebuildConfig)
    return _index(preview_index(lake, version, config, parameters.full_rebuild), config)


def _index(plan: IndexPlan, config: RebuildConfig) -> dict[str, Any]:
    publication = "a new version" if plan.same_as is None else f"version {plan.same_as} again: it has this content"
    counts = {
        "look": plan.look_version,
        "vectors": plan.rows,
        "index": plan.spec.factory_string(),
        "bytes_per_vector": plan.spec.bytes_per_vector,
        "publish": "nothing: the published index has this content" if plan.is_current else publication,
    }
    if plan.same_as is not None:
        return counts
    to_write = [shard.rows for shard in plan.to_write]
    memory = estimate(
        plan.spec,
        rows=plan.rows,
        training_rows=min(plan.rows, plan.spec.training_rows) if plan.trains else 0,
        shard_rows=max(to_write, default=0),
        queries=2 * config.recall_queries,
    )
    return counts | {
        "codebook": _codebook(plan),
        "shards_kept": len(plan.kept),
        "deleted_vectors": sum(kept.shard.rows - kept.live for kept in plan.kept),
        "shards_to_write": len(to_write),
        "vectors_to_write": sum(to_write),
        "largest_shard_mb": _mb(max(to_write, default=0) * plan.spec.bytes_per_vector),
        "to_write_mb": _mb(sum(to_write) * plan.spec.bytes_per_vector),
        "memory_training_mb": _mb(memory.training),
        "memory_encoding_mb": _mb(memory.encoding),
        "memory_measuring_mb": _mb(memory.measuring),
        "memory_searching_mb": _mb(memory.searching),
        "mapped_vectors_mb": _mb(2 * plan.spec.dimension * plan.rows),
    }


def _mb(size_bytes: int) -> float:
    return round(size_bytes / 1e6, 1)


def _codebook(plan: IndexPlan) -> str:
    if plan.spec.kind == "flat":
        return "none: every vector is compared"
    if not plan.trains:
        return "as they are"
    return f"trained on {min(plan.rows, plan.spec.training_rows)} vectors: {plan.rebuild_reason}"


def _ingest(parameters: IngestParameters | NightlyParameters) -> dict[str, Any]:
    plan = preview_ingest(_lake_or_none(parameters.lake_uri), parameters.source_uri, parameters.config(IngestConfig))
    return {
        "source": plan.source,
        "listed": plan.listed,
        "skipped": plan.skipped,
        "skipped_by_kind": dict(plan.skipped_by_kind),
        "unchanged": plan.unchanged,
        "new": plan.new,
        "changed": plan.changed,
        "deleted": plan.deleted,
        "unlisted": plan.unlisted,
        "renamed": plan.renamed,
    }


def _score(lake: Lake, look: int, model: int | None) -> dict[str, Any]:
    plan = preview_scoring(lake, look, model)
    side = lake.looks.manifest(look).properties["preprocessing"]["image_size"]
    return {
        "look": look,
        "model": model or "none was trained yet",
        "live": plan.live,
        "already_embedded": plan.already_embedded,
        "to_embed": plan.to_embed,
        "already_scored": plan.already_scored,
        "to_score": plan.to_score,
        "input": f"{side}×{side} pixels",
    }


def _night(parameters: NightlyParameters) -> dict[str, Any]:
    """The ingest is known; what follows depends on what the new pictures turn out to hold."""
    counts = _ingest(parameters)
    lake, new = _lake_or_none(parameters.lake_uri), counts["new"] + counts["changed"]
    look, model = lake.looks.current(), lake.models.current()
    if look is None:
        first = parameters.config(ModelChoice)
        return counts | {"look": f"the first, {first.start} weights", "to_embed_at_most": new}
    score = _score(lake, look, model)
    return counts | {
        "look": look,
        "model": score["model"],
        "to_embed_at_most": score["to_embed"] + new,
        "to_score_at_most": 0 if model is None else score["to_score"] + new,
        "publish": "a new index version" if new or counts["deleted"] or score["to_embed"] else "nothing",
    }


def _lake_or_none(uri: str) -> Lake:
    """The lake, or an empty one in memory where there is none yet: a dry run creates nothing."""
    try:
        return open_lake(uri)
    except NoLake:
        return Lake(open_store("memory://"))
