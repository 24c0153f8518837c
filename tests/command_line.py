"""The command line for tests: fixtures that call it, the lakes and files that it is called on, and how it ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.small_lake import SmallLake

# Command after command in one process, so that Prefect is imported once for all of them.
MANY_COMMANDS = """
import contextlib, io, json, os, sys, traceback
import vitrine.cli.preflight
from vitrine.cli.app import main
clean = dict(os.environ)
for line in sys.stdin:
    arguments, directory, environment = json.loads(line)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(clean | environment)
    sys.argv = ["vitrine", *arguments]
    code, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as done:
            code = done.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment without settings, and without AWS credentials wherever boto3 may look for them."""
    home = str(tmp_path_factory.mktemp("home"))
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("VITRINE_", "AWS_", "PREFECT_", "XDG_")) and name not in ("COLUMNS", "FORCE_COLOR")
    }
    return kept | {"HOME": home, "AWS_EC2_METADATA_DISABLED": "true", "PYTHONWARNINGS": "default"}


@pytest.fixture
def fresh(environment: dict[str, str], tmp_path: Path) -> Run:
    """A command in a process of its own."""

    def run(*arguments: str, **settings: str) -> Ended:
        command = [sys.executable, "-m", "vitrine", *arguments]
        done = subprocess.run(
            command, env=environment | settings, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def commands(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The process that runs command after command."""
    with subprocess.Popen(
        [sys.executable, "-c", MANY_COMMANDS], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def run(commands: subprocess.Popen[str], tmp_path: Path) -> Run:
    """A command in a process that has run others before."""

    def ask(*arguments: str, **settings: str) -> Ended:
        assert commands.stdin is not None and commands.stdout is not None
        commands.stdin.write(json.dumps([arguments, str(tmp_path), settings]) + "\n")
        commands.stdin.flush()
        code, out, err = json.loads(commands.stdout.readline())
        return Ended(code, out, err)

    return ask


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallLake:
    """A lake that every test leaves as it is."""
    from tests.small_lake import build  # here: every session imports this module, and few need torch

    return build(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def places(small: SmallLake, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the arguments of a test name in braces."""
    from lake.lake import open_lake

    folder = tmp_path_factory.mktemp("places")
    for name in ("empty", "others"):
        (folder / name).mkdir()
    (folder / "others" / "notes.txt").write_text("no picture")
    (folder / "others" / ".hidden.jpg").write_text("no picture")
    (folder / "file").write_text("no directory")
    (folder / "broken").write_text("no picture")
    (folder / "labels.csv").write_text("key,emotion\na,1\n")
    open_lake(str(folder / "bare"), create=True)
    named = {name: str(folder / name) for name in ("empty", "others", "file", "none", "bare", "broken")}
    named |= {"new": str(folder / "new lake"), "labels": str(folder / "labels.csv")}
    return named | {
        "lake": small.uri,
        "source": str(small.source),
        "picture": str(first_of(small)),
        "key": key_of(small),
    }


def key_of(small: SmallLake) -> str:
    return small.pictures[0].image_key


def first_of(small: SmallLake) -> Path:
    return small.source / key_of(small)


def contents(places: dict[str, str]) -> dict[str, Any]:
    """Every file, as it was written last, of every lake, None where there is none: what nobody may change."""
    return {name: _files(Path(places[name])) for name in ("lake", "bare", "new")}


def _files(folder: Path) -> dict[str, tuple[int, ...]] | None:
    if not folder.exists():
        return None
    files = (path for path in folder.rglob("*") if path.is_file())
    statuses = ((path, path.stat()) for path in files)
    return {str(path.relative_to(folder)): (s.st_ino, s.st_size, s.st_mtime_ns) for path, s in statuses}


def filled(arguments: str, places: dict[str, str]) -> list[str]:
    """The words of a command line, with the places named in braces."""
    return [word.replace("␣", " ").format_map(places) for word in arguments.split()]


def failure_of(ended: Ended) -> str:
    """The one line that a failed command leaves."""
    assert ended.out == ""
    assert "Traceback" not in ended.err
    lines = ended.err.splitlines()
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("vitrine: ")
    return lines[0].removeprefix("vitrine: ")
