"""What the catalogue says of itself: a comment on every view, column and macro; and `vitrine schema`."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from lake.catalogue import connect, write_catalogue
from lake.comments import describe
from lake.lake import Lake, open_lake
from tests.test_catalogue import fill
from vitrine.cli.keeping import catalogue
from vitrine.cli.reading import schema


@pytest.fixture(params=["empty", "filled"])
def lake(tmp_path: Path, request: pytest.FixtureRequest) -> Lake:
    made = open_lake(str(tmp_path / "shop"), create=True)
    if request.param == "filled":
        fill(made)
    return made


def test_every_view_column_and_macro_of_the_file_has_a_comment(lake: Lake) -> None:
    with duckdb.connect(write_catalogue(lake), read_only=True) as sql:
        for kind, name in (("tables", "table_name"), ("views", "view_name"), ("functions", "function_name")):
            query = f"SELECT DISTINCT {name} FROM duckdb_{kind}() WHERE NOT internal AND comment IS NULL"
            assert sql.execute(query).fetchall() == []
        bare = "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal AND comment IS NULL"
        assert sql.execute(bare).fetchall() == []
        said = "SELECT comment FROM duckdb_columns() WHERE table_name = 'scores' AND column_name = 'polarity'"
        assert "probability" in str(sql.execute(said).fetchone())


def test_the_schema_names_what_can_be_asked(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    schema(lake=lake.uri, as_json=True)
    described = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    with connect(lake) as sql:
        for name, each in described.items():
            if each["kind"] == "view":
                asked = [row[:2] for row in sql.execute(f"DESCRIBE {name}").fetchall()]
                assert [(column["name"], column["type"]) for column in each["columns"]] == asked
        assert list(described) == [each.name for each in describe(sql)]
    assert described["similar_to"]["parameters"] == ["key", "k"]
    schema(lake=lake.uri, as_json=False)
    shown = capsys.readouterr().out
    assert "most_positive(n)" in shown
    assert "FLOAT[]: What the picture looks like" in shown


def test_the_command_writes_a_catalogue_for_elsewhere(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    catalogue(at="shop", to=Path("desk.duckdb"), lake=lake.uri, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"catalogue": "desk.duckdb", "reads": str(tmp_path / "shop")}
    with duckdb.connect("desk.duckdb", read_only=True) as sql:
        assert sql.execute("FROM written_for").fetchall() == [(str(tmp_path / "shop"),)]
        sql.execute("FROM scores").fetchall()
    catalogue(lake=lake.uri)
    with duckdb.connect(str(tmp_path / "shop" / "catalogue.duckdb"), read_only=True) as sql:
        sql.execute("FROM scores").fetchall()
