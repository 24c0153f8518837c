"""The command that reads a source and no lake: passed-over."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from flows.parameters import IngestParameters
from vitrine.cli.options import JsonOption, help_of
from vitrine.cli.output import print_result


def passed_over(
    source: Annotated[str | None, typer.Argument(help=help_of(IngestParameters, "source"), show_default=False)] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help=f"{help_of(IngestParameters, 'exclude')} May be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List what in a source is passed over, and why."""
    from tasks.ingest.config import IngestConfig
    from tasks.ingest.source import Source
    from tasks.ingest.source import passed_over as names_in

    parameters = IngestParameters(source=source, exclude=tuple(exclude) if exclude else None)
    config = parameters.config(IngestConfig)
    names = [asdict(one) for one in names_in(Source(parameters.source_uri, config.exclude))]
    print_result(as_json, names, _print_names)


def _print_names(names: list[dict[str, Any]]) -> None:
    from vitrine.cli.printing import print_rows

    print_rows(names, ("path", "kind", "cause"))
