"""What would fail at once, asked before a run begins: a wrong path should leave no failed run behind.

The stages check the same again, since a deployment's run has no preflight.
"""

from __future__ import annotations

from flows.parameters import (
    CollectParameters,
    IngestParameters,
    NightlyParameters,
    RebuildParameters,
    RetrainLookParameters,
    RetrainParameters,
    ScoreParameters,
)
from lake.lake import open_lake
from tasks.ingest.config import IngestConfig
from tasks.ingest.source import Source, require_pictures
from tasks.looks import require_look
from tasks.retrain.config import RetrainConfig
from tasks.retrain.labels import parse_labels, read_labels_object

Parameters = (
    CollectParameters
    | IngestParameters
    | NightlyParameters
    | RebuildParameters
    | RetrainLookParameters
    | RetrainParameters
    | ScoreParameters
)


def check(parameters: Parameters) -> None:
    """Raise what the run would raise first. Creates no more than an empty lake."""
    match parameters:
        case NightlyParameters() | IngestParameters():
            require_pictures(Source(parameters.source_uri, parameters.config(IngestConfig).exclude))
            open_lake(parameters.lake_uri, create=True)
        case RetrainParameters():
            parameters.config(RetrainConfig)
            open_lake(parameters.lake_uri)
            parse_labels(read_labels_object(parameters.labels_uri), parameters.labels_uri)
        case CollectParameters() | RetrainLookParameters():
            open_lake(parameters.lake_uri)
        case RebuildParameters() | ScoreParameters():
            lake = open_lake(parameters.lake_uri)
            lake.looks.require(parameters.look_version or require_look(lake))
            if isinstance(parameters, ScoreParameters) and parameters.model_version is not None:
                lake.models.require(parameters.model_version)
