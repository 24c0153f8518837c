"""A reader against versions that come, go and break under it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from shutil import rmtree
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from index.arrays import Floats
from index.errors import BadVectors, UnknownKey
from index.spec import IndexSpec
from lake.errors import CorruptFile, LakeError
from lake.lake import Lake, open_lake
from lake.manifest import FileRecord
from tasks.errors import OtherModel
from tasks.search.reader import Filters, Reader
from tests.vectors import build, clustered, ivfpq

ROWS, DIMENSION, LOOK = 1_200, 32, 7


def keys(version: int) -> pa.Table:
    """Every product of a version bears the version's number."""
    return pa.table(
        {
            "image_key": [f"{row:05d}.jpg" for row in range(ROWS)],
            "product_id": [f"{version}:p{row // 3}" for row in range(ROWS)],
            "sha256": [f"{row:064x}" for row in range(ROWS)],
        }
    )


def version_of(found: dict[str, Any]) -> str:
    """The version that a picture of an answer is from."""
    return str(found["product_id"]).split(":")[0]


def vectors_of(version: int) -> Floats:
    return clustered(ROWS, DIMENSION, seed=version)


def publish(lake: Lake, folder: Path, spec: IndexSpec) -> int:
    """A version with vectors of its own."""
    draft = lake.indexes.draft()
    directory = folder / f"build-{draft.version}"
    build(directory, vectors_of(draft.version), spec, shards=[700, 500], keys=keys(draft.version))
    for path in sorted(directory.iterdir()):
        draft.add_file(path.name, path)
    draft.seal({"look_version": LOOK})
    lake.indexes.append("publish", draft.version, based_on=lake.indexes.newest())
    rmtree(directory)
    return draft.version


def collect(lake: Lake, version: int) -> None:
    lake.store.delete(lake.store.names(f"indexes/versions/{version:06d}"))


@pytest.fixture(params=["flat", "ivfpq"])
def spec(request: pytest.FixtureRequest) -> IndexSpec:
    return IndexSpec("flat", DIMENSION) if request.param == "flat" else ivfpq(DIMENSION, nlist=8)


@pytest.fixture
def lake(root: str) -> Lake:
    return open_lake(root, create=True)


def test_a_reader_answers_from_its_version_until_told_to_move_on(lake: Lake, spec: IndexSpec, tmp_path: Path) -> None:
    publish(lake, tmp_path, spec)
    reader = Reader(lake, tmp_path / "cache")
    before = reader.search_keys(["00000.jpg", "00077.jpg"], 5)
    assert not reader.refresh()

    publish(lake, tmp_path, spec)
    collect(lake, 1)
    assert reader.search_keys(["00000.jpg", "00077.jpg"], 5) == before
    assert {version_of(found) for answer in before for found in answer} == {"1"}

    assert reader.refresh()
    assert not reader.refresh()
    after = reader.search_keys(["00000.jpg", "00077.jpg"], 5)
    assert {version_of(found) for answer in after for found in answer} == {"2"}
    assert after != before
    assert after == Reader(lake, tmp_path / "other cache").search_keys(["00000.jpg", "00077.jpg"], 5)


def test_readers_search_while_versions_are_published_and_collected(tmp_path: Path) -> None:
    """Each answer is wholly of one version, and is the answer that this version gives."""
    spec, lake = ivfpq(DIMENSION, nlist=8), open_lake(str(tmp_path / "lake"), create=True)
    publish(lake, tmp_path, spec)
    reader = Reader(lake, tmp_path)
    expected = {1: reader.search_keys(["00003.jpg"], 4)}
    stop, seen = threading.Event(), []

    def search() -> None:
        while not stop.is_set():
            seen.append(reader.search_keys(["00003.jpg"], 4))

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            version = publish(lake, tmp_path, spec)
            collect(lake, version - 1)
            assert reader.refresh()
            expected[version] = reader.search_keys(["00003.jpg"], 4)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len(seen) > 20
    assert all(answer == expected[int(version_of(answer[0][0]))] for answer in seen)


