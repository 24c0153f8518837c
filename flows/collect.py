"""collect-garbage: what no reader, no kept version and no run at work needs is gone from the lake."""

from __future__ import annotations

import logging
from dataclasses import asdict

from prefect.artifacts import create_markdown_artifact

from flows.display import best_effort
from flows.on_prefect import stated
from flows.parameters import CollectParameters
from flows.running import running
from lake.collection import Collected, collect

logger = logging.getLogger(__name__)


@stated("collect-garbage")
def collect_garbage(parameters: CollectParameters = CollectParameters()) -> Collected:  # noqa: B008 (never changed)
    """Remove old versions and what killed runs left behind; never what readers use."""
    with running("collect-garbage", parameters.lake_uri) as run, run.stage("collect"):
        done = collect(run.lake, parameters.policy())
        logger.info("removed %s", asdict(done))
    with best_effort():
        lines = [f"| {name.replace('_', ' ')} | {count} |" for name, count in asdict(done).items()]
        create_markdown_artifact("\n".join(["| removed | |", "|---|---|", *lines]), key="collected")
    return done
