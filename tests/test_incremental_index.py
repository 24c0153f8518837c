"""A night's index costs what changed: shards and codebook serve again, what left is deleted, search stays right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from index.arrays import Floats
from index.searching import Neighbours, Searcher
from index.truth import TRUTH
from tasks.rebuild.config import RebuildConfig
from tasks.rebuild.plan import plan_index, preview_index
from tasks.search.reader import Reader
from tests import published_index
from tests.published_index import CODED, DIMENSION, FLAT, ROWS, check, first_night, opened, rebuild
from tests.vector_lake import VectorLake

# pytest finds a file's fixtures by the names in it.
vectors, lake = published_index.vectors, published_index.lake


@pytest.fixture(params=[CODED, FLAT], ids=["coded", "flat"])
def config(request: pytest.FixtureRequest) -> RebuildConfig:
    chosen: RebuildConfig = request.param
    return chosen


def test_a_changed_hundredth_writes_about_a_hundredth(lake: VectorLake, vectors: Floats, config: RebuildConfig) -> None:
    first = rebuild(lake, config)
    assert (first.shards_kept, first.shards_written) == (0, 3)
    check(lake)

    lake.change({f"{row:05d}.jpg": vectors[ROWS + row] for row in range(15)})
    second = rebuild(lake, config)

    assert (second.shards_kept, second.shards_written, second.rebuild_reason) == (3, 1, "")
    data = [file for file in lake.lake.indexes.manifest(2).files if file.held_by(2) == 2]
    assert sum(file.size_bytes for file in data if ".vectors." in file.name) == 128 + 15 * 2 * DIMENSION
    assert {file.name for file in data if file.name.startswith("codebook")} == set()
    check(lake)


def test_queries_are_compared_with_what_came_and_not_with_the_catalogue(
    lake: VectorLake, vectors: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuild(lake, CODED)
    compared = []
    exact = Searcher.exact

    def counted(searcher: Searcher, queries: Floats, k: int, *, keep: NDArray[np.bool_] | None = None) -> Neighbours:
        compared.append((len(queries), len(searcher) if keep is None else int(keep.sum())))
        return exact(searcher, queries, k, keep=keep)

    monkeypatch.setattr(Searcher, "exact", counted)
    lake.change({f"{ROWS + row:05d}.jpg": vectors[ROWS + row] for row in range(15)})
    rebuild(lake, CODED)
    [(known, came), (anew, everything)] = compared
    assert (came, everything) == (15, ROWS + 15)
    assert known >= 190
    assert anew <= 10
    monkeypatch.undo()
    check(lake)


@pytest.mark.parametrize("damage", ["altered", "cut short", "gone"])
def test_without_the_last_version_s_truth_queries_are_compared_with_everything_and_nothing_is_rebuilt(
    lake: VectorLake, vectors: Floats, tmp_path: Path, damage: str
) -> None:
    rebuild(lake, CODED)
    file = tmp_path / "lake/indexes/versions/000001" / TRUTH
    if damage == "gone":
        file.unlink()
    else:
        whole = file.read_bytes()
        file.write_bytes(b"damaged" if damage == "cut short" else whole[:-1] + bytes([whole[-1] ^ 1]))
    assert Reader(lake.lake, tmp_path / "cache").index.version == 1
    lake.change({f"{ROWS:05d}.jpg": vectors[ROWS]})
    assert rebuild(lake, CODED).shards_kept == 3
    check(lake)


def test_pictures_that_left_are_deleted_rows_and_find_their_rows_again_when_they_return(
    lake: VectorLake, config: RebuildConfig
) -> None:
    rebuild(lake, config)
    gone = {key: lake.pictures[key] for key in list(lake.pictures)[::10]}
    lake.change(dict.fromkeys(gone))
    second = rebuild(lake, config)
    assert (second.shards_kept, second.shards_written) == (3, 0)
    check(lake)

    half = dict(list(gone.items())[:75])
    lake.change(dict(half))
    third = rebuild(lake, config)
    assert (third.shards_kept, third.shards_written) == (3, 0)
    assert lake.lake.indexes.manifest(3).properties["deleted"] == 75
    check(lake)


def test_a_shard_with_too_many_deleted_rows_is_written_without_them(lake: VectorLake, config: RebuildConfig) -> None:
    rebuild(lake, config)
    shard = opened(lake).table["image_key"].to_pylist()[:500]  # the first shard's
    lake.change(dict.fromkeys(shard[:101]))
    index = rebuild(lake, config)
    assert (index.shards_kept, index.shards_written) == (2, 1)
    assert lake.lake.indexes.manifest(2).properties["deleted"] == 0
    check(lake)


def test_small_shards_of_many_nights_become_one(lake: VectorLake, vectors: Floats) -> None:
    config = replace(CODED, recall_queries=20)
    rebuild(lake, config)
    kept = []
    for night in range(9):  # eight shards of one picture, and then one of nine
        lake.change({f"{ROWS + night:05d}.jpg": vectors[ROWS + night]})
        kept.append(rebuild(lake, config).shards_kept)
    assert kept == [3, 4, 5, 6, 7, 8, 9, 10, 3]
    check(lake)


def test_copies_of_one_content_all_have_their_rows(lake: VectorLake, config: RebuildConfig) -> None:
    rebuild(lake, config)
    lake.change({"copy-1.jpg": lake.pictures["00007.jpg"], "copy-2.jpg": lake.pictures["00007.jpg"]})
    assert rebuild(lake, config).shards_written == 1
    check(lake)


def test_another_product_is_another_row(lake: VectorLake) -> None:
    rebuild(lake, FLAT)
    lake.change({"00007.jpg": lake.pictures["00007.jpg"]}, product_id="teapot")
    index = rebuild(lake, FLAT)
    assert (index.shards_kept, index.shards_written) == (3, 1)
    searcher = opened(lake)
    assert searcher.keys([searcher.find("00007.jpg")])["product_id"].to_pylist() == ["teapot"]


def test_one_codebook_serves_night_after_night(lake: VectorLake, vectors: Floats) -> None:
    rebuild(lake, CODED)
    for night in range(3):
        lake.change({f"n{night}-{row}.jpg": vectors[ROWS + 50 * night + row] for row in range(50)})
        rebuild(lake, CODED)
    codebook = lake.lake.indexes.manifest(4).properties["codebook"]
    assert (codebook["version"], codebook["added_rows"]) == (1, 150)
    assert codebook["reason"] == "no index of look 1 was published yet"
    assert 0.5 < codebook["added_distance"] / codebook["coarse_distance"] < 1.2
    [trained] = [file for file in lake.lake.indexes.manifest(4).files if file.name == "codebook.faiss"]
    assert trained.held_by(4) == 1


def test_what_is_new_is_judged_by_itself_and_each_category_too(tmp_path: Path, vectors: Floats) -> None:
    lake = VectorLake(str(tmp_path / "lake"), DIMENSION)
    names = {"image_key": list(first_night(vectors))[:300], "category": ["teapot"] * 150 + ["vase"] * 120 + [None] * 30}
    lake.promote_model(held_out=pa.table(names))
    lake.change(first_night(vectors))
    rebuild(lake, CODED)
    lake.change({f"new-{row}.jpg": vectors[ROWS + row] for row in range(120)})
    rebuild(lake, CODED)
    measured = [lake.lake.indexes.manifest(version).properties["slices"] for version in (1, 2)]
    categories = {"category teapot", "category vase"}
    assert [slices.keys() for slices in measured] == [categories, categories | {"newly encoded"}]
    assert measured[1]["newly encoded"]["queries"] >= 120
    assert all(each["recall_at_10_low"] >= CODED.recall_target for slices in measured for each in slices.values())


def test_a_preview_says_what_the_plan_will_and_writes_nothing(
    lake: VectorLake, vectors: Floats, config: RebuildConfig
) -> None:
    rebuild(lake, config)
    lake.change({f"{row:05d}.jpg": vectors[ROWS + row] for row in range(510)})
    before = lake.lake.store.names("")
    preview = preview_index(lake.lake, 1, config)
    assert lake.lake.store.names("") == before
    plan = plan_index(lake.lake, 1, "run", config)
    assert [shard.rows for shard in preview.to_write] == [shard.rows for shard in plan.to_write]
    assert replace(preview, to_write=(), deleted=None) == replace(plan, to_write=(), deleted=None)


@pytest.mark.s3
def test_on_s3_a_night_writes_and_fetches_what_changed(s3_root: str, vectors: Floats, tmp_path: Path) -> None:
    lake, config = VectorLake(s3_root, DIMENSION), replace(CODED, cache=tmp_path)
    lake.change(first_night(vectors))
    rebuild(lake, config)
    cached = set(tmp_path.rglob("*.*"))
    lake.change({"00000.jpg": vectors[ROWS], "00001.jpg": None})
    index = rebuild(lake, config)
    assert (index.shards_kept, index.shards_written) == (3, 1)
    fetched = {path.relative_to(tmp_path).as_posix().split("/", 2)[-1] for path in set(tmp_path.rglob("*.*")) - cached}
    assert {path.split("/")[0] for path in fetched} == {"000002"}
    searcher = Searcher.open(lake.lake.indexes.fetch(2, tmp_path))
    assert sorted(searcher.table["image_key"].to_pylist()) == sorted(lake.pictures)
    lake.lake.store.delete([lake.lake.indexes.path(1, "shard-00001.keys.parquet")])
    lake.change({"00002.jpg": vectors[ROWS + 1]})
    assert rebuild(lake, config).rebuild_reason == "index 2 has lost ../000001/shard-00001.keys.parquet"
