"""The command line as its users meet it: exit codes, one line that says what to do, JSON, and quick answers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.torch
import torch

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
from lake.lake import open_lake
from lake.store import open_store
from model.backbones.registry import BACKBONES
from tests import small_lake
from tests.small_lake import SmallLake, build
from tests.vector_lake import VectorLake

if TYPE_CHECKING:
    from tests.conftest import PrefectServer

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

# One command, then what it imported on the way.
IMPORTED_BY = """
import contextlib, io, json, sys
from vitrine.cli.app import main
out = io.StringIO()
with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
    main()
print(json.dumps([out.getvalue(), sorted(name for name in sys.modules if "." not in name)]))
"""

# A Ctrl-C while the command is at work.
INTERRUPTED = """
import signal
import vitrine.cli.app
import vitrine.cli.reading
vitrine.cli.reading.open_lake = lambda _uri: signal.raise_signal(signal.SIGINT)
vitrine.cli.app.main()
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallLake:
    return build(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def places(small: SmallLake, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the arguments below name in braces."""
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
    return named | {"lake": small.uri, "source": str(small.source), "picture": str(_first(small)), "key": _key(small)}


def _key(small: SmallLake) -> str:
    return small.pictures[0].image_key


def _first(small: SmallLake) -> Path:
    return small.source / _key(small)


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


# Failures

FAILURES = [
    # sources
    ("ingest {none} --lake {new}", "none does not exist: expected a directory or s3://bucket/prefix"),
    ("ingest {none} --lake {lake}", "none does not exist: expected a directory or s3://bucket/prefix"),
    ("ingest {file} --lake {new}", "file is a file: expected a directory"),
    ("ingest {empty} --lake {new}", "empty has no pictures: expected files such as .jpg"),
    ("ingest {empty} --lake {lake}", "empty has no pictures: expected files such as .jpg"),
    ("ingest {others} --lake {new}", "others has no pictures; 2 objects there have other names"),
    ("ingest {empty} --lake {new} --dry-run", "empty has no pictures"),
    ("nightly {empty} --lake {lake}", "empty has no pictures"),
    ("nightly {none} --lake {lake}", "none does not exist"),
    ("ingest gs://bucket/pictures --lake {new}", "gs:// is not supported: expected s3://bucket/prefix"),
    ("ingest s3://b --lake {new}", "is not an S3 URI"),
    ("ingest s3://bucket/pictures --lake {new}", "no AWS credentials for s3://bucket: set AWS_PROFILE"),
    # lakes
    ("ingest {source} --lake {file}/lake", "can't be created: Not a directory"),
    ("ingest {source} --lake {file}", "file is a file: expected a directory"),
    ("ingest {source} --lake /proc/lake", "can't be created"),
    ("ingest {source} --lake s3://bucket/lake", "no AWS credentials for s3://bucket"),
    ("status --lake s3://bucket/lake", "no AWS credentials for s3://bucket"),
    ("status --lake {new}", "there is no lake at"),
    ("status --lake {empty}", "there is no lake at"),
    ("status", "there is no lake at ./vitrine-data"),
    ("status --lake {file}/lake", "there is no lake at"),
    ("sql SELECT␣1 --lake {new}", "there is no lake at"),
    ("versions models --lake {new}", "there is no lake at"),
    ("rollback models 1 --lake {new}", "there is no lake at"),
    ("search --key a.jpg --lake {new}", "there is no lake at"),
    ("score --lake {new}", "there is no lake at"),
    ("score --lake {new} --dry-run", "there is no lake at"),
    ("rebuild-index --lake {new}", "there is no lake at"),
    ("nightly {source} --lake {new}", "there is no lake at"),
    ("retrain {labels} --lake {new}", "there is no lake at"),
    # models and versions
    ("score --lake {bare}", "the lake has no model yet: `vitrine init-model` registers one"),
    ("score --lake {bare} --dry-run", "the lake has no model yet"),
    ("rebuild-index --lake {bare}", "the lake has no model yet"),
    ("rebuild-index --lake {bare} --dry-run", "the lake has no model yet"),
    ("nightly {source} --lake {bare}", "the lake has no model yet"),
    ("nightly {source} --lake {bare} --dry-run", "the lake has no model yet"),
    ("score --model-version 9 --lake {lake}", "there is no version 9 among the models: expected one of 1"),
    ("score --model-version 9 --lake {lake} --dry-run", "there is no version 9 among the models"),
    ("score --model-version 9 --lake {bare}", "there is no version 9 among the models: expected one of none yet"),
    ("rebuild-index --model-version 9 --lake {lake}", "there is no version 9 among the models"),
    ("rollback models 9 --lake {lake}", "there is no version 9 among the models: expected one of 1"),
    ("rollback indexes 9 --lake {lake}", "there is no version 9 among the indexes: expected one of 1"),
    ("rollback models 0 --lake {lake}", "there is no version 0 among the models"),
    ("init-model --weights random --backbone resnet18 --lake {lake}", "the lake has model 1 already"),
    # searches
    ("search --key no/such/key.jpg --lake {lake}", "no/such/key.jpg"),
    ("search --key a.jpg --lake {bare}", "the lake has no index yet"),
    ("search --key {key} --among {none} --lake {lake}", "none can't be read: No such file or directory"),
    ("search --key {key} --among {labels} --lake {lake}", "keys are not in this index, such as"),
    ("near-duplicates --lake {bare}", "the lake has no index yet"),
    ("search {none} --lake {lake}", "none can't be read: No such file or directory"),
    ("search {empty} --lake {lake}", "empty can't be read: Is a directory"),
    ("search {broken} --lake {lake}", "broken: not a picture: it begins with"),
    # labels
    ("retrain {none} --lake {lake}", "the labels can't be read"),
    ("retrain {labels} --lake {lake}", "expected the columns image_key and label, found key, emotion"),
]

MISUSES = [
    ("ingest --lake {new}", "no source: give the directory or s3://bucket/prefix of the pictures"),
    ("nightly --lake {lake}", "no source: give the directory"),
    ("retrain --lake {lake}", "no labels: give a CSV or Parquet file"),
    (
        "retrain {labels} --lake {lake} --recipe speed=9",
        "--recipe: expected fields among batch_size, head_",
    ),
    ("retrain {labels} --lake {lake} --recipe head_rate=fast", "--recipe: "),
    ("retrain {labels} --lake {lake} --recipe crop=2", "expected warmup_share, crop, colour_jitter and ema_decay in"),
    ("retrain {labels} --lake {lake} --recipe fast", "--recipe: expected NAME=VALUE, found 'fast'"),
    ("ingest {source} --lake {new} --product-id-pattern (", "--product-id-pattern: not a regular expression"),
    ("ingest {source} --lake {new} --product-id-pattern a", "expected one group, the product's id, found 0"),
    ("ingest {source} --lake {new} --product-id-pattern (a)(b) --dry-run", "expected one group"),
    ("ingest {source} --lake {new} --max-deleted-share 2", "--max-deleted-share"),
    ("score --lake {lake} --device abacus", "--device"),
    ("score --lake {lake} --device-lock lock", "--device-lock: expected an absolute path"),
    ("nightly {source} --lake {lake} --precision float8", "--precision"),
    ("nightly {source} --lake {lake} --recall-target 0", "--recall-target: Input should be greater than 0"),
    ("nightly {source} --lake {lake} --shard-pictures 0 --dry-run", "--shard-pictures"),
    ("retrain {labels} --lake {lake} --held-out-share 1", "--held-out-share: Input should be less than 1"),
    ("retrain {labels} --lake {lake} --held-out-share 0.95", "held_out_share and validation_share below 1 together"),
    ("status --lake {lake} --nonsense", "No such option: --nonsense; see `vitrine status --help`"),
    ("--nonsense", "No such option: --nonsense; see `vitrine --help`"),
    ("nonsense", "No such command 'nonsense'; see `vitrine --help`"),
    ("ingest {source} {source} --lake {new}", "Got unexpected extra argument"),
    ("sql --lake {lake}", "Missing argument 'query'"),
    ("rollback models --lake {lake}", "Missing argument 'version'"),
    ("rollback models newest --lake {lake}", "Invalid value for 'version'"),
    ("versions pictures --lake {lake}", "'pictures' is not one of 'models', 'indexes'"),
    ("search --lake {lake}", "give either a PICTURE or --key IMAGE_KEY"),
    ("search {picture} --key {key} --lake {lake}", "give either a PICTURE or --key IMAGE_KEY"),
    ("search {picture} --other-products --lake {lake}", "--other-products needs --key IMAGE_KEY"),
    ("search --key {key} --polarity 0.5 --lake {lake}", "--polarity: expected MIN:MAX such as 0.8:1, found '0.5'"),
    ("search --key {key} --polarity 1:0 --lake {lake}", "--polarity: expected MIN:MAX"),
    ("search --key {key} --polarity nan: --lake {lake}", "--polarity: expected MIN:MAX"),
    ("near-duplicates --threshold 2 --lake {lake}", "--threshold"),
    ("near-duplicates --threshold nan --lake {lake}", "--threshold"),
    ("search --key {key} -k 0 --lake {lake}", "'-k'"),
    ("init-model --image-size 7 --lake {new}", "--image-size"),
    ("collect --lake {lake} --keep-days soon", "Invalid value for '--keep-days': Input should be a valid number"),
    ("collect --lake {lake} --keep-versions 0", "'--keep-versions'"),
]


@pytest.mark.parametrize(("arguments", "expected"), FAILURES, ids=[arguments for arguments, _ in FAILURES])
def test_a_failure_is_one_line_and_changes_nothing(
    run: Run, places: dict[str, str], arguments: str, expected: str
) -> None:
    before = contents(places)
    ended = run(*filled(arguments, places))
    assert expected in failure_of(ended)
    assert ended.code == 1
    assert contents(places) == before


@pytest.mark.parametrize(("arguments", "expected"), MISUSES, ids=[arguments for arguments, _ in MISUSES])
def test_bad_usage_is_one_line_and_changes_nothing(
    run: Run, places: dict[str, str], arguments: str, expected: str
) -> None:
    before = contents(places)
    ended = run(*filled(arguments, places))
    assert expected in failure_of(ended)
    assert ended.code == 2
    assert contents(places) == before


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("VITRINE_BATCH_SIZE", "many", "setting 'batch_size' (VITRINE_BATCH_SIZE or vitrine.toml): "),
        ("VITRINE_BATCH_SIZE", "0", "greater than or equal to 1, found '0'"),
        ("VITRINE_DEVICE", "abacus", "setting 'device'"),
        ("VITRINE_MAX_DELETED_SHARE", "1.5", "setting 'max_deleted_share'"),
    ],
)
@pytest.mark.parametrize("arguments", ["status", "ingest {source} --lake {new}", "search --key {key} --lake {lake}"])
def test_a_setting_that_can_not_be_used_is_named(
    run: Run, places: dict[str, str], arguments: str, name: str, value: str, expected: str
) -> None:
    before = contents(places)
    ended = run(*filled(arguments, places), **{name: value})
    assert expected in failure_of(ended)
    assert ended.code == 2
    assert contents(places) == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("batch_size = 'many'\n", "setting 'batch_size' (VITRINE_BATCH_SIZE or vitrine.toml)"),
        ("lakes = 'x'\n", "setting 'lakes'"),
        ("lake = \n", "vitrine.toml can't be read"),
        ("a lake\nanother line", "vitrine.toml can't be read"),
        (b"lake = '\xff'\n", "vitrine.toml can't be read"),
    ],
    ids=["bad value", "unknown name", "no value", "no TOML", "not UTF-8"],
)
def test_a_vitrine_toml_that_can_not_be_used_says_why(
    run: Run, tmp_path: Path, text: str | bytes, expected: str
) -> None:
    (tmp_path / "vitrine.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    ended = run("status")
    assert expected in failure_of(ended)
    assert ended.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["vitrine.toml"]


def test_settings_come_from_the_toml_the_environment_wins_over_it_and_an_option_over_both(
    run: Run, tmp_path: Path, small: SmallLake
) -> None:
    (tmp_path / "vitrine.toml").write_text("lake = 'from-toml'\n")
    assert "no lake at from-toml" in failure_of(run("status"))
    assert "no lake at from-environment" in failure_of(run("status", VITRINE_LAKE="from-environment"))
    assert "no lake at from-option" in failure_of(
        run("status", "--lake", "from-option", VITRINE_LAKE="from-environment")
    )
    assert run("status", VITRINE_LAKE=small.uri).code == 0


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELEC 1", "Parser Error"),
        ("SELECT * FROM nowhere", "nowhere does not exist"),
        ("SELECT no_column FROM images", "no_column"),
        ("SELECT 'x'::INTEGER", "Conversion Error"),
        ("SELECT 'infinity'::DATE", "lies outside the years 1 to 9999: cast it to VARCHAR"),
    ],
)
def test_an_error_in_sql_is_duckdbs_own_words_and_changes_nothing(
    run: Run, places: dict[str, str], query: str, expected: str
) -> None:
    before = contents(places)
    ended = run("sql", query, "--lake", places["lake"])
    assert ended.code == 1
    assert ended.out == ""
    assert ended.err.startswith("vitrine: SQL: ")  # further lines show where in the query
    assert ended.err.count("vitrine: ") == 1
    assert expected in ended.err
    assert "Traceback" not in ended.err
    assert contents(places) == before


def test_a_failure_shows_its_traceback_only_where_it_is_asked_for(run: Run, places: dict[str, str]) -> None:
    ended = run("--verbose", "status", "--lake", places["none"])
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert "NoLake" in ended.err


@pytest.mark.s3
@pytest.mark.parametrize(
    "arguments", ["ingest {missing} --lake {new}", "status --lake {missing}", "ingest {source} --lake {missing}"]
)
def test_a_bucket_that_is_not_there_is_one_line(run: Run, places: dict[str, str], s3_root: str, arguments: str) -> None:
    before = contents(places)
    missing = f"s3://vitrine-no-such-bucket-{uuid.uuid4().hex[:8]}/pictures"
    credentials = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    ended = run(*filled(arguments, places | {"missing": missing}), **credentials)
    assert "does not exist" in failure_of(ended)
    assert ended.code == 1
    assert contents(places) == before
    assert open_store(s3_root).names("") == []


# The same in a process of its own


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        ("ingest {none} --lake {new}", 1, "none does not exist"),
        ("search --key no/such/key.jpg --lake {lake}", 1, "no/such/key.jpg"),
        ("status --lake {lake} --nonsense", 2, "No such option"),
    ],
)
def test_the_process_ends_with_the_exit_code_and_the_line(
    fresh: Run, places: dict[str, str], arguments: str, code: int, expected: str
) -> None:
    ended = fresh(*filled(arguments, places))
    assert expected in failure_of(ended)
    assert ended.code == code


def test_an_interrupted_command_says_so(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "status"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "interrupted" in failure_of(Ended(done.returncode, done.stdout, done.stderr))
    assert done.returncode == 130


def test_a_reader_that_goes_away_is_no_traceback(environment: dict[str, str], small: SmallLake) -> None:
    query = "SELECT range AS n FROM range(20000)"
    command = [sys.executable, "-m", "vitrine", "sql", query, "--json", "--lake", small.uri]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


# Answers

PRINTING = [
    "status --lake {lake}",
    "sql SELECT␣image_key,␣polarity␣FROM␣scores --lake {lake}",
    "versions models --lake {lake}",
    "versions indexes --lake {lake}",
    "versions indexes --lake {bare}",
    "status --lake {bare}",
    "search --key {key} --lake {lake}",
    "search {picture} -k 3 --device cpu --lake {lake}",
    "near-duplicates --lake {lake}",
    "near-duplicates --threshold 0.5 --limit 1 --lake {lake}",
    "ingest {source} --lake {lake} --dry-run",
    "ingest {source} --lake {new} --dry-run",
    "score --lake {lake} --dry-run",
    "rebuild-index --lake {lake} --dry-run",
    "nightly {source} --lake {lake} --dry-run",
    "collect --lake {lake} --dry-run",
]


@pytest.mark.parametrize("arguments", PRINTING)
def test_with_json_one_document_is_printed_and_without_it_text(
    run: Run, places: dict[str, str], arguments: str
) -> None:
    before = contents(places)
    as_json, as_text = run(*filled(arguments, places), "--json"), run(*filled(arguments, places))
    assert (as_json.code, as_json.err) == (as_text.code, as_text.err) == (0, "")
    assert isinstance(json.loads(as_json.out), dict | list)
    assert as_text.out.strip()
    assert not as_text.out.startswith(("{", "["))
    assert contents(places) == before


def test_a_first_model_and_a_rollback_print_json_too(run: Run, tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    made = run(
        "init-model", "--weights", "random", "--backbone", "resnet18", "--image-size", "64", "--lake", lake, "--json"
    )
    assert json.loads(made.out) == {"model_version": 1, "trained": False, "weights": "random"}
    back = run("rollback", "models", "1", "--lake", lake, "--json")
    assert json.loads(back.out) | {"note": ""} == {
        "kind": "models", "version": 1, "model_version": 1, "serving_model": 1, "serving_index": None, "note": "",
    }  # fmt: skip
    assert run("rollback", "models", "1", "--lake", lake).out.startswith("models rolled back to version 1")


def test_a_first_model_starts_from_the_weights_that_the_settings_name(run: Run, tmp_path: Path) -> None:
    torch.manual_seed(5)
    theirs = BACKBONES["resnet18"].build().state_dict()
    (tmp_path / "backbone.safetensors").write_bytes(safetensors.torch.save(theirs))
    lake = str(tmp_path / "lake")
    command = ("init-model", "--backbone", "resnet18", "--image-size", "64", "--lake", lake, "--json")
    made = run(*command, VITRINE_DEFAULT_WEIGHTS=str(tmp_path / "backbone.safetensors"))
    assert json.loads(made.out)["weights"] == str(tmp_path / "backbone.safetensors")
    state = safetensors.torch.load(open_lake(lake).models.read(1, "weights.safetensors"))
    assert all(torch.equal(tensor, state[f"backbone.{name}"]) for name, tensor in theirs.items())


def test_collect_removes_what_it_said_it_would(run: Run, tmp_path: Path) -> None:
    lake = VectorLake(str(tmp_path / "lake"), 8)
    for night in range(3):
        lake.change({f"{night}.jpg": np.eye(8, dtype=np.float32)[night]})
        small_lake.rebuild(lake.uri)
    arguments = ("collect", "--keep-versions", "1", "--keep-days", "0", "--lake", lake.uri)
    said, done = (json.loads(run(*arguments, *more, "--json").out) for more in (["--dry-run"], []))
    assert said | {"dry_run": False} == done
    # A description and a mask each, and the truth that the second was held against: a lone picture has none.
    assert (done["indexes"], done["models"], done["version_files"]) == ([1, 2], [], 5)
    listed = json.loads(run("versions", "indexes", "--lake", lake.uri, "--json").out)
    assert [row["status"] for row in listed] == ["collected", "collected", "accepted"]
    gone = run("rollback", "indexes", "1", "--lake", lake.uri)
    assert gone.code == 1
    assert "version 1 was collected on" in failure_of(gone)
    assert run(*arguments).out.startswith("files   removed 0.0 MB: 0 files of versions")


def test_status_says_what_the_small_lake_holds(run: Run, small: SmallLake) -> None:
    found = json.loads(run("status", "--lake", small.uri, "--json").out)
    assert (found["pictures"], found["scored"], found["rejected"], found["products"]) == (12, 12, 3, 6)
    assert (found["promoted_model"], found["serving_model"], found["serving_index"]) == (1, 1, 1)
    assert found["polarity"].startswith("untrained")
    assert (found["last_run"]["flow"], found["last_run"]["status"]) == ("rebuild-index", "completed")


def test_a_dry_run_counts_what_the_run_would_do(run: Run, places: dict[str, str]) -> None:
    found = json.loads(run("nightly", places["source"], "--lake", places["lake"], "--dry-run", "--json").out)
    assert (found["listed"], found["unchanged"], found["new"], found["deleted"]) == (15, 15, 0, 0)
    assert found["to_score_at_most"] == 0
    found = json.loads(run("ingest", places["source"], "--lake", places["new"], "--dry-run", "--json").out)
    assert (found["listed"], found["new"]) == (15, 15)


def test_a_dry_run_of_an_index_says_what_it_would_write_and_how_much_memory_it_takes(
    run: Run, small: SmallLake
) -> None:
    arguments = ("rebuild-index", "--lake", small.uri, "--dry-run", "--json")
    assert json.loads(run(*arguments).out)["publish"] == "nothing: the published index has this content"
    found = json.loads(run(*arguments, "--full-rebuild", "a test").out)
    assert found["publish"] == "a new version"
    assert (found["vectors"], found["shards_kept"], found["shards_to_write"], found["vectors_to_write"]) == (
        12,
        0,
        1,
        12,
    )
    assert found["to_write_mb"] == pytest.approx(12 * found["bytes_per_vector"] / 1e6, abs=0.06)
    assert found["memory_training_mb"] == 0
    assert found["memory_measuring_mb"] >= found["memory_searching_mb"] > 0


def test_a_search_by_picture_finds_the_picture_itself_first(run: Run, small: SmallLake) -> None:
    ended = run("search", str(_first(small)), "-k", "3", "--device", "cpu", "--lake", small.uri, "--json")
    neighbours = json.loads(ended.out)["neighbours"]
    assert neighbours[0]["image_key"] == _key(small)
    assert neighbours[0]["similarity"] == pytest.approx(1, abs=1e-3)
    assert len(neighbours) == 3


def test_a_search_by_picture_computes_in_the_numbers_that_the_settings_name(run: Run, small: SmallLake) -> None:
    found = {}
    for precision in ("float32", "bfloat16"):
        command = ("search", str(_first(small)), "-k", "3", "--device", "cpu", "--lake", small.uri, "--json")
        ended = run(*command, VITRINE_PRECISION=precision)
        found[precision] = [each["similarity"] for each in json.loads(ended.out)["neighbours"]]
    assert found["float32"] != found["bfloat16"]
    assert found["float32"] == pytest.approx(found["bfloat16"], abs=0.01)


def test_a_search_by_key_leaves_the_key_itself_out_and_asks_for_no_more_than_there_are(
    run: Run, small: SmallLake
) -> None:
    found = json.loads(run("search", "--key", _key(small), "-k", "1000", "--lake", small.uri, "--json").out)
    keys = [neighbour["image_key"] for neighbour in found["neighbours"]]
    assert sorted([*keys, _key(small)]) == sorted(picture.image_key for picture in small.pictures)
    similarities = [neighbour["similarity"] for neighbour in found["neighbours"]]
    assert similarities == sorted(similarities, reverse=True)


def test_a_search_is_filtered_by_product_polarity_and_keys(run: Run, small: SmallLake, tmp_path: Path) -> None:
    def found(*options: str) -> list[dict[str, Any]]:
        ended = run("search", "--key", _key(small), "-k", "1000", "--lake", small.uri, "--json", *options)
        assert ended.code == 0, ended.err
        neighbours: list[dict[str, Any]] = json.loads(ended.out)["neighbours"]
        return neighbours

    everything = found()
    own = _key(small).split("/")[-2]
    assert found("--other-products") == [each for each in everything if each["product_id"] != own]
    firsts = {each["product_id"]: each for each in reversed(everything)}
    once = [each for each in everything if firsts[each["product_id"]] is each]
    assert found("--one-per-product") == once
    assert len(once) == 6
    middle = sorted(each["polarity"] for each in everything)[5]
    assert found("--polarity", f":{middle}") == [each for each in everything if each["polarity"] <= middle]
    listed = tmp_path / "keys.txt"
    listed.write_text("".join(f"{each['image_key']}\n" for each in everything[3:8]))
    assert found("--among", str(listed)) == everything[3:8]
    both = found("--among", str(listed), "--other-products")
    assert both == [each for each in everything[3:8] if each["product_id"] != own]


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("SELECT 1 AS a, 2 AS a, 3 AS a, 4 AS a_1", [{"a": 1, "a_2": 2, "a_3": 3, "a_1": 4}]),
        ("SELECT 'NaN'::FLOAT AS n, 'inf'::DOUBLE AS i, NULL AS nothing", [{"n": None, "i": None, "nothing": None}]),
        ("SELECT 1.50::DECIMAL(4, 2) AS d, DATE '2026-01-31' AS day", [{"d": "1.50", "day": "2026-01-31"}]),
        ("SELECT {'a': [1, 2]} AS s, 'x'::BLOB AS b, 'ä' AS u", [{"s": {"a": [1, 2]}, "b": "78", "u": "ä"}]),
        ("CREATE TABLE t (a INT); INSERT INTO t VALUES (7); FROM t", [{"a": 7}]),
        ("SELECT 1 AS a WHERE false", []),
        ("", []),
        ("/* nothing */", []),
    ],
)
def test_sql_prints_whatever_a_query_gives_as_json(run: Run, small: SmallLake, query: str, rows: list[Any]) -> None:
    ended = run("sql", query, "--lake", small.uri, "--json")
    assert ended.err == ""
    assert json.loads(ended.out) == rows


def test_a_long_answer_is_cut_for_people_and_whole_as_json(run: Run, small: SmallLake) -> None:
    query = "SELECT range AS n FROM range(1000)"
    assert "… 900 more rows; --json prints them all" in run("sql", query, "--lake", small.uri).out
    assert len(json.loads(run("sql", query, "--lake", small.uri, "--json").out)) == 1000


# Quick answers


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
        "versions models --lake {lake}",
        "search --key {key} --lake {lake}",
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


# Options


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
        assert options_of(run, part).keys() - night <= {"model_version", "full_rebuild"}


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


# Runs


@pytest.mark.parametrize(("precision", "shard_vectors", "shards"), [("float32", 5, 3), ("bfloat16", 6, 2)])
def test_the_options_of_a_night_reach_its_parts(
    run: Run, small: SmallLake, tmp_path: Path, precision: str, shard_vectors: int, shards: int
) -> None:
    lake = ("--lake", str(tmp_path / "lake"))
    run("init-model", "--weights", "random", "--backbone", "resnet18", "--image-size", "64", *lake)
    parts = "--fetch-threads 1 --decode-threads 1 --shard-pictures 5 --device cpu --batch-size 3 --compile never"
    index = f"--precision {precision} --shard-vectors {shard_vectors} --index-metric euclidean"
    ended = run("nightly", str(small.source), *parts.split(), *index.split(), *lake, "--json")
    assert ended.code == 0, ended.err
    night = json.loads(ended.out)
    assert (night["index"]["shards_written"], night["score"]["arithmetic"]) == (shards, precision)


@pytest.mark.prefect
def test_a_night_prints_one_json_document_and_a_refused_one_a_line(
    fresh: Run, run: Run, prefect_server: PrefectServer, tmp_path: Path
) -> None:
    small = build(tmp_path)
    arguments = ["nightly", str(small.source), "--lake", small.uri]
    pictures = [small.source / picture.image_key for picture in small.pictures]
    pictures[0].write_bytes(pictures[1].read_bytes())
    ended = fresh(*arguments, "--json", PREFECT_API_URL=prefect_server.api_url)
    assert ended.code == 0, ended.err
    night = json.loads(ended.out)
    assert (night["ingest"]["unchanged"], night["ingest"]["ingested"]) == (14, 1)
    assert (night["index"]["index_version"], night["index"]["is_new"]) == (2, True)

    for path in pictures[:10]:
        path.unlink()
    before = run("versions", "indexes", "--lake", small.uri, "--json")
    ended = fresh(*arguments, PREFECT_API_URL=prefect_server.api_url)
    assert (ended.code, ended.out) == (1, "")
    assert "lacks 10 of the 15 pictures that the lake knows" in ended.err.splitlines()[-1]
    assert ended.err.count("vitrine: ") == 1
    assert "Traceback" not in ended.err
    assert run("versions", "indexes", "--lake", small.uri, "--json") == before
    found = json.loads(run("status", "--lake", small.uri, "--json").out)
    assert (found["pictures"], found["last_run"]["status"]) == (12, "failed")


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
