"""When nothing of the last version serves again, and which version a night starts from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from index.arrays import Floats
from index.errors import BelowTarget
from index.searching import Searcher
from lake.errors import LostRace
from lake.rollback import roll_back
from tasks.rebuild.plan import plan_index
from tests import published_index, small_lake
from tests.published_index import CODED, DIMENSION, FLAT, ROWS, check, rebuild
from tests.vector_lake import VectorLake
from tests.vectors import clustered

# pytest finds a file's fixtures by the names in it.
vectors, lake = published_index.vectors, published_index.lake


def test_the_codebook_is_trained_again_when_another_kind_of_pictures_comes_in(lake: VectorLake) -> None:
    rebuild(lake, CODED)
    others = clustered(200, DIMENSION, seed=99)
    lake.change({f"other-{row}.jpg": others[row] for row in range(200)})
    index = rebuild(lake, CODED)
    assert "the 200 vectors added since lie" in index.rebuild_reason
    assert (index.shards_kept, index.shards_written) == (0, 4)
    codebook = lake.lake.indexes.manifest(2).properties["codebook"]
    assert (codebook["version"], codebook["added_rows"], codebook["reason"]) == (2, 0, index.rebuild_reason)
    check(lake)
    lake.change({"00000.jpg": others[0]})
    assert rebuild(lake, CODED).rebuild_reason == ""


def test_a_catalogue_that_outgrows_its_parts_is_rebuilt(lake: VectorLake, vectors: Floats) -> None:
    small = replace(CODED, flat_below=ROWS + 1)
    assert rebuild(lake, small).rebuild_reason == "no index of look 1 was published yet"
    lake.change({f"more-{row}.jpg": vectors[ROWS + row] for row in range(10)})
    index = rebuild(lake, small)
    assert index.rebuild_reason == "1510 vectors want other parts than index 1 has: IVF32,PQ16x4fs"
    check(lake)


def test_another_look_starts_an_index_of_its_own(lake: VectorLake) -> None:
    rebuild(lake, CODED)
    lake.promote_look()
    lake.change(lake.pictures)
    assert rebuild(lake, CODED).rebuild_reason == "no index of look 2 was published yet"
    check(lake)


def test_a_full_rebuild_uses_nothing_of_an_earlier_version(lake: VectorLake) -> None:
    rebuild(lake, CODED)
    plan = plan_index(lake.lake, 1, "run", CODED, "asked for")
    assert (plan.base, plan.kept, plan.trains, plan.same_as) == (None, (), True, None)
    index = small_lake.build_version(lake.uri, plan, CODED)
    assert index.rebuild_reason == "asked for"
    assert not any(file.stored_in for file in lake.lake.indexes.manifest(2).files)
    check(lake)


def test_a_lost_file_of_a_shard_is_written_again(lake: VectorLake, vectors: Floats) -> None:
    rebuild(lake, FLAT)
    lake.lake.store.delete([lake.lake.indexes.path(1, "shard-00001.keys.parquet")])
    lake.change({"00000.jpg": vectors[ROWS]})
    assert rebuild(lake, FLAT).rebuild_reason == "index 1 has lost shard-00001.keys.parquet"
    check(lake)


def test_a_damaged_shard_is_found_by_the_gate_and_written_again(lake: VectorLake, vectors: Floats) -> None:
    rebuild(lake, FLAT)
    path = lake.lake.indexes.path(1, "shard-00001.vectors.npy")
    data = bytearray(lake.lake.store.get(path))
    data[-1] ^= 1
    lake.lake.store.put(path, bytes(data))
    lake.change({"00000.jpg": vectors[ROWS]})
    index = rebuild(lake, FLAT)
    assert "shard-00001.vectors.npy is damaged" in index.rebuild_reason
    check(lake)


def test_a_version_whose_base_was_collected_meanwhile_is_not_published(lake: VectorLake, vectors: Floats) -> None:
    rebuild(lake, FLAT)
    lake.change({"00000.jpg": vectors[ROWS]})
    plan = plan_index(lake.lake, 1, "run", FLAT)
    lake.lake.indexes.append("collect", 1, based_on=lake.lake.indexes.newest())
    with pytest.raises(LostRace, match="version 1 was collected while version 2 was made"):
        small_lake.build_version(lake.uri, plan, FLAT)


def test_after_a_rollback_the_night_starts_from_what_readers_use(lake: VectorLake, vectors: Floats) -> None:
    rebuild(lake, CODED)
    lake.change({"00000.jpg": vectors[ROWS]})
    rebuild(lake, CODED)
    roll_back(lake.lake, "indexes", 1)
    lake.change({"00001.jpg": vectors[ROWS + 1]})
    rebuild(lake, CODED)
    assert lake.lake.indexes.manifest(3).properties["base"] == 1
    check(lake)
    check_version_1 = Searcher.open(lake.lake.indexes.fetch(1, Path("nowhere")))
    assert len(check_version_1) == ROWS


def test_a_small_catalogue_whose_codes_miss_the_target_is_compared_exhaustively(
    lake: VectorLake, vectors: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.spec.FLAT_NUMBERS", 400 * DIMENSION)
    monkeypatch.setattr("index.tuning.RERANK_FACTORS", (1,))  # codes alone, which find too little
    by_size = replace(CODED, flat_below=None, recall_target=1.0)
    index = rebuild(lake, by_size)
    properties = lake.lake.indexes.manifest(index.version).properties
    assert (properties["factory"], properties["instead_of"]) == ("Flat", "ivfpq")
    assert "expected recall@10 of at least 1.0" in index.rebuild_reason
    check(lake)
    assert rebuild(lake, by_size).version == index.version  # nothing changed: nothing is tried again
    lake.change({"00000.jpg": vectors[ROWS]})
    assert rebuild(lake, by_size).rebuild_reason == ""
    check(lake)
    assert rebuild(lake, replace(by_size, recall_target=0.1, index_kind="pq")).rebuild_reason != ""  # another kind
    with pytest.raises(BelowTarget):
        rebuild(lake, replace(by_size, flat_below=400, index_kind="ivfpq"))  # the limit was set
