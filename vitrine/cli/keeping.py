"""The commands that look after a lake's versions: init-model, versions, rollback, collect."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from flows.parameters import CollectParameters, InitModelParameters
from lake.collection_policy import CollectionPolicy
from tasks.config import ModelChoice
from vitrine.cli.options import DryRunOption, JsonOption, LakeOption, asks, open_lake
from vitrine.cli.output import print_result
from vitrine.cli.running import run

Kind = Literal["models", "indexes"]


@asks(InitModelParameters)
def init_model(parameters: InitModelParameters, as_json: JsonOption = False) -> None:
    """Register a first, untrained model: search works at once."""
    from tasks.models import init_model
    from vitrine.cli.summaries import print_initial_model

    choice = parameters.config(ModelChoice)
    version = init_model(parameters.lake_uri, choice)
    print_result(as_json, {"model_version": version, "trained": False, "weights": choice.start}, print_initial_model)


def versions(kind: Kind, lake: LakeOption = None, as_json: JsonOption = False) -> None:
    """List the versions of models or indexes."""
    from lake.catalogue import describe_versions
    from vitrine.cli.summaries import print_versions

    opened = open_lake(lake)
    serving = opened.serving()
    current = serving.model_version if kind == "models" else serving.index_version
    registry = opened.models if kind == "models" else opened.indexes
    print_result(as_json, describe_versions(registry, current), print_versions)


def rollback(kind: Kind, version: int, lake: LakeOption = None, as_json: JsonOption = False) -> None:
    """Put an earlier model or index back, for every reader."""
    from lake.catalogue import write_catalogue
    from lake.rollback import roll_back
    from vitrine.cli.summaries import print_rolled_back

    opened = open_lake(lake)
    done = roll_back(opened, kind, version)
    write_catalogue(opened)
    print_result(as_json, done, print_rolled_back)


@asks(CollectParameters)
def collect(parameters: CollectParameters, dry_run: DryRunOption = False, as_json: JsonOption = False) -> None:
    """Remove old versions and what killed runs left behind.

    Never what readers use.
    """
    from lake.collection import collect as collect_garbage
    from vitrine.cli.summaries import print_collected

    if dry_run:
        done = collect_garbage(open_lake(parameters.lake_uri), parameters.config(CollectionPolicy), dry_run=True)
    else:
        done = run(parameters)
    print_result(as_json, {"dry_run": dry_run, **asdict(done)}, print_collected)
