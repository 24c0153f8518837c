"""What would fail at once, asked before Prefect starts: a wrong path should not cost a server's start-up.

The flows check the same again, since a deployment's run has no preflight.
"""

from __future__ import annotations

from flows.parameters import (
    IngestParameters,
    NightlyParameters,
    RebuildParameters,
    RetrainParameters,
    ScoreParameters,
)
from lake.lake import open_lake
from tasks.ingest.units import require_pictures
from tasks.models import require_model
from tasks.retrain.labels import parse_labels, read_labels_object

Parameters = IngestParameters | ScoreParameters | RebuildParameters | RetrainParameters


def check(parameters: Parameters) -> None:
    """Raise what the flow would raise first. Creates no more than an empty lake."""
    if isinstance(parameters, IngestParameters):
        require_pictures(parameters.source_uri)
        if isinstance(parameters, NightlyParameters):
            require_model(open_lake(parameters.lake_uri))
        else:
            open_lake(parameters.lake_uri, create=True)
        return
    lake = open_lake(parameters.lake_uri)
    if isinstance(parameters, RetrainParameters):
        parse_labels(read_labels_object(parameters.labels_uri), parameters.labels_uri)
        return
    version = parameters.model_version or require_model(lake)
    lake.models.require(version)
