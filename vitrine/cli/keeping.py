"""The commands that look after a lake: init-model, versions, rollback, collect, catalogue."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.parameters import CollectParameters, InitModelParameters
from lake.collection_policy import CollectionPolicy
from tasks.config import ModelChoice
from vitrine.cli.options import DryRunOption, JsonOption, LakeOption, asks, open_lake
from vitrine.cli.output import print_result
from vitrine.cli.running import run

Kind = Literal["looks", "models", "indexes"]


@asks(InitModelParameters)
def init_model(parameters: InitModelParameters, as_json: JsonOption = False) -> None:
    """Register the first look: search works at once."""
    from tasks.looks import init_model
    from vitrine.cli.summaries import print_initial_model

    choice = parameters.config(ModelChoice)
    version = init_model(parameters.lake_uri, choice)
    adapted = open_lake(parameters.lake_uri).looks.manifest(version).properties["adapted_weights"]
    shown = {"look_version": version, "weights": choice.start, "adapted_weights": adapted}
    print_result(as_json, shown, print_initial_model)


def versions(kind: Kind, lake: LakeOption = None, as_json: JsonOption = False) -> None:
    """List the versions of looks, models or indexes."""
    from lake.catalogue import describe_versions
    from vitrine.cli.summaries import print_versions

    opened = open_lake(lake)
    serving = opened.serving()
    registries = {
        "looks": (opened.looks, serving.look_version),
        "models": (opened.models, serving.model_version),
        "indexes": (opened.indexes, serving.index_version),
    }
    print_result(as_json, describe_versions(*registries[kind]), print_versions)


def rollback(kind: Kind, version: int, lake: LakeOption = None, as_json: JsonOption = False) -> None:
    """Put an earlier look, model or index back, for everyone."""
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


def catalogue(
    at: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Where its readers find the lake's files, instead of beside the catalogue."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write this file, and not the lake's catalogue.duckdb.")
    ] = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write catalogue.duckdb anew, or one for elsewhere.

    A run writes it by itself. A lake that was copied, and is attached rather than opened, needs one of its own.
    """
    from lake.catalogue import write_catalogue
    from vitrine.cli.printing import print_fields

    if to is not None and at is None:
        raise typer.BadParameter("--to needs --at URI: a catalogue looks for the lake's files beside itself")
    if at is not None and "://" not in at:
        at = str(Path(at).expanduser().absolute())
    opened = open_lake(lake)
    written = write_catalogue(opened, at=at, file=to)
    print_result(as_json, {"catalogue": written, "reads": at or opened.store.url()}, print_fields)
