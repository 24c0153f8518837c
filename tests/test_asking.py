"""`vitrine sql`: it reads the lake and neither reads, writes nor reaches anything else; what it prints is harmless."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lake.lake import open_lake
from tests.command_line import Run, contents, failure_of
from tests.small_lake import SmallLake
from vitrine.cli.printable import printable

OUTSIDE = [
    "SELECT * FROM read_text('/etc/passwd')",
    "FROM read_blob('/etc/passwd')",
    "FROM read_csv('{secret}')",
    "FROM '{secret}'",
    "FROM read_json('{secret}')",
    "FROM sniff_csv('{secret}')",
    "FROM glob('/etc/*')",
    "FROM glob('{lake}/*')",
    "FROM read_text('{lake}/vitrine.json')",
    "FROM read_parquet('{lake}/../{secret}')",
    "FROM read_csv('/dev/stdin')",
    "FROM read_csv('http://127.0.0.1:9/x.csv')",
    "FROM 's3://other/x.parquet'",
    "FROM query('FROM read_text(''/etc/passwd'')')",
    "SET VARIABLE x = (SELECT content FROM read_text('/etc/passwd'))",
    "CREATE TABLE t AS FROM read_csv('{secret}')",
    "CREATE VIEW v AS FROM read_text('/etc/passwd'); FROM v",
    "CREATE MACRO m() AS TABLE FROM read_text('/etc/passwd'); FROM m()",
    "IMPORT DATABASE '{folder}'",
    "SELECT getenv('HOME')",
    "FROM duckdb_secrets(redact = false)",
    "FROM query_table('lake')",
    "FROM connection",
]
WRITING = [
    "COPY (SELECT 1) TO '{target}'",
    "COPY (SELECT 'x' AS image_key) TO '{part}' (FORMAT parquet)",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{part}'",
    "EXPLAIN /* */ ANALYZE COPY (SELECT 1) TO '{part}'",
    "EXPLAIN (ANALYZE) COPY (SELECT 1) TO '{part}'",
    "PREPARE p AS COPY (SELECT 1) TO '{part}'; EXECUTE p",
    "SELECT 1; COPY (SELECT 1) TO '{part}'",
    "EXPORT DATABASE '{target}'",
    "ATTACH '{target}'",
    "ATTACH '{lake}/catalogue.duckdb' AS c",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "SET allowed_paths = ['/etc/passwd']",
    "SET memory_limit = '1GB'",
    "RESET lock_configuration",
    "PRAGMA memory_limit = '1GB'",
    "PRAGMA enable_profiling",
    "USE memory",
    "CALL enable_logging()",
    "CHECKPOINT",
    "CREATE PERSISTENT SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
]


@pytest.mark.parametrize("query", OUTSIDE + WRITING)
def test_sql_reaches_nothing_but_the_lakes_tables(
    run: Run, places: dict[str, str], small: SmallLake, tmp_path: Path, query: str
) -> None:
    (secret := tmp_path / "secret.csv").write_text("token\nhunter2\n")
    before = contents(places)
    root = open_lake(small.uri).store
    named = {"secret": secret, "lake": root.url(), "folder": tmp_path, "target": tmp_path / "target"}
    ended = run("sql", query.format(part=open_lake(small.uri).images.files()[0].url, **named), "--lake", small.uri)
    assert ended.code == 1, ended.out
    assert ended.err.startswith("vitrine: SQL: ")
    assert "hunter2" not in ended.out + ended.err and "root:" not in ended.out + ended.err
    assert "Traceback" not in ended.err
    assert contents(places) == before
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("FROM (SELECT count(*) AS n FROM images)", [{"n": 12}]),
        ("WITH a AS (SELECT 1 AS n) FROM a", [{"n": 1}]),
        ("VALUES (1)", [{"col0": 1}]),
        ("SET VARIABLE x = 3; SELECT getvariable('x') AS x", [{"x": 3}]),
        ("CREATE TEMP TABLE t AS FROM range(3) AS r(n); DELETE FROM t WHERE n > 0; FROM t", [{"n": 0}]),
        ("PIVOT (SELECT 'a' AS k, 1 AS v) ON k USING max(v)", [{"a": 1}]),
        ("SELECT count(*) AS n FROM duckdb_secrets()", [{"n": 0}]),
    ],
)
def test_sql_reads_in_every_way_that_duckdb_has(
    run: Run, small: SmallLake, query: str, rows: list[dict[str, object]]
) -> None:
    ended = run("sql", query, "--lake", small.uri, "--json")
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out) == rows


DESCRIBING = ["SHOW TABLES", "DESCRIBE images", "SUMMARIZE images", "EXPLAIN FROM images", "PRAGMA show_tables"]


@pytest.mark.parametrize("query", [*DESCRIBING, "EXPLAIN ANALYZE SELECT 1", "EXPLAIN (FORMAT json) SELECT 1"])
def test_sql_describes_what_there_is(run: Run, small: SmallLake, query: str) -> None:
    ended = run("sql", query, "--lake", small.uri)
    assert (ended.code, ended.err) == (0, "")
    assert len(ended.out.splitlines()) > 1


def test_each_answer_of_several_statements_is_printed(run: Run, small: SmallLake) -> None:
    ended = run("sql", "SELECT 1 AS a; CREATE TABLE t (n INT); SELECT 2 AS b;", "--lake", small.uri)
    assert ended.out.splitlines() == ["a", "1", "", "b", "2"]


def test_sql_reads_statements_from_standard_input(environment: dict[str, str], small: SmallLake) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vitrine", "sql", "-", "--lake", small.uri, "--json"],
        env=environment,
        input="SELECT count(*) AS n\nFROM images -- all of them\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [{"n": 12}]


@pytest.mark.s3
def test_sql_over_s3_reads_the_lake_alone_and_shows_no_secret(run: Run, small: SmallLake, s3_root: str) -> None:
    lake, local = open_lake(f"{s3_root}/a b/polarity=9", create=True), open_lake(small.uri).store
    for name in local.names(""):
        lake.store.put(name, local.get(name))
    given = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    ended = run(
        "sql", "SELECT count(*) AS n, max(polarity) < 1 AS low FROM scores", "--lake", lake.uri, "--json", **given
    )
    assert json.loads(ended.out) == [{"n": 12, "low": True}]
    ended = run("sql", "FROM duckdb_secrets()", "--lake", lake.uri, "--json", **given)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in ended.out and "redacted" in ended.out
    for other in (f"{s3_root}/vitrine.json", f"{lake.uri}/vitrine.json", "/etc/passwd"):
        ended = run("sql", f"FROM read_text('{other}')", "--lake", lake.uri, **given)
        assert ended.code == 1 and "Permission Error" in ended.err
    part = lake.images.files()[0].url
    assert run("sql", f"COPY (SELECT 1) TO '{part}'", "--lake", lake.uri, **given).code == 1


# What leaves by --export

TYPES = """
    SELECT 1.5::DECIMAL(4, 2) AS d, TIMESTAMPTZ '2026-03-01 12:00:00+00' AS t, {'a': [1, 2]} AS s, 'ä, "b"' AS u,
           NULL::INTEGER AS n FROM range(2)