def test_a_version_collected_while_it_is_opened_is_passed_over(lake: Lake, tmp_path: Path) -> None:
    publish(lake, tmp_path, ivfpq(DIMENSION, nlist=8))
    fetch = lake.indexes.fetch

    def too_late(version: int, cache: Path, records: Iterable[FileRecord] | None = None) -> Path:
        if version == 1:
            publish(lake, tmp_path, ivfpq(DIMENSION, nlist=8))
            collect(lake, 1)
        return fetch(version, cache, records)

    lake.indexes.fetch = too_late  # type: ignore[method-assign]
    assert Reader(lake, tmp_path / "cache").index.version == 2


@pytest.mark.parametrize("name", ["shard-00000.vectors.npy", "shard-00001.codes.zst", "codebook.faiss"])
def test_a_damaged_version_is_refused_and_the_old_one_answers_on(lake: Lake, name: str, tmp_path: Path) -> None:
    publish(lake, tmp_path, ivfpq(DIMENSION, nlist=8))
    reader = Reader(lake, tmp_path / "cache")
    before = reader.search_keys(["00000.jpg"], 5)
    publish(lake, tmp_path, ivfpq(DIMENSION, nlist=8))
    path = lake.indexes.path(2, name)
    whole = lake.store.get(path)
    for damaged in (whole[:-1], whole[:1000] + bytes([whole[1000] ^ 4]) + whole[1001:], b""):
        lake.store.put(path, damaged)
        with pytest.raises(CorruptFile, match=f"version 2: {name} is damaged"):
            reader.refresh()
        assert reader.search_keys(["00000.jpg"], 5) == before
    lake.store.put(path, whole)
    assert reader.refresh()


def test_a_vector_of_another_look_or_size_is_refused(lake: Lake, tmp_path: Path) -> None:
    publish(lake, tmp_path, ivfpq(DIMENSION, nlist=8))
    reader = Reader(lake, tmp_path / "cache")
    vectors = vectors_of(1)
    ((first, *_),) = reader.search(vectors[5:6], 3, look_version=LOOK)
    assert first["image_key"] == "00005.jpg"
    with pytest.raises(OtherModel, match="index 1 holds vectors of look 7, the query is of look 8"):
        reader.search(vectors[5:6], 3, look_version=8)
    with pytest.raises(BadVectors, match=r"expected queries of shape \(Q, 32\), found \(1, 31\)"):
        reader.search(vectors[5:6, :-1], 3, look_version=LOOK)
    with pytest.raises(UnknownKey):
        reader.search_keys(["nothing.jpg"], 3)


def test_what_older_versions_left_in_the_cache_is_removed(lake: Lake, spec: IndexSpec, tmp_path: Path) -> None:
    """And nothing in a local lake, where the versions themselves are read."""
    for _ in range(2):
        publish(lake, tmp_path, spec)
        (stray := tmp_path / "cache" / "another lake" / "indexes" / "000001").mkdir(parents=True, exist_ok=True)
        (stray / "index.json").touch()
        reader = Reader(lake, tmp_path / "cache")
    cached = {path.parent.name for path in (tmp_path / "cache").rglob("*.npy")}
    assert cached == (set() if lake.store.directory else {"000002"})
    assert (stray / "index.json").exists()
    assert lake.indexes.is_whole(1, lake.indexes.manifest(1).files)
    assert reader.search_keys(["00000.jpg"], 5) == Reader(lake, tmp_path / "cache").search_keys(["00000.jpg"], 5)


def test_a_reader_needs_a_published_index(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="the lake has no index yet"):
        Reader(lake, tmp_path)


def test_filters_hold_for_a_batch(lake: Lake, spec: IndexSpec, tmp_path: Path) -> None:
    publish(lake, tmp_path, spec)
    reader = Reader(lake, tmp_path / "cache")
    asked = ["00000.jpg", "00601.jpg"]
    filters = Filters(other_products=True, one_per_product=True)
    answers = reader.search_keys(asked, 10, filters=filters)
    for key, answer in zip(asked, answers, strict=True):
        products = [found["product_id"] for found in answer]
        assert len(answer) == len(set(products)) == 10
        assert f"1:p{int(key[:5]) // 3}" not in products
    only = tuple(pc.take(keys(1)["image_key"], [4, 5, 900]).to_pylist())
    (found,) = reader.search(vectors_of(1)[:1], 10, look_version=LOOK, filters=Filters(keys=only))
    assert {each["image_key"] for each in found} == set(only)
