"""Rebuilding and publishing an index: what is reused, what is repaired, what must not be overruled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lake.errors import CorruptFile, LostRace
from lake.lake import open_lake
from lake.rollback import roll_back
from tasks.looks import new_look, seal_look
from tasks.rebuild.plan import plan_index
from tasks.rebuild.units import draft_index, encode_shard, measure_index, publish_index, train_index
from tasks.search.reader import Reader
from tests import small_lake
from tests.small_lake import REBUILD, SMALL_MODEL, SmallLake


@pytest.fixture
def shop(tmp_path: Path) -> SmallLake:
    return small_lake.build(tmp_path, products=4)


def damage(lake_uri: str, version: int) -> None:
    path = Path(lake_uri, "indexes", "versions", f"{version:06d}", "shard-00000.vectors.npy")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def test_an_index_with_the_same_content_is_not_built_again(shop: SmallLake) -> None:
    plan = plan_index(open_lake(shop.uri), 1, "run", REBUILD)
    assert (plan.is_current, plan.same_as) == (True, 1)


def test_a_damaged_index_is_refused_by_search_and_built_anew_by_the_next_night(shop: SmallLake, tmp_path: Path) -> None:
    damage(shop.uri, 1)
    lake = open_lake(shop.uri)
    with pytest.raises(CorruptFile, match="roll back"):
        Reader(lake, tmp_path)
    found = small_lake.rebuild(shop.uri)
    assert found is not None and found.version == 2
    assert Reader(lake, tmp_path).index.version == 2


def test_a_rolled_back_content_is_published_again_without_building_it(shop: SmallLake) -> None:
    removed = shop.pictures[0].image_key
    Path(shop.source, removed).unlink()
    small_lake.ingest(shop.uri, str(shop.source))
    assert (found := small_lake.rebuild(shop.uri)) is not None and found.version == 2
    lake = open_lake(shop.uri)
    roll_back(lake, "indexes", 1)
    assert lake.serving().index_version == 1
    assert (found := small_lake.rebuild(shop.uri)) is not None and found.version == 2
    assert lake.serving().index_version == 2
    assert lake.indexes.known() == [1, 2]


def test_a_higher_recall_target_is_not_met_by_an_index_that_measured_less(shop: SmallLake) -> None:
    lake = open_lake(shop.uri)
    manifest = lake.indexes.manifest(1)
    assert manifest.properties["factory"] == "Flat"  # exact search meets every target
    assert plan_index(open_lake(shop.uri), 1, "run", replace(REBUILD, recall_target=1.0)).is_current


def test_a_look_rolled_back_while_its_index_is_made_is_not_overruled(shop: SmallLake) -> None:
    lake = open_lake(shop.uri)
    draft = lake.looks.draft()
    look, preprocessing, _ = new_look(replace(SMALL_MODEL, seed=1))
    seal_look(draft, look, preprocessing, weights="random")
    second = draft.version
    lake.looks.append("promote", second, based_on=lake.looks.newest(), reason="better")
    small_lake.score(shop.uri)
    plan = plan_index(open_lake(shop.uri), second, "run", REBUILD)
    version = draft_index(open_lake(shop.uri))
    codebook = train_index(open_lake(shop.uri), version, plan, REBUILD)
    encoded = [encode_shard(open_lake(shop.uri), version, plan, shard, codebook) for shard in plan.to_write]
    measured = measure_index(open_lake(shop.uri), version, plan, codebook, encoded, REBUILD)
    roll_back(lake, "looks", 1)
    with pytest.raises(LostRace, match="look 1 was put in place of look 2"):
        publish_index(open_lake(shop.uri), version, plan, encoded, measured)
    assert (lake.serving().look_version, lake.serving().index_version) == (1, 1)
