"""The command that lists the backbones. Needs no lake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from vitrine.cli.options import JsonOption
from vitrine.cli.output import print_result

if TYPE_CHECKING:
    from model.backbones.listing import ListedBackbone


def backbones(
    pattern: Annotated[
        str, typer.Argument(help="Only names that hold this; * and ? as in a shell.", show_default=False)
    ] = "",
    timm: Annotated[bool, typer.Option("--timm", help="List timm's models (pip install 'vitrine[timm]').")] = False,
    as_json: JsonOption = False,
) -> None:
    """List what a network can stand on: `--backbone NAME`."""
    from model.backbones.listing import list_backbones

    print_result(as_json, list_backbones(pattern, timm=timm), _print)


def _print(listed: Sequence[ListedBackbone]) -> None:
    from vitrine.cli.printing import print_rows

    rows = [
        {
            "backbone": row.name,
            "parameters, M": None if row.parameters is None else row.parameters / 1e6,
            "multiply-adds, G": None if row.multiply_adds is None else row.multiply_adds / 1e9,
            "pixels": row.image_size,
            "weights": row.weights,
        }
        for row in listed
    ]
    print_rows(rows)
