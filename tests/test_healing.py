"""A lake in which something was left behind, cut off or put by others: who still reads it, and what is said of it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from lake.catalogue import connect, describe_versions, write_catalogue
from lake.collection import collect
from lake.collection_policy import CollectionPolicy
from lake.errors import DamagedDocument, LakeError, UnknownVersion
from lake.lake import Lake, open_lake
from lake.lease import acquire, held_by
from lake.presence import Presence, dead_runs
from lake.rollback import roll_back
from lake.store import open_store
from lake.versions import Versions
from tasks.status import read_status
from tests import scored_lake, small_lake

pattern, root = scored_lake.pattern, scored_lake.root
NOW = CollectionPolicy(keep_versions=1, keep_days=0, longest_run_hours=0)


def folders_of(root: Path) -> list[Path]:
    return [root, *(path for path in root.rglob("*") if path.is_dir())]


def put_everywhere(root: Path, name: str) -> list[Path]:
    old = time.time() - 10 * 86_400
    paths = [folder / name for folder in folders_of(root)]
    for path in paths:
        path.write_bytes(b"")
        os.utime(path, (old, old))
    return paths


def answers(lake: Lake) -> tuple[object, ...]:
    """What readers see."""
    with connect(lake) as sql:
        rows = sql.execute("SELECT image_key, product_id, polarity FROM scores ORDER BY image_key").fetchall()
    status = {name: value for name, value in read_status(lake).items() if name not in ("lake", "catalogue")}
    return rows, {**status, "last_run": None}, lake.serving()


# What is not ours, and what killed writers left


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("manifest.json#12", True),
        ("000000000009.json#3", True),
        ("part-00000.parquet#1f", True),
        ("00000000000000000009.json#1", True),
        (".DS_Store", False),
        ("._manifest.json", False),
        ("Thumbs.db", False),
        ("desktop.ini", False),
        ("manifest.json~", False),
        ("000000000009.json.tmp", False),
        ("000000000009 (copy).json", False),
        ("000000000009.json.bak", False),
        (".000000000009.json.swp", False),
    ],
)
def test_what_lies_about_in_every_folder_stops_nobody_and_goes_where_it_is_ours(
    root: Path, name: str, ours: bool
) -> None:
    lake = open_lake(str(root))
    before = answers(lake)
    left = put_everywhere(root, name)
    assert answers(lake) == before
    planned = collect(lake, NOW, dry_run=True)
    assert collect(lake, NOW) == planned
    assert [path.exists() for path in left] == [not ours] * len(left)
    assert answers(open_lake(str(root)))[0] == before[0]
    assert small_lake.rebuild(str(root)) is not None


def test_folders_in_place_of_files_stop_nobody(root: Path) -> None:
    before = answers(open_lake(str(root)))
    for folder in folders_of(root):
        (folder / "a folder").mkdir()
    assert answers(open_lake(str(root))) == before
    collect(open_lake(str(root)), NOW)


def test_empty_workspaces_go_and_a_workspace_goes_with_its_last_object(root: Path) -> None:
    lake = open_lake(str(root))
    lake.store.put("work/run/score-00000.parquet", b"")
    (root / "work" / "killed").mkdir(parents=True)
    assert collect(lake, NOW).workspaces == 1
    assert not (root / "work").exists() or list((root / "work").iterdir()) == []


def test_what_young_writers_are_just_writing_is_left_to_them(root: Path) -> None:
    lake = open_lake(str(root))
    partial = [root / "scores" / "model_version=1" / "x.parquet#1", root / "lease" / "000000000009.json#1"]
    for path in partial:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    collect(lake, CollectionPolicy(keep_versions=1, keep_days=0))
    assert all(path.exists() for path in partial)


# Damaged documents

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut to a half": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "no bytes but NUL": lambda data: b"\0" * len(data),
    "no JSON": lambda _: b"what is this",
    "no UTF-8": lambda _: b"\xff\xfe{}",
    "an empty object": lambda _: b"{}",
    "a list": lambda _: b"[]",
    "null": lambda _: b"null",
    "a number": lambda _: b"1",
    "nested without end": lambda _: b"[" * 100_000,
    "no fields": lambda _: b'{"format": 1}',
    "no such format": lambda data: data.replace(b'"format": 1', b'"format": "x"'),
    "a field of another type": lambda data: data.replace(b'"version": ', b'"version": "x", "was": '),
}
DOCUMENTS = ["indexes/log/000000000002.json", "looks/log/000000000001.json", "indexes/versions/000002/manifest.json"]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("path", DOCUMENTS)
def test_a_damaged_document_is_named_and_one_line_says_what_to_do(root: Path, path: str, damage: str) -> None:
    (root / path).write_bytes(DAMAGES[damage]((root / path).read_bytes()))
    with pytest.raises(LakeError) as caught:
        read_status(open_lake(str(root)))
    assert path in str(caught.value)
    assert "vitrine doctor" in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_document_cut_at_any_byte_is_damaged_and_never_a_traceback(root: Path) -> None:
    path = root / DOCUMENTS[0]
    whole, lake = path.read_bytes(), open_lake(str(root))
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(DamagedDocument):
            lake.indexes.newest()
    path.write_bytes(whole)
    assert lake.indexes.newest() is not None


def test_a_document_of_a_later_format_asks_for_an_update(root: Path) -> None:
    path = root / DOCUMENTS[0]
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(LakeError, match="has format 2, this Vitrine reads 1: update Vitrine"):
        open_lake(str(root)).indexes.newest()


def test_an_entry_copied_under_another_number_is_none(root: Path) -> None:
    log = root / "indexes" / "log"
    shutil.copy(log / "000000000001.json", log / "000000000003.json")
    with pytest.raises(DamagedDocument, match="it is entry 1"):
        open_lake(str(root)).indexes.newest()


@pytest.mark.parametrize("data", [b"", None])
def test_a_damaged_manifest_of_an_old_version_stops_neither_readers_nor_the_collection(
    root: Path, data: bytes | None
) -> None:
    path = root / "indexes" / "versions" / "000001" / "manifest.json"
    path.unlink() if data is None else path.write_bytes(data)
    lake = open_lake(str(root))
    rows = describe_versions(lake.indexes, 2)
    assert [(row["version"], row["status"]) for row in rows] == [(1, "damaged"), (2, "accepted")]
    answers(lake)
    files = lake.store.names("indexes/versions/000001")
    collect(lake, CollectionPolicy(keep_versions=5, longest_run_hours=0))
    assert lake.store.names("indexes/versions/000001") == files  # what it named is not known
    assert len(connect_rows(lake)) == 60


def connect_rows(lake: Lake) -> list[tuple[object, ...]]:
    with connect(lake) as sql:
        return sql.execute("FROM images").fetchall()


def test_a_damaged_manifest_of_the_serving_version_is_mended_by_a_rollback(root: Path) -> None:
    (root / "indexes" / "versions" / "000002" / "manifest.json").write_bytes(b"")
    lake = open_lake(str(root))
    with pytest.raises(DamagedDocument):
        lake.serving()
    assert roll_back(lake, "indexes", 1).serving.index_version == 1
    write_catalogue(lake)


def test_a_version_whose_manifest_is_gone_is_not_said_to_be_unknown(root: Path) -> None:
    (root / "indexes" / "versions" / "000002" / "manifest.json").unlink()
    with pytest.raises(DamagedDocument, match=r"manifest.json does not exist: roll indexes back to another version"):
        open_lake(str(root)).indexes.manifest(2)
    with pytest.raises(UnknownVersion, match="no version 9"):
        open_lake(str(root)).indexes.manifest(9)


@pytest.mark.parametrize("damage", ["empty", "cut to a half", "no bytes but NUL", "no JSON", "an empty object"])
def test_a_damaged_marker_is_no_lake_of_a_later_layout(root: Path, damage: str) -> None:
    path = root / "vitrine.json"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(LakeError, match=r"damaged|update Vitrine"):
        open_lake(str(root))


@pytest.mark.parametrize("damage", ["empty", "cut to a half", "no bytes but NUL", "an empty object", "a list"])
def test_a_damaged_lease_is_that_of_a_dead_run(root: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lake.lease.BEATS", 1000)  # the watch for a sign of life is short
    lake = open_lake(str(root))
    (path := root / "lease" / "000000000099.json").write_bytes(b'{"run_id": "x", "what": "y"}')
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert held_by(lake.store) is not None
    assert read_status(lake)["writing"] == "nobody"
    presence = Presence(lake.store, "next", "a test", lease_seconds=0.3)
    presence.start()
    try:
        assert acquire(lake, presence).epoch == 100
    finally:
        presence.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"open_runs": 1}',
        b'{"run_id": "../../vitrine", "what": "w", "since": "s", "open_runs": []}',
        b'{"run_id": "other", "what": "w", "since": "s", "open_runs": []}',
        b'{"run_id": "dead", "what": "w", "since": "s", "open_runs": [], "lease_seconds": Infinity}',
    ],
)
def test_a_sign_of_life_that_is_none_is_passed_over(root: Path, data: bytes) -> None:
    lake = open_lake(str(root))
    lake.store.put("running/dead.json", data)
    os.utime(root / "running" / "dead.json", (1, 1))
    presence = Presence(lake.store, "mine", "a test")
    assert dead_runs(presence) == []
    assert (root / "vitrine.json").exists()


# Damaged tables


@pytest.mark.parametrize("table", ["images", "scores", "runs"])
@pytest.mark.parametrize("damage", ["empty", "cut to a half", "one byte short", "no bytes but NUL", "no JSON"])
def test_a_damaged_commit_is_named_and_never_read_as_one_of_nothing(root: Path, table: str, damage: str) -> None:
    lake = open_lake(str(root))
    if table == "runs":
        small_lake.rebuild(str(root))
    newest = max((root / table / "_delta_log").glob("*.json"))
    newest.write_bytes(DAMAGES[damage](newest.read_bytes()))
    with pytest.raises(DamagedDocument) as caught:
        getattr(lake, table).files()
    assert newest.name in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_commit_that_lost_any_of_its_lines_is_damaged(root: Path) -> None:
    lake = open_lake(str(root))
    newest = max((root / "images" / "_delta_log").glob("*.json"))
    lines = newest.read_bytes().splitlines(keepends=True)
    for kept in range(len(lines)):
        newest.write_bytes(b"".join(lines[:kept]))
        with pytest.raises(DamagedDocument):
            lake.images.files()
    newest.write_bytes(b"".join(lines))
    assert lake.images.files()


# Paths that are made of data

NAMES = [
    "../../../../x",
    "..",
    ".",
    "",
    "/etc/x",
    "a/../../x",
    "a//b",
    "a/",
    "/",
    "..\\..\\x",
    "C:\\x",
    "C:x",
    "a\0b",
    "a\nb",
    "%2e%2e%2fx",
    "a/..",
    "~/../x",
    "x" * 300,
    ".ssh/authorized_keys",
    "a\u202eb",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_that_names_a_file_elsewhere_is_damaged_and_writes_nothing(
    root: Path, tmp_path: Path, name: str
) -> None:
    path = root / "looks" / "versions" / "000001" / "manifest.json"
    body = json.loads(path.read_bytes())
    body["files"][0]["name"] = name
    path.write_bytes(json.dumps(body).encode())
    remote = open_store("memory://")  # whose files are copied into a cache, as those of S3 are
    for each in open_lake(str(root)).store.names("looks"):
        remote.put(each, (root / each).read_bytes())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DamagedDocument) as caught:
        Versions(remote, "looks").fetch(1, tmp_path / "cache" / "of" / "this" / "machine")
    assert str(caught.value).isprintable()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("holder", ["../../x", -1, 0, 1.5, True, "1"])
def test_a_manifest_that_names_no_version_is_damaged(root: Path, holder: object) -> None:
    path = root / "looks" / "versions" / "000001" / "manifest.json"
    body = json.loads(path.read_bytes())
    body["files"][0]["stored_in"] = holder
    path.write_bytes(json.dumps(body).encode())
    with pytest.raises(DamagedDocument):
        open_lake(str(root)).looks.manifest(1)


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/x", "", "a//b", "a\0b", "./x"])
def test_no_path_leads_out_of_a_store(root: Path, path: str) -> None:
    store = open_lake(str(root)).store
    for call in (
        lambda: store.get(path),
        lambda: store.put(path, b""),
        lambda: store.put_new(path, b""),
        lambda: store.exists(path),
        lambda: store.delete([path]),
    ):
        with pytest.raises(LakeError, match="is no path below"):
            call()


@pytest.mark.parametrize("path", ["../../outside.parquet", "/etc/passwd", "file:///etc/passwd", "a/../../x.parquet"])
def test_a_table_that_names_a_part_elsewhere_is_damaged(root: Path, path: str) -> None:
    newest = max((root / "images" / "_delta_log").glob("*.json"))
    lines = [json.loads(line) for line in newest.read_bytes().splitlines()]
    for line in lines:
        if "add" in line:
            line["add"]["path"] = path
    newest.write_bytes(b"\n".join(json.dumps(line).encode() for line in lines))
    with pytest.raises(LakeError, match=r"which is not in it|can't be read"):
        open_lake(str(root)).images.files()


# Folders that look like columns


@pytest.mark.parametrize(
    "name",
    [
        "polarity=9",
        "look_version=7",
        "model_version=7",
        "image_key=x",
        "embedding=1",
        "a b",
        "it's",
        'q"q',
        "#1",
        "ünï",
    ],
)
def test_a_lake_says_the_same_whatever_it_lies_in(pattern: Path, root: Path, tmp_path: Path, name: str) -> None:
    expected = answers(open_lake(str(pattern)))
    shutil.copytree(root, tmp_path / name / "lake")
    lake = open_lake(str(tmp_path / name / "lake"))
    assert answers(lake)[0] == expected[0]
    with connect(lake) as sql:
        query = (
            "SELECT DISTINCT model_version, typeof(model_version), look_version FROM score_history, embedding_history"
        )
        assert sql.execute(query).fetchall() == [(1, "INTEGER", 1)]
    write_catalogue(lake)
    with duckdb.connect(str(tmp_path / name / "lake" / "catalogue.duckdb"), read_only=True) as client:
        assert client.execute("SELECT DISTINCT polarity FROM scores").fetchall() == [(0.25,)]


# On the disk before it is visible


def test_bytes_then_name_then_folder_are_synced_and_scratch_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = open_lake(str(tmp_path / "lake"), create=True)
    done: list[str] = []
    fsync, link = os.fsync, os.link

    def synced(descriptor: int) -> None:
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink().name.split("#")[0])
        fsync(descriptor)

    def linked(source: Path, target: Path) -> None:
        done.append(f"{target.name} is visible")
        link(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    lake.store.put_new("models/log/000000000001.json", b"{}")
    name = "000000000001.json"
    assert done == ["lake", "models", name, f"{name} is visible", "log"]  # new folders first
    done.clear()
    lake.store.put("work/run/shard.parquet", b"", durable=False)
    assert done == []