"""


def test_an_answer_is_written_as_parquet_csv_and_json(run: Run, small: SmallLake, tmp_path: Path) -> None:
    for suffix in ("parquet", "csv", "JSON"):
        ended = run("sql", TYPES, "--export", f"a b'{suffix}.{suffix}", "--lake", small.uri)
        assert (ended.code, ended.err) == (0, "")
        assert ended.out == f"2 rows in a b'{suffix}.{suffix}\n"
    [row, _] = pq.read_table(tmp_path / "a b'parquet.parquet").to_pylist()
    assert row["t"] == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert (str(row["d"]), row["s"], row["u"], row["n"]) == ("1.50", {"a": [1, 2]}, 'ä, "b"', None)
    [row, _] = csv.DictReader(io.StringIO((tmp_path / "a b'csv.csv").read_text()))
    assert (row["d"], row["u"], row["n"], row["t"]) == ("1.50", 'ä, "b"', "", "2026-03-01 12:00:00+00")
    [row, _] = json.loads((tmp_path / "a b'JSON.JSON").read_text())
    assert (row["s"], row["u"], row["n"]) == ({"a": [1, 2]}, 'ä, "b"', None)
    assert len(list(tmp_path.iterdir())) == 3


def test_an_export_that_fails_leaves_the_old_file(run: Run, small: SmallLake, tmp_path: Path) -> None:
    (tmp_path / "answer.csv").write_text("old")
    query = "SELECT CASE WHEN range > 100000 THEN error('late') ELSE 'x' END FROM range(200000)"
    assert "late" in run("sql", query, "--export", "answer.csv", "--lake", small.uri).err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("answer.csv", "old")]
    failed = run("sql", "SELECT 1", "--export", "no/such/folder/answer.csv", "--lake", small.uri)
    assert "can't be written" in failure_of(failed)


# What a terminal gets

HOSTILE = "\x1b]0;title\x07\x1b[2J\x1b[31mmug\r\n\u009b31m\u202egpj.\u2066x\u2069\u2028y\x00\x7f\u200b[red]z"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> SmallLake:
    """A lake whose keys, reasons and products are escape sequences."""
    from tasks.ingest.config import IngestConfig
    from tasks.looks import init_model
    from tests import small_lake
    from vitrine.demo.draw_catalogue import draw_catalogue

    folder = tmp_path_factory.mktemp("hostile")
    name = HOSTILE.replace("\x00", "")
    source = folder / "pictures" / name
    pictures = draw_catalogue(source, products=1, views=2, size=32)
    (source / "broken.jpg").write_bytes(name.encode())
    uri = str(folder / "lake")
    init_model(uri, small_lake.SMALL_MODEL)
    small_lake.ingest(uri, str(folder / "pictures"), IngestConfig(product_id_pattern=r"(.*)/[^/]+$"))
    small_lake.register_model(uri)
    small_lake.score(uri)
    small_lake.rebuild(uri)
    return SmallLake(uri, source, tuple(pictures))


@pytest.mark.parametrize(
    "arguments",
    [
        ["sql", "FROM scores"],
        ["sql", 'SELECT image_key AS "\x1b[31mred" FROM images'],
        ["sql", "FROM rejected"],
        ["sql", "SELECT [image_key], {'k': image_key}, MAP {image_key: 1} FROM images"],
        ["sql", f"SELECT '{HOSTILE[:40]}"],
        ["sql", "SELECT error(image_key) FROM images"],
        ["search", "--key", "KEY"],
        ["search", "--key", HOSTILE.replace("\x00", "")],
        ["search", HOSTILE.replace("\x00", "")],
        ["near-duplicates", "--threshold", "0"],
        ["status"],
        ["versions", "\x1b[31mmodels"],
        ["rollback", "models", "\x1b[31m1"],
        ["--\x1b[31m"],
        ["ingest", f"/nowhere/{HOSTILE[:30]}"],
        ["status", "--lake", f"/nowhere/{HOSTILE[:30]}"],
    ],
    ids=lambda arguments: ascii(arguments)[:60],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_nothing_that_others_wrote_reaches_the_terminal_as_it_is(
    run: Run, hostile: SmallLake, arguments: list[str], as_json: bool
) -> None:
    from lake.catalogue import connect

    with connect(open_lake(hostile.uri)) as sql:
        [key, *_] = [row[0] for row in sql.execute("SELECT image_key FROM images").fetchall()]
    given = [key if word == "KEY" else word for word in arguments]
    ended = run(*given, *(["--json"] if as_json else []), VITRINE_LAKE=hostile.uri)
    for line in (ended.out + ended.err).split("\n"):
        assert line.isprintable(), ascii(line)
    assert "Traceback" not in ended.err
    if as_json and ended.code == 0 and "KEY" in arguments:
        assert all("\x1b]0;title" in row["image_key"] for row in json.loads(ended.out)["neighbours"])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mugs/blue mug.jpg", "mugs/blue mug.jpg"),
        ("Käse/日本.jpg", "Käse/日本.jpg"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\nb\rc\td", "a\\nb\\rc\\td"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("\x9b\x7f\x00\u2028", "\\x9b\\x7f\\x00\\u2028"),
        ("\udcff\U000e0041", "\\udcff\\U000e0041"),
        ("'\"\\", "'\"\\"),
    ],
)
def test_what_no_terminal_shows_is_spelled(text: str, shown: str) -> None:
    assert printable(text) == shown
