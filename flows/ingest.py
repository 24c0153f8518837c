"""ingest-catalogue: rows in `images` for what is new, changed or gone in the source."""

from __future__ import annotations

from flows.on_prefect import stated
from flows.parameters import IngestParameters
from flows.runners import prefect_runner
from tasks.ingest.stage import IngestSummary


@stated("ingest-catalogue")
def ingest_catalogue(parameters: IngestParameters = IngestParameters()) -> IngestSummary:  # noqa: B008 (never changed)
    """Find new, changed and deleted pictures, read them, and commit their rows in one transaction."""
    return parameters.run(prefect_runner(parameters.settings))
