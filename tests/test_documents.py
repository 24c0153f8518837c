"""What README, CONTRIBUTING and docs/ name is there: files, links, `make` targets, commands with options, settings."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from flows.settings import Settings
from vitrine.cli.app import app

PROJECT = Path(__file__).parents[1]
DOCUMENTS = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").rglob("*.md"))]
PROGRAMS = ("vitrine", "flows", "tasks", "pages", "model", "index", "lake")
FOLDERS = (*PROGRAMS, "tests", "benchmarks", "examples", "docs")
FILE = re.compile(rf"(?<![\w/.:<-])((?:{'|'.join(FOLDERS)})/[\w./-]*\w|[\w-]+\.(?:py|md|toml|yaml))(?![\w*<])")
OBJECT = re.compile(rf"(?<![\w/.-])((?:{'|'.join(PROGRAMS)})(?:\.[A-Za-z_]\w*)+)(?![\w/])")
IDENTIFIER = re.compile(r"([A-Za-z_][\w.]*\w)(?:\(.*\)|=.*)?")
FILE_NAME = re.compile(r"\.(?:duckdb|faiss|json|lock|md|parquet|py|toml|yaml)$")
OF_USERS = {"vitrine.toml"}  # which documents name, and no checkout has


def named(document: Path) -> str:
    return str(document.relative_to(PROJECT))


def sources() -> Iterator[Path]:
    """What this checkout holds."""
    for folder in FOLDERS:
        yield from (path for path in (PROJECT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc")
    yield from (path for path in PROJECT.iterdir() if path.is_file())


def inline(text: str) -> list[str]:
    """What stands in backticks in a document's sentences and tables."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`]+)`", prose)


def fenced(text: str) -> list[str]:
    """The lines of a document's blocks; a command on several of them is one."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def code(document: Path) -> list[str]:
    text = document.read_text()
    return [*inline(text), *fenced(text)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_files_are_there(document: Path) -> None:
    paths = {named(path) for path in sources()} | {named(path.parent) for path in sources()}
    names = {path.name for path in sources()} | OF_USERS  # a table below a folder's name leaves it out
    found = {name for span in code(document) for name in FILE.findall(span)}
    assert [name for name in sorted(found) if name not in (paths if "/" in name else names)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_tests_that_are_named_are_there(document: Path) -> None:
    found = re.findall(r"(tests/[\w/]+\.py)::(\w+)", document.read_text())
    assert [name for file, name in found if f"def {name}(" not in (PROJECT / file).read_text()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_links_lead_to_files_and_headings(document: Path) -> None:
    for path, heading in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", document.read_text()):
        target = document.parent / path if path else document
        assert target.exists(), path
        headings = re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE) if heading else []
        assert not heading or heading in [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings]


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_modules_and_what_is_in_them_can_be_imported(document: Path) -> None:
    found = {name for span in code(document) for name in OBJECT.findall(span) if not FILE_NAME.search(name)}
    found |= {
        f"{module}.{name.strip()}"
        for line in fenced(document.read_text())
        for module, names in re.findall(rf"^from ((?:{'|'.join(PROGRAMS)})[\w.]*) import (.+)", line)
        for name in names.split(",")
    }
    for name in sorted(found):
        assert pkgutil.resolve_name(name) is not None


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_names_stand_somewhere_in_the_code(document: Path) -> None:
    """Functions, classes, settings, columns, metrics: whatever is one word between backticks."""
    text = " ".join(path.read_text() for path in sources() if path.suffix in (".py", ".sql", ".toml", ".yaml", ".html"))
    words = set(re.findall(r"\w+", text))
    found = {match[1] for span in inline(document.read_text()) if (match := IDENTIFIER.fullmatch(span))}
    found = {name for name in found if not FILE_NAME.search(name) and not name.startswith("VITRINE_")}
    assert [name for name in sorted(found) if not set(name.split(".")) <= words] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_settings_in_the_environment_are_settings(document: Path) -> None:
    found = set(re.findall(r"VITRINE_([A-Z0-9_]+)", document.read_text())) - {"TEST_S3"}
    assert {name.lower() for name in found} <= Settings.model_fields.keys()


def options() -> dict[str, set[str]]:
    """The options of each command, and of `vitrine` itself under an empty name."""
    command: Any = typer.main.get_command(app)
    every = {"": command, **command.commands}
    return {
        name: {"-h", "--help"} | {option for each in one.params for option in (*each.opts, *each.secondary_opts)}
        for name, one in every.items()
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_commands_and_their_options_are_those_of_the_command_line(document: Path) -> None:
    known, others = options(), set()  # what other programs are given in this document
    alone = []
    for span in code(document):
        words = span.partition(" #")[0].split()
        at = next((at for at, word in enumerate(words) if word in ("vitrine", ".venv/bin/vitrine")), len(words))
        asked = {word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-z][\w-]*(=.*)?", word)}
        script = next((word for word in words if re.fullmatch(r"benchmarks/\w+\.py", word)), None)
        if words[at + 1 : at + 2] and words[at + 1] in known:
            assert asked - set(words[:at]) <= known[words[at + 1]], span
        elif script is not None:
            assert [option for option in asked if f'"{option}"' not in (PROJECT / script).read_text()] == [], span
            others |= asked
        elif asked and re.match(r"--|-\w$", words[0]):
            alone += [words[0]]
        else:
            others |= asked
    assert set(alone) <= set.union(others, *known.values())


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_targets_of_make_are_in_the_makefile(document: Path) -> None:
    targets = set(re.findall(r"^(\w[\w-]*):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    found = {target for span in code(document) for target in re.findall(r"^make ([\w-]+)", span)}
    assert found <= targets
