"""The commands that change a lake by runs: demo, ingest, score, rebuild-index, nightly, retrain, retrain-look."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.parameters import (
    IngestParameters,
    NightlyParameters,
    RebuildParameters,
    RetrainLookParameters,
    RetrainParameters,
    ScoreParameters,
)
from vitrine.cli.options import DryRunOption, JsonOption, asks
from vitrine.cli.output import print_result
from vitrine.cli.running import at_work, preview, run, torchrun

if TYPE_CHECKING:
    from vitrine.cli.preview import Previewed


def demo(
    directory: Annotated[Path, typer.Argument(help="Where the pictures and the lake go.")] = Path("vitrine-demo"),
    products: Annotated[int, typer.Option(min=20, help="Products drawn, four pictures each.")] = 120,
    epochs: Annotated[int, typer.Option(min=1, help="Passes of the training over the labelled pictures.")] = 12,
    seed: Annotated[int, typer.Option(help="Another seed, another shop.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Draw a small shop, train on a part, run the night on all."""
    from vitrine.cli.summaries import print_demo
    from vitrine.demo.directory import make_room

    make_room(directory)
    from vitrine.demo.run import run_demo

    with at_work():
        shown = run_demo(directory, products=products, epochs=epochs, seed=seed)
    print_result(as_json, shown, print_demo)


@asks(IngestParameters, argument="source")
def ingest(parameters: IngestParameters, dry_run: DryRunOption = False, as_json: JsonOption = False) -> None:
    """Bring the lake up to date with a source of pictures."""
    from vitrine.cli.summaries import print_ingest

    _carry_out(parameters, print_ingest, dry_run, as_json)


@asks(ScoreParameters)
def score(parameters: ScoreParameters, dry_run: DryRunOption = False, as_json: JsonOption = False) -> None:
    """Embed and score every live picture that is new to them."""
    from vitrine.cli.summaries import print_score

    _carry_out(parameters, print_score, dry_run, as_json)


@asks(RebuildParameters)
def rebuild_index(parameters: RebuildParameters, dry_run: DryRunOption = False, as_json: JsonOption = False) -> None:
    """Publish an index of the live pictures, if any changed."""
    from vitrine.cli.summaries import print_index

    _carry_out(parameters, print_index, dry_run, as_json)


@asks(NightlyParameters, argument="source")
def nightly(parameters: NightlyParameters, dry_run: DryRunOption = False, as_json: JsonOption = False) -> None:
    """Ingest, score and index, as the schedule does each night."""
    from vitrine.cli.summaries import print_night

    _carry_out(parameters, print_night, dry_run, as_json)


@asks(RetrainParameters, argument="labels")
def retrain(parameters: RetrainParameters, as_json: JsonOption = False) -> None:
    """Train a candidate, judge it, promote or refuse it.

    Under torchrun its processes train together.
    """
    from vitrine.cli.summaries import print_retrain

    with torchrun() as leads:
        if leads:
            print_result(as_json, run(parameters), print_retrain)


@asks(RetrainLookParameters)
def retrain_look(parameters: RetrainLookParameters, as_json: JsonOption = False) -> None:
    """Fit the look to the shop's products, if it finds better."""
    from vitrine.cli.summaries import print_retrain_look

    print_result(as_json, run(parameters), print_retrain_look)


def _carry_out(
    parameters: Previewed,
    for_people: Callable[[Any], None],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Do what is asked for, or say what that would be."""
    from vitrine.cli.summaries import print_plan

    if dry_run:
        print_result(as_json, preview(parameters), print_plan)
    else:
        print_result(as_json, run(parameters), for_people)
