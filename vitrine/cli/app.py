"""The `vitrine` command. Thin: it reads arguments, calls, prints, and turns errors into exit codes.

0 done, 1 failed with one line that says what to do, 2 bad usage. Heavy packages are imported inside the
commands that need them, so that --help, sql, status, versions and search by key answer at once.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer

from model.backbones.names import DEFAULT as DEFAULT_BACKBONE
from model.backbones.names import BackboneName

if TYPE_CHECKING:
    from datetime import timedelta

    from lake.lake import Lake

# What every wrong use of the command line is; Typer does not export it.
UsageError = cast(type[typer.BadParameter], typer.BadParameter.__base__)

app = typer.Typer(
    help="Scores and indexes a shop's product pictures: how they feel, and which ones look alike.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Kind(StrEnum):
    """What has versions."""

    models = "models"
    indexes = "indexes"


class Precision(StrEnum):
    """In which numbers a scoring network computes."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Compile(StrEnum):
    """Whether the network is compiled before it scores."""

    auto = "auto"
    always = "always"
    never = "never"


class Device(StrEnum):
    """Where the network runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


# Measured on photographs of groceries (docs/measurements/index.md): re-encoded, resized, slightly brightened or cropped
# copies lie above it, different photographs of one product below.
NEAR_DUPLICATE = 0.997

LakeOption = Annotated[
    str | None,
    typer.Option("--lake", metavar="URI", help="A directory, file:///… or s3://bucket/prefix. [VITRINE_LAKE]"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens, and tracebacks.")]
SourceArgument = Annotated[
    str | None,
    typer.Argument(help="A directory or s3://bucket/prefix of pictures. [VITRINE_SOURCE]", show_default=False),
]
PatternOption = Annotated[
    str | None,
    typer.Option(
        "--product-id-pattern",
        metavar="REGEX",
        help="Where the product's id stands in a picture's key: a regular expression with one group.",
    ),
]
DeletedOption = Annotated[
    float | None,
    typer.Option(
        "--max-deleted-share", min=0, max=1, help="Stop where more of the known pictures than this have vanished."
    ),
]


DeviceOption = Annotated[Device | None, typer.Option(help="Where the network runs.", show_default="auto")]
RecallOption = Annotated[
    float | None, typer.Option(min=0.01, max=1, help="Publish no index below this recall@10.", show_default="0.99")
]


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"vitrine {version('vitrine')}")  # noqa: T201 (the output of the command)
        raise typer.Exit


@app.callback()
def options(
    verbose: VerboseOption = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Scores and indexes a shop's product pictures: how they feel, and which ones look alike."""
    _state["verbose"] = verbose
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)


