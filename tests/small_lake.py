"""A small lake without a Prefect server: the flows' units of work, called in the flows' order."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from index.errors import BelowTarget
from lake.catalogue import write_catalogue
from lake.errors import CorruptFile
from lake.lake import open_lake
from tasks import shards as workspace
from tasks.ingest.units import (
    IngestConfig,
    IngestedShard,
    IngestPlan,
    check_images,
    commit_images,
    ingest_shard,
    plan_ingest,
)
from tasks.models import ModelChoice, init_model, require_model
from tasks.rebuild.plan import IndexPlan, RebuildConfig, plan_index
from tasks.rebuild.units import (
    PublishedIndex,
    draft_index,
    encode_shard,
    measure_index,
    publish_index,
    published,
    republish_index,
    train_index,
)
from tasks.score.units import ScoreConfig, commit_scores, plan_scoring, score_shard
from vitrine.demo.draw_catalogue import DrawnPicture, draw_catalogue

SMALL_MODEL = ModelChoice(backbone="resnet18", image_size=64, weights="random")
PRODUCT_ID_PATTERN = r"([^/]+)/[^/]+$"  # the folder that a drawn picture lies in
INGEST = IngestConfig(fetch_threads=2, decode_threads=2)
SCORE = ScoreConfig(device="cpu", decode_threads=2)
REBUILD = RebuildConfig()


@dataclass(frozen=True)
class Ingested:
    """What one ingest planned and did."""

    plan: IngestPlan
    shards: tuple[IngestedShard, ...]
    live: int

    @property
    def counts(self) -> dict[str, int]:
        """The counts that are not zero."""
        found = {name: getattr(self.plan, name) for name in ("skipped", "unchanged", "new", "changed", "deleted")}
        for name in ("ingested", "rejected", "failed"):
            found[name] = sum(getattr(shard, name) for shard in self.shards)
        return {name: count for name, count in found.items() if count}


def ingest(lake_uri: str, source: str, config: IngestConfig = INGEST) -> Ingested:
    """What `ingest-catalogue` does; makes the lake where there is none."""
    lake, run_id = open_lake(lake_uri, create=True), uuid.uuid4().hex
    plan = plan_ingest.fn(lake, source, run_id, config)
    shards = [ingest_shard.fn(lake, source, run_id, shard, plan.ingested_at, config) for shard in plan.shards]
    commit_images.fn(lake, run_id, plan, shards)
    live = check_images.fn(lake, plan, shards)
    workspace.clear(lake.store, run_id)
    write_catalogue(lake)
    return Ingested(plan, tuple(shards), live)


def score(lake_uri: str, model_version: int | None = None, config: ScoreConfig = SCORE) -> int:
    """What `score-catalogue` does; how many contents it scored."""
    lake, run_id = open_lake(lake_uri), uuid.uuid4().hex
    version = model_version or require_model(lake)
    plan = plan_scoring.fn(lake, version, run_id, config)
    shards = [score_shard.fn(lake, version, run_id, shard, config) for shard in plan.shards]
    commit_scores.fn(lake, run_id, plan, shards)
    workspace.clear(lake.store, run_id)
    write_catalogue(lake)
    return sum(shard.scored for shard in shards)


def rebuild(lake_uri: str, model_version: int | None = None, config: RebuildConfig = REBUILD) -> PublishedIndex | None:
    """What `rebuild-index` does; the index that readers use from here on, None where there are no pictures."""
    found = publish(lake_uri, model_version, config)
    write_catalogue(open_lake(lake_uri))
    return found


def publish(
    lake_uri: str,
    model_version: int | None = None,
    config: RebuildConfig = REBUILD,
    afresh: str | None = None,
) -> PublishedIndex | None:
    """The same, without catalogue.duckdb."""
    lake, run_id = open_lake(lake_uri), uuid.uuid4().hex
    model = model_version or require_model(lake)
    plan = plan_index.fn(lake, model, run_id, config, afresh)
    if plan.rows == 0 and plan.newest is None:
        return None
    if plan.is_current and plan.same_as is not None:
        return published(lake, plan.same_as)
    if plan.same_as is not None:
        found = republish_index.fn(lake, plan)
    else:
        try:
            found = build_index(lake_uri, plan, config)
        except (BelowTarget, CorruptFile) as error:
            found = build_index(lake_uri, plan_index.fn(lake, model, run_id, config, str(error)), config)
    workspace.clear(lake.store, run_id)
    return found


def build_index(lake_uri: str, plan: IndexPlan, config: RebuildConfig = REBUILD) -> PublishedIndex:
    """From a plan to a published version."""
    lake = open_lake(lake_uri)
    version = draft_index.fn(lake)
    trained = train_index.fn(lake, version, plan, config)
    encoded = [encode_shard.fn(lake, version, plan, shard, trained) for shard in plan.to_write]
    measured = measure_index.fn(lake, version, plan, trained, encoded, config)
    return publish_index.fn(lake, version, plan, encoded, measured)


@dataclass(frozen=True)
class SmallLake:
    """A drawn shop and a lake of it: an untrained model, every picture scored, an index published."""

    uri: str
    source: Path
    pictures: tuple[DrawnPicture, ...]


def build(folder: Path, *, products: int = 6, views: int = 2, size: int = 64) -> SmallLake:
    """Draw a shop below the folder and bring a lake beside it up to date with it."""
    source, lake_uri = folder / "pictures", str(folder / "lake")
    pictures = draw_catalogue(source, products=products, views=views, size=size)
    init_model(lake_uri, SMALL_MODEL)
    ingest(lake_uri, str(source), IngestConfig(PRODUCT_ID_PATTERN, fetch_threads=2, decode_threads=2))
    score(lake_uri)
    rebuild(lake_uri)
    return SmallLake(lake_uri, source, tuple(pictures))
