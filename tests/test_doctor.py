"""`vitrine doctor`: what it finds in a lake that was damaged, and what a repair leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lake.errors import CorruptFile, LakeBusy
from lake.health import ASIDE, Finding, examine
from lake.lake import open_lake
from lake.lease import acquire
from lake.parquet import check_parquet
from lake.presence import Presence
from lake.rollback import roll_back
from tests import scored_lake, small_lake
from tests.command_line import Run

pattern, root = scored_lake.pattern, scored_lake.root


def ill(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(each.what, each.state) for each in findings if each.state != "good"]


def commits(root: Path, table: str) -> list[Path]:
    return sorted((root / table / "_delta_log").glob("*.json"))


def test_a_sound_lake_is_good_to_its_last_byte(root: Path) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    findings = examine(str(root), deep=True)
    assert ill(findings) == []
    assert "objects can be written, and put-if-absent holds" in [each.says for each in findings]
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b'{"format": 1'])
def test_a_repair_moves_a_damaged_newest_entry_aside_and_keeps_it(root: Path, data: bytes) -> None:
    path = root / "indexes" / "log" / "000000000002.json"
    path.write_bytes(data)
    [found] = [each for each in examine(str(root)) if each.state != "good"]
    assert (found.what, found.state) == ("log of indexes", "bad")
    assert path.name in found.says and "vitrine doctor --repair" in found.remedy
    assert ill(examine(str(root), repair=True)) == [("log of indexes", "repaired")]
    assert path.with_name(path.name + ASIDE).read_bytes() == data
    assert open_lake(str(root)).serving().index_version == 1
    assert ill(examine(str(root), deep=True)) == []
    assert small_lake.rebuild(str(root)) is not None
    assert open_lake(str(root)).serving().index_version == 3


def test_several_damaged_newest_entries_go_one_after_another(root: Path) -> None:
    lake = open_lake(str(root))
    roll_back(lake, "indexes", 1)
    for number in (2, 3):
        (root / "indexes" / "log" / f"{number:012d}.json").write_bytes(b"")
    assert ill(examine(str(root), repair=True)) == [("log of indexes", "repaired")] * 2
    assert lake.indexes.current() == 1


def test_a_damaged_entry_that_others_rest_on_stays(root: Path) -> None:
    path = root / "indexes" / "log" / "000000000001.json"
    path.write_bytes(b"")
    assert ill(examine(str(root), repair=True)) == [("log of indexes", "bad")]
    assert path.exists()


@pytest.mark.parametrize("table", ["images", "scores"])
def test_a_damaged_commit_goes_and_the_next_night_makes_it_good(root: Path, table: str) -> None:
    commits(root, table)[-1].write_bytes(b"")
    assert ill(examine(str(root))) == [(f"table {table}", "bad")]
    assert ill(examine(str(root), repair=True)) == [(f"table {table}", "repaired")]
    assert ill(examine(str(root), deep=True)) == []
    assert small_lake.rebuild(str(root)) is not None


def test_a_damaged_marker_is_written_anew(root: Path) -> None:
    (root / "vitrine.json").write_bytes(b"")
    assert ill(examine(str(root), repair=True)) == [("lake", "repaired")]
    assert ill(examine(str(root))) == []


def test_a_damaged_manifest_is_bad_where_it_serves_and_else_a_warning(root: Path) -> None:
    for version in (1, 2):
        (root / "indexes" / "versions" / f"{version:06d}" / "manifest.json").write_bytes(b"{}")
    assert ill(examine(str(root))) == [("indexes 1", "warning"), ("indexes 2", "bad")]


@pytest.mark.parametrize("parts", ["images/*.parquet", "embeddings/*/*.parquet", "scores/*/*.parquet"])
def test_one_flipped_bit_of_any_column_of_a_part_is_found_when_it_looks_deep(root: Path, parts: str) -> None:
    path = min(root.glob(parts))
    whole = path.read_bytes()
    group = pq.ParquetFile(path).metadata.row_group(0)
    for column in map(group.column, range(group.num_columns)):
        start = column.dictionary_page_offset or column.data_page_offset
        data = bytearray(whole)
        data[start + column.total_compressed_size - 1] ^= 16  # within the column's last page, behind its header
        path.write_bytes(data)
        with pytest.raises(CorruptFile, match=f"{path.name} is damaged"):
            check_parquet(open_lake(str(root)).store, str(path.relative_to(root)), len(whole), group.num_rows)
    assert ill(examine(str(root))) == []
    assert ("table " + parts.split("/", maxsplit=1)[0], "bad") in ill(examine(str(root), deep=True))


def test_one_flipped_bit_of_a_versions_file_is_found_when_it_looks_deep(root: Path) -> None:
    path = min(root.glob("indexes/versions/*/*.npy"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)
    assert ill(examine(str(root), deep=True))[0] == ("indexes 1", "bad")


@pytest.mark.parametrize("cut", [0, 100])
def test_a_part_cut_short_or_gone_is_found_when_it_looks_deep(root: Path, cut: int) -> None:
    path = next(iter(root.glob("images/*.parquet")))
    path.write_bytes(path.read_bytes()[:cut]) if cut else path.unlink()
    assert ("table images", "bad") in ill(examine(str(root), deep=True))


def test_nothing_is_repaired_under_a_run_at_work(root: Path) -> None:
    lake = open_lake(str(root))
    presence = Presence(lake.store, "run", "a night")
    presence.start()
    try:
        acquire(lake, presence)
        assert ill(examine(str(root))) == []
        with pytest.raises(LakeBusy, match="is being written by a night"):
            examine(str(root), repair=True)
    finally:
        presence.stop()


def test_the_command_says_what_is_wrong_and_ends_with_1(run: Run, root: Path) -> None:
    ended = run("doctor", "--lake", str(root), "--json")
    assert (ended.code, ended.err) == (0, "")
    assert {"versions", "temporary files", "cache", "store"} <= {each["what"] for each in json.loads(ended.out)}
    (root / "looks" / "log" / "000000000001.json").write_bytes(b"")
    ended = run("doctor", "--lake", str(root))
    assert ended.code == 1
    assert "bad       log of looks" in ended.out
    assert run("doctor", "--repair", "--lake", str(root)).code == 0
    ended = run("doctor", "--lake", str(root / "nowhere"))
    assert ended.code == 1 and "there is no lake at" in ended.out
