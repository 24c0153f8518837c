"""What would fail at once, asked before a run begins: a wrong path should leave no failed run behind.

The stages check the same again, since a deployment's run has no preflight.
"""

from __future__ import annotations

from flows.parameters import (
    CollectParameters,
    IngestParameters,
    NightlyParameters,
    RebuildParameters,
    RetrainParameters,
    ScoreParameters,
)
from lake.lake import open_lake
from tasks.ingest.source import require_pictures
from tasks.models import require_model
from tasks.retrain.config import RetrainConfig
from tasks.retrain.labels import parse_labels, read_labels_object

Parameters = (
    CollectParameters | IngestParameters | NightlyParameters | RebuildParameters | RetrainParameters | ScoreParameters
)


def check(parameters: Parameters) -> None:
    """Raise what the run would raise first. Creates no more than an empty lake."""
    match parameters:
        case NightlyParameters():
            require_pictures(parameters.source_uri)
            require_model(open_lake(parameters.lake_uri))
        case IngestParameters():
            require_pictures(parameters.source_uri)
            open_lake(parameters.lake_uri, create=True)
        case RetrainParameters():
            parameters.config(RetrainConfig)
            open_lake(parameters.lake_uri)
            parse_labels(read_labels_object(parameters.labels_uri), parameters.labels_uri)
        case CollectParameters():
            open_lake(parameters.lake_uri)
        case _:
            lake = open_lake(parameters.lake_uri)
            lake.models.require(parameters.model_version or require_model(lake))
