"""The commands that read a lake: search, near-duplicates, sql, status. None needs Prefect, and only a picture torch."""

from __future__ import annotations

import math
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.parameters import ScoreParameters
from tasks.config import Device
from vitrine.cli.options import JsonOption, LakeOption, help_of, open_lake
from vitrine.cli.output import print_result


def search(
    picture: Annotated[Path | None, typer.Argument(help="A picture to search with.", show_default=False)] = None,
    key: Annotated[
        str | None, typer.Option(metavar="IMAGE_KEY", help="Search with a picture of the catalogue.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many neighbours.")] = 10,
    other_products: Annotated[
        bool, typer.Option("--other-products", help="Leave out the other pictures of the key's own product.")
    ] = False,
    one_per_product: Annotated[
        bool, typer.Option("--one-per-product", help="Show each product once, by its nearest picture.")
    ] = False,
    polarity: Annotated[
        str | None, typer.Option(metavar="MIN:MAX", help="Only pictures whose polarity lies here, such as 0.8:1.")
    ] = None,
    among: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Only pictures whose keys this file lists: one a line, or image_key's column."
        ),
    ] = None,
    by: Annotated[
        Literal["look", "feeling"], typer.Option(help="What is alike: how pictures look, or what they make feel.")
    ] = "look",
    device: Annotated[Device | None, typer.Option(help=help_of(ScoreParameters, "device"))] = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the pictures most like a given one."""
    if (picture is None) == (key is None):
        raise typer.BadParameter("give either a PICTURE or --key IMAGE_KEY")
    if other_products and key is None:
        raise typer.BadParameter("--other-products needs --key IMAGE_KEY: the product of a PICTURE is not known")
    between = _range("--polarity", polarity)
    from flows.settings import read_settings
    from tasks.score.config import ScoreConfig
    from tasks.search.key_lists import read_keys
    from tasks.search.queries import search_by_key, search_by_picture
    from tasks.search.reader import Filters
    from vitrine.cli.summaries import print_key_counts, print_neighbours

    settings, opened = read_settings(), open_lake(lake)
    filters = Filters(other_products, one_per_product, between, None if among is None else read_keys(among))
    if key is not None:
        neighbours = search_by_key(opened, key, k, settings.cache_directory, by=by, filters=filters)
    else:
        assert picture is not None  # noqa: S101 (checked above; mypy can't tell)
        config = settings.config(ScoreConfig)
        neighbours = search_by_picture(
            opened,
            picture,
            k,
            settings.cache_directory,
            device or config.device,
            by=by,
            filters=filters,
            precision=config.precision,
        )
    if neighbours.among is not None and not as_json:
        print_key_counts(str(among), neighbours.among)
    print_result(as_json, neighbours, print_neighbours)


def near_duplicates(
    limit: Annotated[int, typer.Option(min=0, help="Groups to show, the largest first.")] = 20,
    across_products: Annotated[
        bool, typer.Option("--across-products", help="Only groups that show more than one product.")
    ] = False,
    mirrors: Annotated[bool, typer.Option("--mirrors", help="A picture and its mirror image count as one.")] = False,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Ask the model, not the pixels: the least cosine of two that count as one."),
    ] = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List groups of near-identical pictures in the index."""
    if threshold is not None and math.isnan(threshold):
        raise typer.BadParameter("--threshold: expected a cosine of 0 to 1, found nan")
    if threshold is not None and mirrors:
        raise typer.BadParameter("--mirrors compares pixels: leave --threshold out")
    from flows.settings import read_settings
    from tasks.search.near_duplicates import find_near_duplicates
    from vitrine.cli.summaries import print_near_duplicates

    cache = read_settings().cache_directory
    groups = find_near_duplicates(
        open_lake(lake), cache, limit, across_products=across_products, mirrors=mirrors, threshold=threshold
    )
    print_result(as_json, groups, print_near_duplicates)


def sql(
    query: Annotated[
        str, typer.Argument(help="Statements that read catalogue.duckdb's views and macros; - for standard input.")
    ],
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="FILE", help="Write the answer to a .csv, .parquet or .json file instead."),
    ] = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the catalogue in SQL (DuckDB). Reads the lake, nothing else.

    Of several statements each answer is printed.
    """
    from vitrine.cli.sql import answer, export_answer, require_suffix
    from vitrine.cli.summaries import print_answers, print_exported

    if export is not None:
        require_suffix(export)
    text = sys.stdin.read() if query == "-" else query
    opened = open_lake(lake)
    if export is not None:
        print_result(as_json, export_answer(opened, text, export), print_exported)
        return
    answers = answer(opened, text)
    print_result(as_json, answers[0] if len(answers) == 1 else answers, partial(print_answers, answers))


def schema(lake: LakeOption = None, as_json: JsonOption = False) -> None:
    """List the views, columns and macros that SQL may ask."""
    from lake.catalogue import connect
    from lake.comments import describe
    from vitrine.cli.summaries import print_schema

    with connect(open_lake(lake)) as connection:
        described = describe(connection)
    print_result(as_json, described, print_schema)


def status(lake: LakeOption = None, as_json: JsonOption = False) -> None:
    """What the lake holds, what serves, how the last run went."""
    from tasks.status import read_status
    from vitrine.cli.summaries import print_status

    print_result(as_json, read_status(open_lake(lake)), print_status)


def _range(option: str, text: str | None) -> tuple[float, float] | None:
    """MIN:MAX, either of which may be left out."""
    if text is None:
        return None
    low, colon, high = text.partition(":")
    try:
        bounds = float(low or "-inf"), float(high or "inf")
    except ValueError:
        bounds = (1.0, 0.0)
    if not colon or not bounds[0] <= bounds[1]:
        raise typer.BadParameter(f"{option}: expected MIN:MAX such as 0.8:1, found {text!r}")
    return bounds
