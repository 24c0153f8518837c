"""The command line where something is wrong: one line that says what to do, an exit code, and nothing changed."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lake.store import open_store
from tests.command_line import Ended, Run, contents, failure_of, filled
from tests.small_lake import SmallLake

if TYPE_CHECKING:
    pass

# A Ctrl-C while the command is at work.
INTERRUPTED = """
import signal
import vitrine.cli.app
import vitrine.cli.reading
vitrine.cli.reading.open_lake = lambda _uri: signal.raise_signal(signal.SIGINT)
vitrine.cli.app.main()
"""


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
    ("retrain {labels} --lake {new}", "there is no lake at"),
    # models and versions
    ("score --lake {bare}", "the lake has no look model yet: `vitrine nightly SOURCE` registers the bundled one"),
    ("score --lake {bare} --dry-run", "the lake has no look model yet"),
    ("rebuild-index --lake {bare}", "the lake has no look model yet"),
    ("rebuild-index --lake {bare} --dry-run", "the lake has no look model yet"),
    ("score --look-version 9 --lake {lake}", "there is no version 9 among the looks: expected one of 1"),
    ("score --look-version 9 --lake {lake} --dry-run", "there is no version 9 among the looks"),
    ("score --model-version 9 --lake {lake}", "there is no version 9 among the models: expected one of 1"),
    ("score --model-version 9 --lake {lake} --dry-run", "there is no version 9 among the models"),
    ("score --look-version 9 --lake {bare}", "there is no version 9 among the looks: expected one of none yet"),
    ("rebuild-index --look-version 9 --lake {lake}", "there is no version 9 among the looks"),
    ("rollback looks 9 --lake {lake}", "there is no version 9 among the looks: expected one of 1"),
    ("rollback models 9 --lake {lake}", "there is no version 9 among the models: expected one of 1"),
    ("rollback indexes 9 --lake {lake}", "there is no version 9 among the indexes: expected one of 1"),
    ("rollback models 0 --lake {lake}", "there is no version 0 among the models"),
    ("init-model --weights random --backbone resnet18 --lake {lake}", "the lake has look 1 already"),
    # searches
    ("search --key no/such/key.jpg --lake {lake}", "no/such/key.jpg"),
    ("search --key a.jpg --lake {bare}", "the lake has no index yet"),
    ("search --key {key} --among {none} --lake {lake}", "none can't be read: No such file or directory"),
    ("search --key {key} --among {labels} --lake {lake}", "the index does not hold any of the "),
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
    ("sql ; --lake {lake}", "there is no statement in the query"),
    ("sql /*␣nothing␣*/ --lake {lake}", "there is no statement in the query"),
    ("sql SELECT␣1 --export answer.xlsx --lake {lake}", "expected a file that ends in .csv, .parquet, .json"),
    ("sql SELECT␣1;SELECT␣2 --export answer.csv --lake {lake}", "--export writes one answer: expected one SELECT"),
    ("rollback models --lake {lake}", "Missing argument 'version'"),
    ("rollback models newest --lake {lake}", "Invalid value for 'version'"),
    ("versions pictures --lake {lake}", "'pictures' is not one of 'looks', 'models', 'indexes'"),
    ("search --key {key} --by smell --lake {lake}", "'smell' is not one of 'look', 'feeling'"),
    (
        "retrain {labels} --lake {lake} --no-train-backbone --backbone resnet18",
        "expected no backbone, image_size or weights without train_backbone: a frozen trunk is the look's",
    ),
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
        ("VITRINE_MAX_DELETED_SHARES", "0.5", "no setting 'max_deleted_shares'"),
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
        ("lakes = 'x'\n", "no setting 'lakes', found in vitrine.toml: 'lake' is the nearest"),
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
        [sys.executable, "-X", "dev", "-c", INTERRUPTED, "status"],  # dev: errors in an object's end are shown
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
