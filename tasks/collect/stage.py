"""Collect: what no reader, no kept version and no run at work needs is gone from the lake."""

from __future__ import annotations

from dataclasses import asdict

from lake import collection
from lake.collection import Collected
from lake.collection_policy import CollectionPolicy
from lake.lake import Lake
from tasks.runner import Runner
from tasks.runs import running


def collect(lake: Lake, policy: CollectionPolicy, runner: Runner) -> Collected:
    """Remove old versions and what killed runs left behind; never what readers use."""
    with running(lake, "collect-garbage", runner) as run, run.stage("collect"):
        done = runner.call(collection.collect, run.lake, policy)
    rows = [f"| {name.replace('_', ' ')} | {count} |" for name, count in asdict(done).items()]
    runner.show("collected", "\n".join(["| removed | |", "|---|---|", *rows]))
    return done
