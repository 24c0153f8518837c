"""The `vitrine` command: which commands there are, and what becomes of their errors.

Thin: commands read arguments, call, and print. Heavy packages are imported inside the functions that need them, so
that --help, sql, status, versions and search by key answer at once.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated, cast

import typer

from vitrine.cli import backbones, doctor, keeping, nights, reading, sources
from vitrine.cli.output import INTERRUPTED, STOPPED, TERMINATED, fail, nobody_reads
from vitrine.cli.printable import PrintableFormatter

# What every wrong use of the command line is; Typer does not export it.
UsageError = cast(type[typer.BadParameter], typer.BadParameter.__base__)

COMMANDS = (
    nights.demo,
    nights.ingest,
    sources.passed_over,
    nights.score,
    nights.rebuild_index,
    nights.nightly,
    keeping.init_model,
    backbones.backbones,
    nights.retrain,
    nights.retrain_look,
    reading.search,
    reading.near_duplicates,
    reading.sql,
    reading.schema,
    reading.status,
    doctor.doctor,
    keeping.versions,
    keeping.rollback,
    keeping.collect,
    keeping.catalogue,
)

HELP = """Scores and indexes a shop's product pictures: how they feel, and which ones look alike.

Most options have a setting of the same name: VITRINE_<OPTION> in the environment, or a line of vitrine.toml.
"""

app = typer.Typer(
    help=HELP,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in COMMANDS:
    app.command()(command)

_state: dict[str, bool] = {"verbose": False}


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"vitrine {version('vitrine')}")  # noqa: T201 (the output of the command)
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens, and tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What holds for every command."""
    _state["verbose"] = verbose
    level = logging.INFO if verbose else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def main() -> None:
    """The entry point: every error that is the user's business becomes one line and exit code 1."""
    # Spinning OpenMP threads starve each other where cores are few; torch and faiss bring one pool each.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="vitrine", standalone_mode=False)
        if code == INTERRUPTED:
            fail(f"interrupted; {STOPPED}", code)
        sys.exit(code)
    except SystemExit as ended:
        if ended.code == TERMINATED:
            fail(f"terminated; {STOPPED}", TERMINATED)
        raise
    except UsageError as error:
        where = error.ctx.command_path if error.ctx else "vitrine"
        message = " ".join(error.format_message().split()).rstrip(".")
        fail(f"{message}; see `{where} --help`", code=2)
    except BrokenPipeError:
        nobody_reads()
    except Exception as error:
        from flows.errors import SettingsError, for_people

        known = for_people(error)
        if known is None or (_state["verbose"] and not isinstance(error, SettingsError)):
            raise
        fail(str(known), code=2 if isinstance(error, SettingsError) else 1)


if __name__ == "__main__":
    main()