@app.command()
def demo(
    directory: Annotated[Path, typer.Argument(help="Where the pictures and the lake go.")] = Path("vitrine-demo"),
    products: Annotated[int, typer.Option(min=20, help="Products drawn, four pictures each.")] = 120,
    epochs: Annotated[int, typer.Option(min=1, help="Passes of the training over the labelled pictures.")] = 24,
    seed: Annotated[int, typer.Option(help="Another seed, another shop.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Draw a small shop, train on a part, run the night on all."""
    from vitrine.demo.directory import make_room

    make_room(directory)
    from vitrine.demo.run import run_demo

    with _at_work():
        found = run_demo(directory, products=products, epochs=epochs, seed=seed)
    from vitrine.cli.summaries import print_demo

    _print(as_json, found, print_demo)


@app.command()
def ingest(
    source: SourceArgument = None,
    product_id_pattern: PatternOption = None,
    max_deleted_share: DeletedOption = None,
    dry_run: DryRunOption = False,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the lake up to date with a source of pictures."""
    values = {
        "lake": lake,
        "source": source,
        "product_id_pattern": product_id_pattern,
        "max_deleted_share": max_deleted_share,
    }
    from vitrine.cli.summaries import print_ingest, print_plan

    if dry_run:
        _print(as_json, _preview("IngestParameters", values), print_plan)
        return
    _print(as_json, _run("IngestParameters", values), print_ingest)


@app.command()
def score(
    model_version: Annotated[int | None, typer.Option(min=1, help="The promoted model by default.")] = None,
    device: DeviceOption = None,
    precision: Annotated[
        Precision | None, typer.Option(help="In which numbers the network computes.", show_default="auto")
    ] = None,
    compile_: Annotated[
        Compile | None, typer.Option("--compile", help="Compile the network first.", show_default="auto")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="What suits the device by default.")] = None,
    dry_run: DryRunOption = False,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score every live picture that the model has not seen."""
    values = {
        "lake": lake,
        "model_version": model_version,
        "device": device,
        "precision": precision,
        "compile": compile_,
        "batch_size": batch_size,
    }
    from vitrine.cli.summaries import print_plan, print_score

    if dry_run:
        _print(as_json, _preview("ScoreParameters", values), print_plan)
        return
    _print(as_json, _run("ScoreParameters", values), print_score)


@app.command()
def rebuild_index(
    model_version: Annotated[int | None, typer.Option(min=1, help="The promoted model by default.")] = None,
    recall_target: RecallOption = None,
    full: Annotated[
        bool, typer.Option("--full", help="Train the codebook and write every shard, whatever serves again.")
    ] = False,
    dry_run: DryRunOption = False,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish an index of the live pictures, if any changed."""
    values = {
        "lake": lake,
        "model_version": model_version,
        "recall_target": recall_target,
        "full_rebuild": "asked for" if full else None,
    }
    from vitrine.cli.summaries import print_index, print_plan

    if dry_run:
        _print(as_json, _preview("RebuildParameters", values), print_plan)
        return
    _print(as_json, _run("RebuildParameters", values), print_index)


@app.command()
def nightly(
    source: SourceArgument = None,
    product_id_pattern: PatternOption = None,
    max_deleted_share: DeletedOption = None,
    device: DeviceOption = None,
    recall_target: RecallOption = None,
    dry_run: DryRunOption = False,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ingest, score and index, as the schedule does each night."""
    values = {
        "lake": lake,
        "source": source,
        "product_id_pattern": product_id_pattern,
        "max_deleted_share": max_deleted_share,
        "device": device,
        "recall_target": recall_target,
    }
    from vitrine.cli.summaries import print_night, print_plan

    if dry_run:
        _print(as_json, _preview("NightlyParameters", values), print_plan)
        return
    _print(as_json, _run("NightlyParameters", values), print_night)


@app.command()
def init_model(
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="imagenet|random|FILE",
            help="What the backbone starts from. [VITRINE_WEIGHTS]",
            show_default="imagenet",
        ),
    ] = None,
    backbone: Annotated[BackboneName, typer.Option(help="The feature extractor.")] = DEFAULT_BACKBONE,
    image_size: Annotated[int, typer.Option(min=64, max=448, help="Side of the network's input, pixels.")] = 224,
    seed: Annotated[int, typer.Option(help="Of the random weights.")] = 0,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register a first, untrained model: search works at once."""
    from flows.settings import read_settings
    from tasks.models import ModelChoice, init_model
    from vitrine.cli.summaries import print_initial_model

    settings = read_settings()
    choice = ModelChoice(backbone, image_size, weights, seed, settings.weights)
    version = init_model(lake or settings.lake, choice)
    _print(as_json, {"model_version": version, "trained": False, "weights": choice.start}, print_initial_model)


@app.command()
def retrain(
    labels: Annotated[
        str | None,
        typer.Argument(
            help="CSV or Parquet: image_key, label, product_id, weight, category. [VITRINE_LABELS]", show_default=False
        ),
    ] = None,
    backbone: Annotated[BackboneName | None, typer.Option(help="The current model's by default.")] = None,
    image_size: Annotated[int | None, typer.Option(min=64, max=448, help="The current model's by default.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="imagenet|random|FILE", help="What the current model started from by default, else VITRINE_WEIGHTS."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the labelled pictures.")] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A choice of the training, such as head_rate=0.0003. May be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split, the weights and the order.")] = 0,
    device: DeviceOption = None,
    force: Annotated[
        str | None, typer.Option(metavar="REASON", help="Promote even a candidate that the gate refuses.")
    ] = None,
    then_serve: Annotated[
        bool, typer.Option("--then-serve/--no-then-serve", help="After a promotion, score and index the catalogue.")
    ] = True,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a candidate, judge it, promote or refuse it.

    Under torchrun its processes train together.
    """
    values = {
        "lake": lake,
        "labels": labels,
        "backbone": backbone,
        "image_size": image_size,
        "weights": weights,
        "epochs": epochs,
        "recipe": _assignments(recipe or []),
        "seed": seed,
        "device": device,
        "force": force,
        "then_serve": then_serve,
    }
    from vitrine.cli.summaries import print_retrain

    with _torchrun() as leads:
        if leads:
            _print(as_json, _run("RetrainParameters", values), print_retrain)


@app.command()
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
        Path | None, typer.Option(metavar="FILE", help="Only pictures whose keys this file lists, one a line.")
    ] = None,
    device: DeviceOption = None,
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
    from tasks.search.queries import read_keys, search_by_key, search_by_picture
    from tasks.search.reader import Filters
    from vitrine.cli.summaries import print_found

    settings, opened = read_settings(), _open(lake)
    keys = None if among is None else read_keys(among)
    filters = Filters(other_products, one_per_product, between, keys)
    if key is not None:
        found = search_by_key(opened, key, k, settings.cache_directory, filters)
    else:
        assert picture is not None  # noqa: S101 (checked above; mypy can't tell)
        chosen = device.value if device else settings.device
        found = search_by_picture(
            opened, picture, k, settings.cache_directory, chosen, filters=filters, precision=settings.precision
        )
    _print(as_json, found, print_found)


@app.command()
def near_duplicates(
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Least cosine of two pictures that count as one.")
    ] = NEAR_DUPLICATE,
    limit: Annotated[int, typer.Option(min=0, help="Groups to show, the largest first.")] = 20,
    across_products: Annotated[
        bool, typer.Option("--across-products", help="Only groups that show more than one product.")
    ] = False,
    confirm: Annotated[
        bool, typer.Option("--confirm/--no-confirm", help="Compare the pixels of each group's pictures too.")
    ] = True,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List groups of near-identical pictures in the index."""
    if math.isnan(threshold):
        raise typer.BadParameter("--threshold: expected a cosine of 0 to 1, found nan")
    from flows.settings import read_settings
    from tasks.search.near_duplicates import find_near_duplicates
    from vitrine.cli.summaries import print_near_duplicates

    cache = read_settings().cache_directory
    options = {"across_products": across_products, "confirm": confirm}
    found = find_near_duplicates(_open(lake), cache, threshold, limit, **options)
    _print(as_json, found, print_near_duplicates)


@app.command()
def sql(
    query: Annotated[
        str, typer.Argument(help="One or more statements; views and macros are those of catalogue.duckdb.")
    ],
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the catalogue in SQL (DuckDB)."""
    import duckdb

    from lake import catalogue
    from vitrine.cli.printing import print_rows, to_rows

    with catalogue.connect(_open(lake)) as connection:
        try:
            found = connection.execute(query)
            rows = to_rows(found.to_arrow_table()) if found and found.description else []
        except duckdb.Error as error:
            _fail(f"SQL: {error}")
        except OverflowError:
            _fail("SQL: a date or time lies outside the years 1 to 9999: cast it to VARCHAR")
    _print(as_json, rows, print_rows)


@app.command()
def status(lake: LakeOption = None, as_json: JsonOption = False) -> None:
    """What the lake holds, what serves, how the last run went."""
    from tasks.status import read_status
    from vitrine.cli.summaries import print_status

    _print(as_json, read_status(_open(lake)), print_status)


@app.command()
def versions(kind: Kind, lake: LakeOption = None, as_json: JsonOption = False) -> None:
    """List the versions of models or indexes."""
    from lake.catalogue import describe_versions
    from vitrine.cli.summaries import print_versions

    opened = _open(lake)
    serving = opened.serving()
    current = serving.model_version if kind is Kind.models else serving.index_version
    registry = opened.models if kind is Kind.models else opened.indexes
    _print(as_json, describe_versions(registry, current), print_versions)


@app.command()
def rollback(kind: Kind, version: int, lake: LakeOption = None, as_json: JsonOption = False) -> None:
    """Put an earlier model or index back, for every reader."""
    from lake.catalogue import write_catalogue
    from lake.rollback import roll_back
    from vitrine.cli.summaries import print_rolled_back

    opened = _open(lake)
    done = roll_back(opened, kind.value, version)
    write_catalogue(opened)
    _print(as_json, done, print_rolled_back)


@app.command()
def collect(
    keep: Annotated[
        int | None, typer.Option(min=1, help="Newest versions of each kind to keep.", show_default="5")
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Collect only versions unused for so long: 30d, 12h.", show_default="30d"),
    ] = None,
    dry_run: DryRunOption = False,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove old versions and what killed runs left behind.

    Never what readers use.
    """
    from datetime import timedelta

    from lake.collection import collect as collect_garbage
    from vitrine.cli.summaries import print_collected

    days = None if older_than is None else _age(older_than) / timedelta(days=1)
    values = {"lake": lake, "keep_versions": keep, "keep_days": days}
    if dry_run:
        done = collect_garbage(_open(lake), _parameters("CollectParameters", values).policy(), dry_run=True)
    else:
        done = _run("CollectParameters", values)
    _print(as_json, {"dry_run": dry_run, **asdict(done)}, print_collected)


def _age(text: str) -> timedelta:
    """An age such as 30d or 12h."""
    from datetime import timedelta

    match = re.fullmatch(r"(\d+(?:\.\d+)?)([dh])", text)
    if match is None:
        raise typer.BadParameter(f"--older-than: expected an age such as 30d or 12h, found {text!r}")
    return timedelta(days=float(match[1])) if match[2] == "d" else timedelta(hours=float(match[1]))


INTERRUPTED = 130  # what Typer makes of Ctrl-C
TERMINATED = 143  # what a shell makes of SIGTERM
STOPPED = "what was committed stays, run it again for the rest"

_state: dict[str, bool] = {"verbose": False}


def main() -> None:
    """The entry point: every error that is the user's business becomes one line and exit code 1."""
    # Spinning OpenMP threads starve each other where cores are few; torch and faiss bring one pool each.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="vitrine", standalone_mode=False)
        if code == INTERRUPTED:
            _fail(f"interrupted; {STOPPED}", code)
        sys.exit(code)
    except UsageError as error:
        where = error.ctx.command_path if error.ctx else "vitrine"
        message = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
        _fail(f"{message}; see `{where} --help`", code=2)
    except BrokenPipeError:
        _nobody_reads()
    except Exception as error:
        from flows.errors import SettingsError, for_people

        known = for_people(error)
        if known is None or (_state["verbose"] and not isinstance(error, SettingsError)):
            raise
        _fail(str(known), code=2 if isinstance(error, SettingsError) else 1)


def _fail(message: str, code: int = 1) -> NoReturn:
    first, *rest = message.splitlines() or ["failed"]
    print(f"vitrine: {first}", *rest, sep="\n", file=sys.stderr)  # noqa: T201
    sys.exit(code)


def _open(uri: str | None) -> Lake:
    from flows.settings import read_settings
    from lake.lake import open_lake

    return open_lake(uri or read_settings().lake)


def _range(option: str, text: str | None) -> tuple[float, float] | None:
    """MIN:MAX, either of which may be left out."""
    if text is None:
        return None
    low, colon, high = text.partition(":")
    try:
        found = float(low or "-inf"), float(high or "inf")
    except ValueError:
        found = (1.0, 0.0)
    if not colon or not found[0] <= found[1]:
        raise typer.BadParameter(f"{option}: expected MIN:MAX such as 0.8:1, found {text!r}")
    return found


def _print(as_json: bool, found: Any, for_people: Any) -> None:
    from vitrine.cli.printing import print_json

    try:
        print_json(found) if as_json else for_people(found)
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        _nobody_reads()


def _nobody_reads() -> NoReturn:
    """The reader of our output has gone, or its terminal: nothing is left to say."""
    sys.stderr.close()
    sys.exit(1)


@contextmanager
def _at_work() -> Iterator[None]:
    """Around a run: bars in the terminal, which it outlives; a signal ends it as Ctrl-C does."""
    from vitrine.cli.bars import in_terminal
    from vitrine.cli.printing import to_stderr

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: _fail(f"terminated; {STOPPED}", TERMINATED))
    with in_terminal(to_stderr):
        yield


def _parameters(name: str, values: dict[str, Any]) -> Any:
    """A flow's parameters. A value that pydantic refuses is bad usage."""
    import importlib

    from pydantic import ValidationError

    kind = getattr(importlib.import_module("flows.parameters"), name)
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise typer.BadParameter(f"{option}: {first['msg']}") from error


def _assignments(texts: list[str]) -> dict[str, Any]:
    """name=value, where the value is JSON, or else text."""
    import json

    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"--recipe: expected NAME=VALUE, found {text!r}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


@contextmanager
def _torchrun() -> Iterator[bool]:
    """Whether this process runs the flow; of those that torchrun started, rank 0 does and the others help it."""
    from flows.settings import started_by_torchrun

    if not started_by_torchrun():
        yield True
        return
    from tasks.retrain.torchrun import help_to_train, processes

    with processes() as distributed:
        if not distributed.leads:
            help_to_train()
        yield distributed.leads


def _run(parameters: str, values: dict[str, Any]) -> Any:
    """Run a flow here and now."""
    chosen = _parameters(parameters, values)
    from vitrine.cli.preflight import check

    check(chosen)
    from flows.here import run_here

    with _at_work():
        return run_here(chosen)


def _preview(parameters: str, values: dict[str, Any]) -> Any:
    """What a flow would do."""
    from vitrine.cli.preview import preview

    return preview(_parameters(parameters, values))
