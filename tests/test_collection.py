"""Collecting garbage: what goes, what stays, and who wins where others publish, roll back or read meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from index.searching import Searcher
from lake.collection import Collected, collect, expendable
from lake.collection_policy import CollectionPolicy
from lake.errors import CorruptFile, LakeError, LostRace, UnknownVersion
from lake.lake import Serving, open_lake
from lake.log import Entry
from lake.rollback import roll_back
from lake.versions import Versions
from tasks.rebuild.config import RebuildConfig
from tasks.rebuild.plan import plan_index
from tasks.search.reader import Reader
from tests import small_lake
from tests.vector_lake import START, VectorLake
from tests.vectors import clustered

DIMENSION = 8
POOL = clustered(300, DIMENSION, seed=1, clusters=10)
CONFIG = RebuildConfig(recall_queries=2, shard_vectors=40)
NOW = CollectionPolicy(keep_versions=1, keep_days=0, longest_run_hours=72)
NOTHING = Collected((), (), (), 0, 0, 0, 0, 0)
NOWHERE = Path("nowhere")


def publish(lake: VectorLake) -> int:
    published = small_lake.rebuild(lake.uri, config=CONFIG)
    assert published is not None
    return published.version


@pytest.fixture
def lake(tmp_path: Path) -> VectorLake:
    """Four nights: version 1 wrote three shards, and each later one a small one beside them."""
    made = VectorLake(str(tmp_path / "lake"), DIMENSION)
    made.change({f"{row:03d}.jpg": POOL[row] for row in range(120)})
    publish(made)
    for night in range(3):
        made.change({f"new-{night}.jpg": POOL[200 + night]})
        publish(made)
    return made


def age(path: Path, days: float) -> None:
    """Make the files below a path look so old."""
    at = time.time() - 86_400 * days
    for file in [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]:
        os.utime(file, (at, at))


def root(lake: VectorLake) -> Path:
    assert lake.lake.store.directory is not None
    return lake.lake.store.directory


def test_a_collected_version_loses_what_no_kept_one_names(lake: VectorLake) -> None:
    dry = collect(lake.lake, NOW, dry_run=True)
    before = lake.lake.store.names("")
    done = collect(lake.lake, NOW)
    assert done == dry
    assert (done.indexes, done.looks, done.models) == ((1, 2, 3), (), ())
    gone = set(before) - set(lake.lake.store.names(""))
    # Of each its own description, mask and truth; version 4 still names their shards.
    own = ("index.json", "deleted.parquet", "truth.parquet")
    assert gone == {f"indexes/versions/00000{n}/{name}" for n in (1, 2, 3) for name in own}
    searcher = Searcher.open(lake.lake.indexes.fetch(4, NOWHERE))
    assert len(searcher) == 123
    assert lake.lake.indexes.manifest(1).version == 1  # its manifest stays
    assert replace(collect(lake.lake, NOW), bytes=0) == NOTHING


def test_what_is_collected_says_so(lake: VectorLake) -> None:
    collect(lake.lake, NOW)
    today = lake.lake.indexes.entries()[-1].at.date().isoformat()
    with pytest.raises(UnknownVersion, match=rf"version 2 was collected on {today}.*: expected one of 4"):
        lake.lake.indexes.require(2)
    with pytest.raises(UnknownVersion, match="version 2 was collected"):
        roll_back(lake.lake, "indexes", 2)
    with pytest.raises(CorruptFile, match="version 2 was collected: open the current version"):
        lake.lake.indexes.fetch(2, NOWHERE)


def test_shards_go_once_no_version_names_them(lake: VectorLake) -> None:
    plan = plan_index(lake.lake, 1, "run", CONFIG, "asked for")
    small_lake.build_version(lake.uri, plan, CONFIG)
    done = collect(lake.lake, NOW)
    assert done.indexes == (1, 2, 3, 4)
    left = lake.lake.store.names("indexes/versions")
    kept = {"manifest.json", "claim.json"}
    assert all(path.rsplit("/", 1)[-1] in kept for path in left if "/000005/" not in path)
    assert len(Searcher.open(lake.lake.indexes.fetch(5, NOWHERE))) == 123


@pytest.mark.parametrize(
    ("policy", "going"),
    [
        (CollectionPolicy(keep_versions=2, keep_days=0), [1, 2]),
        (CollectionPolicy(keep_versions=1, keep_days=2), [1, 2]),
        (CollectionPolicy(keep_versions=9, keep_days=0), []),
        (CollectionPolicy(keep_versions=1, keep_days=99), []),
    ],
)
def test_a_version_goes_when_it_is_neither_new_nor_young(policy: CollectionPolicy, going: list[int]) -> None:
    entries = [Entry(n, "publish", n, n, START + timedelta(days=n), "", "") for n in (1, 2, 3, 4)]
    assert expendable(entries, policy, START + timedelta(days=4), needed=set()) == going


def test_refused_models_take_no_place_of_accepted_ones() -> None:
    refused = [Entry(n, "refuse", n, 1, START, "", "") for n in (2, 3, 4)]
    entries = [Entry(1, "promote", 1, 1, START, "", ""), *refused]
    assert expendable(entries, NOW, START, needed=set()) == [2, 3, 4]


def test_the_current_version_stays_even_when_it_is_an_old_one(lake: VectorLake) -> None:
    roll_back(lake.lake, "indexes", 1)
    assert collect(lake.lake, NOW).indexes == (2, 3, 4)
    assert len(Searcher.open(lake.lake.indexes.fetch(1, NOWHERE))) == 120


def test_a_look_stays_while_a_kept_index_names_it(lake: VectorLake) -> None:
    lake.promote_look()  # readers still use index 4 of look 1
    assert collect(lake.lake, NOW).looks == ()
    lake.change({f"{row:03d}.jpg": POOL[row] for row in range(120)})
    lake.change({f"new-{night}.jpg": POOL[200 + night] for night in range(3)})
    publish(lake)
    both = CollectionPolicy(keep_versions=2, keep_days=0)
    lake.promote_look()
    lake.promote_look()  # four: two are kept for their age, and two more because the kept indexes 4 and 5 name them
    assert collect(lake.lake, both).looks == ()
    done = collect(lake.lake, NOW)
    assert (done.indexes, done.looks) == ((4,), (1, 3))
    assert not lake.lake.store.exists("looks/versions/000001/weights")
    assert lake.lake.store.exists("looks/versions/000002/weights")
    with pytest.raises(UnknownVersion, match="looks version 1 was collected"):
        roll_back(lake.lake, "looks", 1)


def test_the_serving_model_stays_even_when_newer_ones_are_promoted(lake: VectorLake) -> None:
    for _ in range(2):
        model = lake.promote_model()
        lake.add_scores(model, dict.fromkeys(lake.pictures, (0.5, 0.5, 0.5)))
        assert lake.serve(model)
    for _ in range(3):
        newest = lake.promote_model()  # and never scored
    assert collect(lake.lake, NOW).models == (1, 3, 4)
    assert lake.lake.models.known() == [2, newest]
    assert lake.lake.serving() == Serving(lake.look, 4, 2)
    assert lake.lake.store.exists("models/versions/000002/weights")
    assert not lake.lake.store.exists("models/versions/000001/weights")
    assert roll_back(lake.lake, "models", 2).model_version == 2
    with pytest.raises(UnknownVersion, match="models version 1 was collected"):
        roll_back(lake.lake, "models", 1)


def test_the_promoted_model_stays_while_a_model_rolled_back_to_serves(lake: VectorLake) -> None:
    for _ in range(3):
        lake.add_scores(model := lake.promote_model(), dict.fromkeys(lake.pictures, (0.5, 0.5, 0.5)))
        lake.serve(model)
    roll_back(lake.lake, "models", 1)
    lake.lake.models.append("promote", 3, based_on=lake.lake.models.newest())
    assert collect(lake.lake, NOW).models == (2,)
    assert (lake.lake.models.current(), lake.lake.serving_model()) == (3, 1)


def test_a_draft_is_left_alone_while_its_run_may_be_at_work(lake: VectorLake) -> None:
    draft = lake.lake.indexes.draft()
    draft.add("half", b"of it")
    assert collect(lake.lake, NOW).version_files == 9  # those of the versions 1 to 3
    age(root(lake) / "indexes" / "versions" / "000005", days=4)
    draft.add("another half", b"of it")  # still at work after days
    assert replace(collect(lake.lake, NOW), bytes=0) == NOTHING
    age(root(lake) / "indexes" / "versions" / "000005", days=4)
    assert collect(lake.lake, NOW).version_files == 2
    draft.seal({"look_version": 1})
    with pytest.raises(LostRace, match="version 5 was collected while version 5 was made"):
        lake.lake.indexes.append("publish", 5, based_on=lake.lake.indexes.entries()[3])
    assert lake.lake.indexes.draft().version == 6  # a number is never used again


def test_what_killed_runs_left_behind_goes_once_it_is_old(lake: VectorLake, tmp_path: Path) -> None:
    store, scores, embeddings = lake.lake.store, lake.lake.scores, lake.lake.embeddings
    plan_index(lake.lake, 1, "killed", CONFIG, "asked for")
    store.put("checkpoints/abandoned.safetensors", b"weights")
    lake.add_scores(1, {"000.jpg": (0.5, 0.5, 0.5)})
    scores.write_part(scores.schema.empty_table(), "never-committed", partition={"model_version": "1"})
    embeddings.write_part(embeddings.schema.empty_table(), "never-committed", partition={"look_version": "1"})
    before = scores.version(), embeddings.version()
    collect(lake.lake, NOW)
    assert store.names("work") and store.names("checkpoints")
    age(tmp_path, days=4)
    store.put("work/at-work/score-00000.parquet", b"")
    done = collect(lake.lake, NOW)
    assert (done.workspaces, done.checkpoints, done.table_parts) == (1, 1, 2)
    assert store.names("work") == ["work/at-work/score-00000.parquet"]
    assert store.names("checkpoints") == []
    assert not store.exists("scores/model_version=1/never-committed.parquet")
    assert not store.exists("embeddings/look_version=1/never-committed.parquet")
    # Delta's log tells of it.
    assert scores.version() > before[0]
    assert embeddings.version() > before[1]
    assert publish(lake) == 4  # the committed parts are all there


def test_an_open_reader_keeps_answering_and_moves_on(lake: VectorLake) -> None:
    reader = Reader(lake.lake, NOWHERE)
    plan = plan_index(lake.lake, 1, "run", CONFIG, "asked for")
    small_lake.build_version(lake.uri, plan, CONFIG)
    before = reader.search(POOL[:5], 5, look_version=1)
    assert collect(lake.lake, NOW).indexes == (1, 2, 3, 4)
    assert reader.search(POOL[:5], 5, look_version=1) == before
    assert reader.refresh()
    assert reader.index.version == 5


Meanwhile = Callable[[VectorLake], object]


def _publishes(lake: VectorLake) -> None:
    lake.change({"meanwhile.jpg": POOL[250]})
    publish(lake)


def _rolls_back(lake: VectorLake) -> None:
    roll_back(lake.lake, "indexes", 2)


@pytest.mark.parametrize(("meanwhile", "kept"), [(_publishes, [5]), (_rolls_back, [2])])
def test_whoever_moves_readers_meanwhile_comes_first(
    lake: VectorLake, meanwhile: Meanwhile, kept: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other writer comes between the collector's look at the log and its first entry."""
    append = Versions.append
    done: list[bool] = []

    def interrupted(self: Versions, *args: object, **kwargs: object) -> Entry:
        if not done:
            done.append(True)
            meanwhile(lake)
        return append(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Versions, "append", interrupted)
    collect(lake.lake, NOW)
    assert lake.lake.indexes.known() == kept
    assert Searcher.open(lake.lake.indexes.fetch(kept[0], NOWHERE))


