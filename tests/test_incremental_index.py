"""A night's index costs what changed: shards and codebook serve again, what left is deleted, search stays right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from index.arrays import Floats
from index.searching import Neighbours, Searcher
from index.truth import TRUTH, Truth
from lake.errors import LostRace
from lake.rollback import roll_back
from tasks.rebuild.config import RebuildConfig
from tasks.rebuild.plan import plan_index, preview_index
from tasks.rebuild.units import PublishedIndex
from tasks.search.reader import Reader
from tests import small_lake
from tests.vector_lake import VectorLake
from tests.vectors import as_found, clustered

DIMENSION, ROWS = 32, 1_500
CODED = RebuildConfig(flat_below=400, shard_vectors=500, recall_queries=200, recall_target=0.95)
FLAT = replace(CODED, flat_below=10**6)
Catalogue = dict[str, Floats]


@pytest.fixture(scope="module")
def vectors() -> Floats:
    """In an order that looks the same everywhere: the first are not another kind than the last."""
    return clustered(2 * ROWS, DIMENSION, seed=11)


@pytest.fixture
def catalogue(vectors: Floats) -> Catalogue:
    return {f"{row:05d}.jpg": vectors[row] for row in range(ROWS)}


@pytest.fixture(params=[CODED, FLAT], ids=["coded", "flat"])
def config(request: pytest.FixtureRequest) -> RebuildConfig:
    chosen: RebuildConfig = request.param
    return chosen


@pytest.fixture
def lake(tmp_path: Path, catalogue: Catalogue) -> VectorLake:
    made = VectorLake(str(tmp_path / "lake"), DIMENSION)
    made.change(catalogue)
    return made


def rebuild(lake: VectorLake, config: RebuildConfig) -> PublishedIndex:
    index = small_lake.rebuild(lake.uri, config=config)
    assert index is not None
    return index


def opened(lake: VectorLake) -> Searcher:
    current = lake.lake.indexes.current()
    assert current is not None
    return Searcher.open(lake.lake.indexes.fetch(current, Path("nowhere")))


def check(lake: VectorLake, catalogue: Catalogue) -> None:
    """The published index holds the catalogue, no more, and finds what comparing with all of it finds."""
    searcher = opened(lake)
    keys = searcher.table["image_key"].to_pylist()
    assert sorted(keys) == sorted(catalogue)
    stored = as_found(np.stack([catalogue[key] for key in keys]))
    np.testing.assert_allclose(searcher.vectors(range(len(keys))), stored, rtol=1e-6)
    queries = stored[:: max(1, len(keys) // 100)]
    truth = np.sort(queries @ stored.T, axis=1)[:, ::-1][:, :10].clip(-1, 1)
    np.testing.assert_allclose(searcher.exact(queries, 10).similarity, truth, atol=1e-5)
    neighbours = searcher.search(queries, 10)
    assert (neighbours.similarity >= truth[:, 9:] - 1e-5).mean() > 0.93
    check_truth(lake, stored)


def check_truth(lake: VectorLake, stored: Floats) -> None:
    """What the gate took for the truth is what comparing with every row finds."""
    current = lake.lake.indexes.current()
    assert current is not None
    truth = Truth.read(lake.lake.indexes.read(current, TRUTH), len(stored))
    cosine = stored[truth.queries] @ stored.T
    cosine[np.arange(len(truth.queries)), truth.queries] = -2
    nearest = -np.sort(-cosine, axis=1)[:, :10].clip(-1, 1)
    np.testing.assert_allclose(truth.nearest(10).similarity, nearest, atol=1e-5)


def changed(lake: VectorLake, catalogue: Catalogue, changes: dict[str, Floats | None]) -> None:
    lake.change(changes)
    for key, vector in changes.items():
        if vector is None:
            del catalogue[key]
        else:
            catalogue[key] = vector


def test_a_changed_hundredth_writes_about_a_hundredth(
    lake: VectorLake, catalogue: Catalogue, vectors: Floats, config: RebuildConfig
) -> None:
    first = rebuild(lake, config)
    assert (first.shards_kept, first.shards_written) == (0, 3)
    check(lake, catalogue)

    changed(lake, catalogue, {f"{row:05d}.jpg": vectors[ROWS + row] for row in range(0, 15)})
    second = rebuild(lake, config)

    assert (second.shards_kept, second.shards_written, second.rebuild_reason) == (3, 1, "")
    data = [file for file in lake.lake.indexes.manifest(2).files if file.held_by(2) == 2]
    assert sum(file.size_bytes for file in data if ".vectors." in file.name) == 128 + 15 * 2 * DIMENSION
    assert {file.name for file in data if file.name.startswith("codebook")} == set()
    check(lake, catalogue)


def test_queries_are_compared_with_what_came_and_not_with_the_catalogue(
    lake: VectorLake, catalogue: Catalogue, vectors: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuild(lake, CODED)
    compared = []
    exact = Searcher.exact

    def counted(
        searcher: Searcher, queries: Floats, k: int, *, keep: npt.NDArray[np.bool_] | None = None
    ) -> Neighbours:
        compared.append((len(queries), len(searcher) if keep is None else int(keep.sum())))
        return exact(searcher, queries, k, keep=keep)

    monkeypatch.setattr(Searcher, "exact", counted)
    changed(lake, catalogue, {f"{ROWS + row:05d}.jpg": vectors[ROWS + row] for row in range(15)})
    rebuild(lake, CODED)
    [(known, came), (anew, everything)] = compared
    assert (came, everything) == (15, ROWS + 15)
    assert known >= 190
    assert anew <= 10
    monkeypatch.undo()
    check(lake, catalogue)


@pytest.mark.parametrize("damage", ["altered", "cut short", "gone"])
def test_without_the_last_version_s_truth_it_queries_are_compared_with_everything_and_nothing_is_rebuilt(
    lake: VectorLake, catalogue: Catalogue, vectors: Floats, tmp_path: Path, damage: str
) -> None:
    rebuild(lake, CODED)
    file = tmp_path / "lake/indexes/versions/000001" / TRUTH
    if damage == "gone":
        file.unlink()
    else:
        whole = file.read_bytes()
        file.write_bytes(b"damaged" if damage == "cut short" else whole[:-1] + bytes([whole[-1] ^ 1]))
    assert Reader(lake.lake, tmp_path / "cache").index.version == 1
    changed(lake, catalogue, {f"{ROWS:05d}.jpg": vectors[ROWS]})
    assert rebuild(lake, CODED).shards_kept == 3
    check(lake, catalogue)


def test_pictures_that_left_are_deleted_rows_and_find_their_rows_again_when_they_return(
    lake: VectorLake, catalogue: Catalogue, config: RebuildConfig
) -> None:
    rebuild(lake, config)
    gone = {key: catalogue[key] for key in list(catalogue)[::10]}
    changed(lake, catalogue, dict.fromkeys(gone))
    second = rebuild(lake, config)
    assert (second.shards_kept, second.shards_written) == (3, 0)
    check(lake, catalogue)

    half = dict(list(gone.items())[:75])
    changed(lake, catalogue, dict(half))
    third = rebuild(lake, config)
    assert (third.shards_kept, third.shards_written) == (3, 0)
    assert lake.lake.indexes.manifest(3).properties["deleted"] == 75
    check(lake, catalogue)


def test_a_shard_with_too_many_deleted_rows_is_written_without_them(
    lake: VectorLake, catalogue: Catalogue, config: RebuildConfig
) -> None:
    rebuild(lake, config)
    shard = opened(lake).table["image_key"].to_pylist()[:500]  # the first shard's
    changed(lake, catalogue, dict.fromkeys(shard[:101]))
    index = rebuild(lake, config)
    assert (index.shards_kept, index.shards_written) == (2, 1)
    assert lake.lake.indexes.manifest(2).properties["deleted"] == 0
    check(lake, catalogue)


def test_small_shards_of_many_nights_become_one(lake: VectorLake, catalogue: Catalogue, vectors: Floats) -> None:
    config = replace(CODED, recall_queries=20)
    rebuild(lake, config)
    kept = []
    for night in range(9):  # eight shards of one picture, and then one of nine
        changed(lake, catalogue, {f"{ROWS + night:05d}.jpg": vectors[ROWS + night]})
        kept.append(rebuild(lake, config).shards_kept)
    assert kept == [3, 4, 5, 6, 7, 8, 9, 10, 3]
    check(lake, catalogue)


def test_copies_of_one_content_all_have_their_rows(
    lake: VectorLake, catalogue: Catalogue, config: RebuildConfig
) -> None:
    rebuild(lake, config)
    changed(lake, catalogue, {"copy-1.jpg": catalogue["00007.jpg"], "copy-2.jpg": catalogue["00007.jpg"]})
    assert rebuild(lake, config).shards_written == 1
    check(lake, catalogue)


def test_another_product_is_another_row(lake: VectorLake, catalogue: Catalogue) -> None:
    rebuild(lake, FLAT)
    lake.change({"00007.jpg": catalogue["00007.jpg"]}, product_id="teapot")
    index = rebuild(lake, FLAT)
    assert (index.shards_kept, index.shards_written) == (3, 1)
    searcher = opened(lake)
    assert searcher.keys([searcher.find("00007.jpg")])["product_id"].to_pylist() == ["teapot"]


def test_one_codebook_serves_night_after_night(lake: VectorLake, catalogue: Catalogue, vectors: Floats) -> None:
    rebuild(lake, CODED)
    for night in range(3):
        changed(lake, catalogue, {f"n{night}-{row}.jpg": vectors[ROWS + 50 * night + row] for row in range(50)})
        rebuild(lake, CODED)
    codebook = lake.lake.indexes.manifest(4).properties["codebook"]
    assert (codebook["version"], codebook["added_rows"]) == (1, 150)
    assert codebook["reason"] == "no index of model 1 was published yet"
    assert 0.5 < codebook["added_distance"] / codebook["coarse_distance"] < 1.2
    [trained] = [file for file in lake.lake.indexes.manifest(4).files if file.name == "codebook.faiss"]
    assert trained.held_by(4) == 1


def test_what_is_new_is_judged_by_itself_and_each_category_too(
    tmp_path: Path, catalogue: Catalogue, vectors: Floats
) -> None:
    lake = VectorLake(str(tmp_path / "lake"), DIMENSION)
    names = {"image_key": list(catalogue)[:300], "category": ["teapot"] * 150 + ["vase"] * 120 + [None] * 30}
    lake.promote_model(held_out=pa.table(names))
    lake.change(catalogue)
    rebuild(lake, CODED)
    changed(lake, catalogue, {f"new-{row}.jpg": vectors[ROWS + row] for row in range(120)})
    rebuild(lake, CODED)
    measured = [lake.lake.indexes.manifest(version).properties["slices"] for version in (1, 2)]
    categories = {"category teapot", "category vase"}
    assert [slices.keys() for slices in measured] == [categories, categories | {"newly encoded"}]
    assert measured[1]["newly encoded"]["queries"] >= 120
    assert all(each["recall_at_10_low"] >= CODED.recall_target for slices in measured for each in slices.values())


def test_the_codebook_is_trained_again_when_another_kind_of_pictures_comes_in(
    lake: VectorLake, catalogue: Catalogue
) -> None:
    rebuild(lake, CODED)
    others = clustered(200, DIMENSION, seed=99)
    changed(lake, catalogue, {f"other-{row}.jpg": others[row] for row in range(200)})
    index = rebuild(lake, CODED)
    assert "the 200 vectors added since lie" in index.rebuild_reason
    assert (index.shards_kept, index.shards_written) == (0, 4)
    codebook = lake.lake.indexes.manifest(2).properties["codebook"]
    assert (codebook["version"], codebook["added_rows"], codebook["reason"]) == (2, 0, index.rebuild_reason)
    check(lake, catalogue)
    changed(lake, catalogue, {"00000.jpg": others[0]})
    assert rebuild(lake, CODED).rebuild_reason == ""


def test_a_catalogue_that_outgrows_its_parts_is_rebuilt(
    lake: VectorLake, catalogue: Catalogue, vectors: Floats
) -> None:
    small = replace(CODED, flat_below=ROWS + 1)
    assert rebuild(lake, small).rebuild_reason == "no index of model 1 was published yet"
    changed(lake, catalogue, {f"more-{row}.jpg": vectors[ROWS + row] for row in range(10)})
    index = rebuild(lake, small)
    assert index.rebuild_reason == "1510 vectors want other parts than index 1 has: IVF32,PQ16x4fs"
    check(lake, catalogue)


def test_another_model_starts_an_index_of_its_own(lake: VectorLake, catalogue: Catalogue) -> None:
    rebuild(lake, CODED)
    lake.promote_model()
    lake.change(catalogue)
    assert rebuild(lake, CODED).rebuild_reason == "no index of model 2 was published yet"
    check(lake, catalogue)


def test_a_full_rebuild_uses_nothing_of_an_earlier_version(lake: VectorLake, catalogue: Catalogue) -> None:
    rebuild(lake, CODED)
    plan = plan_index(lake.lake, 1, "run", CODED, "asked for")
    assert (plan.base, plan.kept, plan.trains, plan.same_as) == (None, (), True, None)
    index = small_lake.build_version(lake.uri, plan, CODED)
    assert index.rebuild_reason == "asked for"
    assert not any(file.stored_in for file in lake.lake.indexes.manifest(2).files)
    check(lake, catalogue)


def test_a_preview_says_what_the_plan_will_and_writes_nothing(
    lake: VectorLake, catalogue: Catalogue, vectors: Floats, config: RebuildConfig
) -> None:
    rebuild(lake, config)
    changed(lake, catalogue, {f"{row:05d}.jpg": vectors[ROWS + row] for row in range(510)})
    before = lake.lake.store.names("")
    preview = preview_index(lake.lake, 1, config)
    assert lake.lake.store.names("") == before
    plan = plan_index(lake.lake, 1, "run", config)
    assert [shard.rows for shard in preview.to_write] == [shard.rows for shard in plan.to_write]
    assert replace(preview, to_write=(), deleted=None) == replace(plan, to_write=(), deleted=None)


def test_a_lost_file_of_a_shard_is_written_again(lake: VectorLake, catalogue: Catalogue, vectors: Floats) -> None:
    rebuild(lake, FLAT)
    lake.lake.store.delete([lake.lake.indexes.path(1, "shard-00001.keys.parquet")])
    changed(lake, catalogue, {"00000.jpg": vectors[ROWS]})
    assert rebuild(lake, FLAT).rebuild_reason == "index 1 has lost shard-00001.keys.parquet"
    check(lake, catalogue)


def test_a_damaged_shard_is_found_by_the_gate_and_written_again(
    lake: VectorLake, catalogue: Catalogue, vectors: Floats
) -> None:
    rebuild(lake, FLAT)
    path = lake.lake.indexes.path(1, "shard-00001.vectors.npy")
    data = bytearray(lake.lake.store.get(path))
    data[-1] ^= 1
    lake.lake.store.put(path, bytes(data))
    changed(lake, catalogue, {"00000.jpg": vectors[ROWS]})
    index = rebuild(lake, FLAT)
    assert "shard-00001.vectors.npy is damaged" in index.rebuild_reason
    check(lake, catalogue)


def test_a_version_whose_base_was_collected_meanwhile_is_not_published(
    lake: VectorLake, catalogue: Catalogue, vectors: Floats
) -> None:
    rebuild(lake, FLAT)
    changed(lake, catalogue, {"00000.jpg": vectors[ROWS]})
    plan = plan_index(lake.lake, 1, "run", FLAT)
    lake.lake.indexes.append("collect", 1, based_on=lake.lake.indexes.newest())
    with pytest.raises(LostRace, match="version 1 was collected while version 2 was made"):
        small_lake.build_version(lake.uri, plan, FLAT)


def test_after_a_rollback_the_night_starts_from_what_readers_use(
    lake: VectorLake, catalogue: Catalogue, vectors: Floats
) -> None:
    rebuild(lake, CODED)
    changed(lake, catalogue, {"00000.jpg": vectors[ROWS]})
    rebuild(lake, CODED)
    roll_back(lake.lake, "indexes", 1)
    changed(lake, catalogue, {"00001.jpg": vectors[ROWS + 1]})
    rebuild(lake, CODED)
    assert lake.lake.indexes.manifest(3).properties["base"] == 1
    check(lake, catalogue)
    check_version_1 = Searcher.open(lake.lake.indexes.fetch(1, Path("nowhere")))
    assert len(check_version_1) == ROWS


@pytest.mark.s3
def test_on_s3_a_night_writes_and_fetches_what_changed(
    s3_root: str, catalogue: Catalogue, vectors: Floats, tmp_path: Path
) -> None:
    lake, config = VectorLake(s3_root, DIMENSION), replace(CODED, cache=tmp_path)
    lake.change(catalogue)
    rebuild(lake, config)
    cached = set(tmp_path.rglob("*.*"))
    changed(lake, catalogue, {"00000.jpg": vectors[ROWS], "00001.jpg": None})
    index = rebuild(lake, config)
    assert (index.shards_kept, index.shards_written) == (3, 1)
    fetched = {path.relative_to(tmp_path).as_posix().split("/", 2)[-1] for path in set(tmp_path.rglob("*.*")) - cached}
    assert {path.split("/")[0] for path in fetched} == {"000002"}
    searcher = Searcher.open(lake.lake.indexes.fetch(2, tmp_path))
    assert sorted(searcher.table["image_key"].to_pylist()) == sorted(catalogue)
    lake.lake.store.delete([lake.lake.indexes.path(1, "shard-00001.keys.parquet")])
    changed(lake, catalogue, {"00002.jpg": vectors[ROWS + 1]})
    assert rebuild(lake, config).rebuild_reason == "index 2 has lost ../000001/shard-00001.keys.parquet"
