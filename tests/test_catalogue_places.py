"""catalogue.duckdb where its lake was moved, copied or linked to, opened or attached: it reads no other's files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from lake.catalogue import prepare, write_catalogue
from lake.lake import Lake, open_lake
from tests.test_catalogue import fill

SCORES = "SELECT image_key, polarity FROM {}scores"
MACROS = {
    "most_positive()": 1,
    "most_negative(n := 3)": 1,
    "product_polarity()": 1,
    "scores_of(2)": 1,
    "embeddings_of(2)": 1,
    "similar_to('a')": 0,
    "polarity_changes(1, 2)": 1,
}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A lake's folder, its catalogue written."""
    lake = open_lake(str(tmp_path / "shop"), create=True)
    fill(lake)
    write_catalogue(lake)
    return tmp_path / "shop"


@contextmanager
def opened(file: Path | str) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(str(file), read_only=True) as sql:
        yield sql


@contextmanager
def attached(*files: Path | str) -> Iterator[duckdb.DuckDBPyConnection]:
    """The files as shop0, shop1, …"""
    with duckdb.connect() as sql:
        for number, file in enumerate(files):
            sql.execute(f"ATTACH '{file}' AS shop{number} (READ_ONLY)")
        yield sql


def read(sql: duckdb.DuckDBPyConnection, name: str = "") -> list[tuple[object, ...]]:
    return sql.execute(SCORES.format(name)).fetchall()


def empty(lake: Path) -> None:
    """Make every Parquet file of a lake unreadable: who reads it, fails."""
    for file in lake.rglob("*.parquet"):
        file.write_bytes(b"")


