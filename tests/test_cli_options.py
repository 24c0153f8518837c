"""What the commands may be asked for, how they explain it, and what they import to do so."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flows.parameters import (
    CollectParameters,
    FlowParameters,
    IngestParameters,
    InitModelParameters,
    NightlyParameters,
    RebuildParameters,
    RetrainParameters,
    ScoreParameters,
)
from tests.command_line import Run, filled
from tests.small_lake import build

# One command, then what it imported on the way.
IMPORTED_BY = """
import contextlib, io, json, sys
from vitrine.cli.app import main
out = io.StringIO()
with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
    main()
print(json.dumps([out.getvalue(), sorted(name for name in sys.modules if "." not in name)]))
"""


def imported_by(environment: dict[str, str], *arguments: str) -> tuple[str, set[str]]:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED_BY, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    out, modules = json.loads(done.stdout)
    return out, set(modules)


@pytest.mark.parametrize("arguments", ["--help", "", "nightly --help", "retrain --help"])
def test_help_imports_nothing_heavy(environment: dict[str, str], arguments: str) -> None:
    out, modules = imported_by(environment, *arguments.split())
    assert out.startswith("Usage: vitrine")
    assert "typer" in modules
    heavy = {
        "torch",
        "prefect",
        "faiss",
        "sklearn",
        "boto3",
        "botocore",
        "duckdb",
        "deltalake",
        "pyarrow",
        "numpy",
        "PIL",
    }
    assert modules & (heavy | {"obstore", "httpx"}) == set()


@pytest.mark.parametrize(
    "arguments",
    [
        "sql SELECT␣1 --lake {lake}",
        "status --lake {lake}",
        "versions looks --lake {lake}",
        "versions models --lake {lake}",
        "search --key {key} --lake {lake}",
        "search --key {key} --by feeling --lake {lake}",
        "near-duplicates --threshold 0.5 --lake {lake}",
        "rollback models 1 --lake {bare}",
    ],
)
def test_reading_the_lake_imports_neither_torch_nor_prefect(
    environment: dict[str, str], places: dict[str, str], arguments: str
) -> None:
    _, modules = imported_by(environment, *filled(arguments, places))
    assert "lake" in modules
    assert modules & {"torch", "torchvision", "prefect", "sklearn", "boto3", "fastapi"} == set()


def test_a_run_imports_no_prefect_and_a_night_of_nothing_new_no_torch(
    environment: dict[str, str], tmp_path: Path
) -> None:
    small = build(tmp_path)
    _, modules = imported_by(environment, "nightly", str(small.source), "--lake", small.uri)
    assert "lake" in modules
    assert modules & {"torch", "torchvision", "prefect", "sklearn", "fastapi"} == set()
    out, modules = imported_by(environment, "ingest", str(small.source), "--lake", str(tmp_path / "new"))
    assert "12 ingested" in out
    assert modules & {"prefect", "sklearn", "fastapi"} == set()


@pytest.mark.parametrize("arguments", ["sql SELECT␣1", "status", "versions indexes"])
def test_sql_status_and_versions_do_not_import_faiss_either(
    environment: dict[str, str], places: dict[str, str], arguments: str
) -> None:
    _, modules = imported_by(environment, *filled(arguments + " --lake {lake}", places))
    assert "lake" in modules
    assert modules & {"faiss", "torch", "prefect"} == set()


def test_every_command_explains_itself(run: Run) -> None:
    out = run("--help").out
    names = [
        line.split()[0]
        for line in out.partition("Commands:")[2].splitlines()
        if line.startswith("  ") and line[2] != " "
    ]
    assert {"demo", "ingest", "nightly", "rollback", "search", "sql"} <= set(names)
    for name in names:
        ended = run(name, "--help")
        assert (ended.code, ended.err) == (0, "")
        assert ended.out.startswith(f"Usage: vitrine {name}")


ASKED: dict[str, type[FlowParameters]] = {
    "ingest": IngestParameters,
    "score": ScoreParameters,
    "rebuild-index": RebuildParameters,
    "nightly": NightlyParameters,
    "init-model": InitModelParameters,
    "retrain": RetrainParameters,
    "collect": CollectParameters,
}


def options_of(run: Run, command: str) -> dict[str, str]:
    """The options of a command, and its argument in capitals, with what its help says of each."""
    out = run(command, "--help", COLUMNS="80").out.replace("Arguments:", "").replace("Options:", "")
    entries = re.split(r"^  (?=--|[A-Z]+ <)", out, flags=re.MULTILINE)[1:]
    return {entry.split()[0].removeprefix("--").replace("-", "_"): " ".join(entry.split()) for entry in entries}


@pytest.mark.parametrize("command", ASKED)
def test_a_command_can_be_asked_for_everything_that_its_flow_can(run: Run, command: str) -> None:
    options = {name.lower(): text for name, text in options_of(run, command).items()}
    for name, field in ASKED[command].model_fields.items():
        shown = str(field.description).replace(" ", "")
        assert shown in options[name].replace(" ", ""), name  # a word with a hyphen is broken at it


def test_a_night_can_be_told_everything_that_its_parts_can(run: Run) -> None:
    night = options_of(run, "nightly").keys()
    for part in ("ingest", "score", "rebuild-index"):
        assert options_of(run, part).keys() - night <= {"look_version", "model_version", "full_rebuild"}


def test_options_show_choices_bounds_and_the_default_of_the_setting(run: Run) -> None:
    options = options_of(run, "nightly")
    assert "<auto|always|never>" in options["compile"]
    assert "[default: 1024] [x>=1]" in options["shard_pictures"]
    assert "[default: 0.5] [0<=x<=1]" in options["max_deleted_share"]
    assert "/ --no-gpu-decode" in options["gpu_decode"]
    assert options["product_id_pattern"].startswith("--product-id-pattern REGEX ")


def test_an_option_comes_before_the_setting_of_its_name(run: Run, places: dict[str, str]) -> None:
    arguments = ("rebuild-index", "--lake", places["lake"], "--dry-run", "--json", "--full-rebuild", "a test")
    settings = {"VITRINE_SHARD_VECTORS": "5"}
    assert json.loads(run(*arguments, **settings).out)["shards_to_write"] == 3
    assert json.loads(run(*arguments, "--shard-vectors", "12", **settings).out)["shards_to_write"] == 1


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    done = subprocess.run(
        [sys.executable, "-m", "vitrine", "--version"], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"vitrine {version('vitrine')}\n", "")


def test_the_list_of_commands_gives_each_sentence_whole_at_80_columns() -> None:
    command = [sys.executable, "-m", "vitrine", "--help"]
    environment = os.environ | {"COLUMNS": "80"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    listed = done.stdout.partition("Commands:\n")[2].splitlines()
    assert len(listed) > 10
    assert [line for line in listed if not line.endswith((".", ")."))] == []
    assert [line for line in listed if line.endswith("...") or len(line) > 80] == []
