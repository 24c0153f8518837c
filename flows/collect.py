"""collect-garbage: what no reader, no kept version and no run at work needs is gone from the lake."""

from __future__ import annotations

from prefect import flow

from flows.parameters import CollectParameters
from flows.running import running
from lake.collection import Collected, collect


@flow(name="collect-garbage")
def collect_garbage(parameters: CollectParameters = CollectParameters()) -> Collected:  # noqa: B008 (never changed)
    """Remove old versions and what killed runs left behind; never what readers use."""
    with running("collect-garbage", parameters.lake_uri) as run, run.stage("collect"):
        done = collect(run.lake, parameters.policy())
    return done
