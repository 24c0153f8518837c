"""How long does a night take, stage by stage, and what does a night cost in which little or nothing changed?

    python benchmarks/night.py --pictures 1000 --backbone resnet18 --image-size 64

Draws a catalogue, then runs the night's units of work in one process, without Prefect: what remains is the
pipeline's own time. Three nights: everything new, nothing changed, 1 % changed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from lake.lake import Lake, open_lake
from tasks import shards as workspace
from tasks.ingest import units as ingest
from tasks.models import ModelChoice, init_model, require_model
from tasks.rebuild import plan as index_plan
from tasks.rebuild import units as rebuild
from tasks.score import units as score
from vitrine.demo.draw_catalogue import draw_catalogue

P = ParamSpec("P")
Result = TypeVar("Result")
VIEWS = 4


class Clock:
    """Seconds by stage, in the order of the stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, stage: str, work: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Do the work and add its time to the stage."""
        started = time.perf_counter()
        result = work(*args, **kwargs)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started
        return result


def night(lake: Lake, source: str) -> Clock:
    """One night; the seconds of its stages."""
    clock, run = Clock(), uuid.uuid4().hex
    how = ingest.IngestConfig()
    plan = clock.time("list and compare", ingest.plan_ingest.fn, lake, source, run, how)
    read = [
        clock.time("fetch and decode", ingest.ingest_shard.fn, lake, source, run, shard, plan.ingested_at, how)
        for shard in plan.shards
    ]
    clock.time("commit images", ingest.commit_images.fn, lake, run, plan, read)
    version, scoring = require_model(lake), score.ScoreConfig()
    to_score = clock.time("find unscored", score.plan_scoring.fn, lake, version, run, scoring)
    scored = [
        clock.time("score", score.score_shard.fn, lake, version, run, shard, scoring) for shard in to_score.shards
    ]
    clock.time("commit scores", score.commit_scores.fn, lake, run, to_score, scored)
    clock.time("index", rebuild_index, lake, version)
    workspace.clear(lake.store, run)
    return clock


def rebuild_index(lake: Lake, model_version: int) -> None:
    """Publish an index where anything changed."""
    config, run = index_plan.RebuildConfig(), uuid.uuid4().hex
    plan = index_plan.plan_index.fn(lake, model_version, run, config)
    if plan.is_current:
        return
    version = rebuild.draft_index.fn(lake)
    trained = rebuild.train_index.fn(lake, version, plan, config)
    encoded = [rebuild.encode_shard.fn(lake, version, plan, shard, trained) for shard in plan.to_write]
    measured = rebuild.measure_index.fn(lake, version, plan, trained, encoded, config)
    rebuild.publish_index.fn(lake, version, plan, encoded, measured)
    workspace.clear(lake.store, run)


def main() -> None:
    """Measure three nights and print them side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image-size", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
        source, uri = Path(folder, "pictures"), str(Path(folder, "lake"))
        drawn = draw_catalogue(source, products=arguments.pictures // VIEWS, views=VIEWS, broken=0)
        init_model(uri, ModelChoice(arguments.backbone, arguments.image_size, "random"))
        lake = open_lake(uri)
        nights = {"all new": night(lake, str(source)), "unchanged": night(lake, str(source))}
        changed = drawn[: max(1, len(drawn) // 100)]
        for picture in changed:
            path = source / picture.image_key
            path.write_bytes(path.read_bytes() + b"\n")  # another content, the same picture
        nights["1 % changed"] = night(lake, str(source))
    print(f"{len(drawn)} pictures of 256 × 256, {arguments.backbone} at {arguments.image_size}, seconds")
    print(f"{'stage':<20}" + "".join(f"{name:>14}" for name in nights))
    for stage in nights["all new"].seconds:
        print(f"{stage:<20}" + "".join(f"{clock.seconds.get(stage, 0.0):>14.2f}" for clock in nights.values()))
    totals = {name: sum(clock.seconds.values()) for name, clock in nights.items()}
    print(f"{'total':<20}" + "".join(f"{total:>14.2f}" for total in totals.values()))
    print(f"all new: {len(drawn) / totals['all new']:.0f} pictures/s from file to published index")


if __name__ == "__main__":
    main()
