"""nightly: ingest, score, index; afterwards SQL and search agree on the night's pictures."""

from __future__ import annotations

from flows.on_prefect import stated
from flows.parameters import NightlyParameters
from flows.runners import prefect_runner
from tasks.night import NightSummary


@stated("nightly")
def nightly(parameters: NightlyParameters = NightlyParameters()) -> NightSummary:  # noqa: B008 (never changed)
    """Bring images, scores and the published index up to date with the source."""
    return parameters.run(prefect_runner(parameters.settings))