def test_an_interrupted_collection_is_finished_by_the_next(lake: VectorLake, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(paths: list[str]) -> None:
        raise LakeError("the power failed")

    with monkeypatch.context() as patched, pytest.raises(LakeError, match="power"):
        patched.setattr(lake.lake.store, "delete", fails)
        collect(lake.lake, NOW)
    assert lake.lake.indexes.known() == [4]
    assert collect(lake.lake, NOW).version_files == 9


@pytest.mark.s3
def test_collection_works_on_s3_as_it_does_locally(s3_root: str, tmp_path: Path) -> None:
    lake = VectorLake(s3_root, DIMENSION)
    lake.change({f"{row:03d}.jpg": POOL[row] for row in range(120)})
    publish(lake)
    lake.change({"new.jpg": POOL[200], "000.jpg": None})
    publish(lake)
    assert collect(lake.lake, NOW, dry_run=True) == collect(lake.lake, NOW)
    reader = Reader(open_lake(s3_root), tmp_path)
    assert len(reader.index.searcher) == 120


@pytest.mark.parametrize("wrong", [{"keep_versions": 0}, {"keep_days": -1}, {"longest_run_hours": -1}])
def test_an_impossible_policy_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}\n.*greater than or equal to"):
        CollectionPolicy(**wrong)


def test_an_empty_lake_has_nothing_to_collect(tmp_path: Path) -> None:
    lake = open_lake(str(tmp_path), create=True)
    assert collect(lake, NOW) == NOTHING
    assert collect(lake, NOW, now=datetime.now(UTC) + timedelta(days=999)) == NOTHING
