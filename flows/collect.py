"""collect-garbage: what no reader, no kept version and no run at work needs is gone from the lake."""

from __future__ import annotations

from flows.on_prefect import stated
from flows.parameters import CollectParameters
from flows.runners import prefect_runner
from lake.collection import Collected


@stated("collect-garbage")
def collect_garbage(parameters: CollectParameters = CollectParameters()) -> Collected:  # noqa: B008 (never changed)
    """Remove old versions and what killed runs left behind; never what readers use."""
    return parameters.run(prefect_runner(parameters.settings))