def test_a_moved_lake_reads_its_files_where_they_are(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = shop.rename(shop.with_name("it's elsewhere"))

    with opened(moved / "catalogue.duckdb") as sql:
        assert read(sql) == [("a", 0.75)]
        assert len(sql.execute("FROM most_positive()").fetchall()) == 1
    monkeypatch.chdir(moved)
    for relative in ("catalogue.duckdb", "./catalogue.duckdb", "../it's elsewhere/catalogue.duckdb"):
        with opened(relative) as sql:
            assert read(sql) == [("a", 0.75)]


@pytest.mark.parametrize("original", ["whole", "damaged", "gone"])
def test_a_copied_lake_reads_its_own_files(shop: Path, original: str) -> None:
    copy = Path(shutil.copytree(shop, shop.with_name("copy")))
    if original == "damaged":
        empty(shop)
    if original == "gone":
        shutil.rmtree(shop)

    with opened(copy / "catalogue.duckdb") as sql:
        assert read(sql) == [("a", 0.75)]


def test_a_copy_whose_files_are_gone_fails_and_does_not_read_the_originals(shop: Path) -> None:
    copy = Path(shutil.copytree(shop, shop.with_name("copy")))
    empty(copy)

    with opened(copy / "catalogue.duckdb") as sql, pytest.raises(duckdb.Error, match="copy"):
        read(sql)
    with attached(copy / "catalogue.duckdb") as sql, pytest.raises(duckdb.Error, match="written for"):
        read(sql, "shop0.")


def test_an_attached_copy_says_that_it_was_written_for_another_folder_and_what_to_do(shop: Path) -> None:
    copy = Path(shutil.copytree(shop, shop.with_name("copy")))

    with attached(copy / "catalogue.duckdb") as sql:
        for view in ("images", "scores", "runs", "embeddings", "pixels", "most_positive()"):
            with pytest.raises(duckdb.InvalidInputException, match=f"SET VARIABLE vitrine_lake = '{copy}'") as error:
                sql.execute(f"FROM shop0.{view}").fetchall()
            assert str(shop) in str(error.value)
            assert str(copy) in str(error.value)
            assert "\n" not in str(error.value)
        empty(shop)
        sql.execute(f"SET VARIABLE vitrine_lake = '{copy}'")
        assert read(sql, "shop0.") == [("a", 0.75)]
    write_catalogue(open_lake(str(copy)))
    with attached(copy / "catalogue.duckdb") as sql:
        assert read(sql, "shop0.") == [("a", 0.75)]


def test_an_original_and_a_copy_attached_together_do_not_pass_for_each_other(shop: Path) -> None:
    copy = Path(shutil.copytree(shop, shop.with_name("copy")))

    with (
        attached(shop / "catalogue.duckdb", copy / "catalogue.duckdb") as sql,
        pytest.raises(duckdb.Error, match="was written for"),
    ):
        read(sql, "shop1.")
    write_catalogue(open_lake(str(copy)))
    with attached(shop / "catalogue.duckdb", copy / "catalogue.duckdb") as sql:
        assert read(sql, "shop0.") == read(sql, "shop1.") == [("a", 0.75)]


@pytest.mark.parametrize("where", ["{shop}", "{shop}/.", "{parent}//shop", "{parent}/./shop/"])
def test_an_attached_catalogue_is_read_under_any_alias_and_its_macros_too(shop: Path, where: str) -> None:
    folder = where.format(shop=shop, parent=shop.parent)

    with attached(f"{folder}/catalogue.duckdb") as sql:
        assert read(sql, "shop0.") == [("a", 0.75)]
        counted = {macro: len(sql.execute(f"FROM shop0.{macro}").fetchall()) for macro in MACROS}
        assert counted == MACROS
        sql.execute("USE shop0")
        assert read(sql) == [("a", 0.75)]


@pytest.mark.parametrize("relative", ["catalogue.duckdb", "../shop/catalogue.duckdb"])
def test_one_attached_by_a_relative_path_is_read(shop: Path, monkeypatch: pytest.MonkeyPatch, relative: str) -> None:
    copy = Path(shutil.copytree(shop, shop.with_name("copy")))
    monkeypatch.chdir(shop)

    with attached(relative) as sql:
        assert read(sql, "shop0.") == [("a", 0.75)]
    monkeypatch.chdir(copy)
    with attached("catalogue.duckdb") as sql:
        with pytest.raises(duckdb.InvalidInputException, match="was written for"):
            read(sql, "shop0.")
        sql.execute("SET VARIABLE vitrine_lake = '.'")
        assert read(sql, "shop0.") == [("a", 0.75)]


def test_a_linked_lake_is_read_through_the_link(shop: Path) -> None:
    link = shop.with_name("link")
    link.symlink_to(shop)

    with opened(link / "catalogue.duckdb") as sql:
        assert read(sql) == [("a", 0.75)]
    with attached(link / "catalogue.duckdb") as sql:
        assert read(sql, "shop0.") == [("a", 0.75)]


def test_a_client_with_a_temporary_directory_of_its_own_reads_the_lake_it_was_written_for(shop: Path) -> None:
    copy = Path(shutil.copytree(shop, shop.with_name("copy")))
    spill: dict[str, str | bool | int | float | list[str]] = {"temp_directory": str(shop.parent / "spill")}

    with duckdb.connect(str(shop / "catalogue.duckdb"), read_only=True, config=spill) as sql:
        assert read(sql) == [("a", 0.75)]
    with (
        duckdb.connect(str(copy / "catalogue.duckdb"), read_only=True, config=spill) as sql,
        pytest.raises(duckdb.InvalidInputException, match="was written for"),
    ):
        read(sql)


def test_one_written_for_elsewhere_reads_there_wherever_it_lies(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake, mounted, desk = open_lake(str(shop)), shop.with_name("mounted"), shop.with_name("desk")
    desk.mkdir()
    file = desk / "shop.duckdb"
    assert write_catalogue(lake, at=f"{mounted}/", file=file) == str(file)
    shop.rename(mounted)
    monkeypatch.chdir(desk)

    for connection in (opened("shop.duckdb"), opened(file)):
        with connection as sql:
            assert read(sql) == [("a", 0.75)]
    with attached("shop.duckdb") as sql:
        assert read(sql, "shop0.") == [("a", 0.75)]
    assert [entry.name for entry in desk.iterdir()] == ["shop.duckdb"]


@pytest.mark.s3
def test_on_s3_it_is_attached_with_a_secret_and_nothing_else(s3_root: str, tmp_path: Path) -> None:
    lake = open_lake(s3_root, create=True)
    fill(lake)
    url = write_catalogue(lake)

    with duckdb.connect() as sql:
        prepare(sql, lake.store)
        sql.execute("RESET VARIABLE vitrine_lake")
        sql.execute(f"ATTACH '{url}' AS shop (READ_ONLY)")
        assert read(sql, "shop.") == [("a", 0.75)]
        assert len(sql.execute("FROM shop.most_positive()").fetchall()) == 1
    downloaded = _download(lake, tmp_path / "downloaded")
    with opened(downloaded / "catalogue.duckdb") as sql:
        assert read(sql) == [("a", 0.75)]


def _download(lake: Lake, folder: Path) -> Path:
    for page in lake.store.pages():
        for each in page:
            target = folder / each.path
            os.makedirs(target.parent, exist_ok=True)  # noqa: PTH103
            target.write_bytes(lake.store.get(each.path))
    return folder
