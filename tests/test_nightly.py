"""The night, inline and by Prefect against a real server, held against what a dictionary of the source says."""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flows.nightly import nightly
from flows.parameters import IngestParameters, NightlyParameters, RebuildParameters, RetrainParameters, ScoreParameters
from index.errors import UnknownKey
from lake import catalogue
from lake.errors import LakeBusy, LakeError
from lake.lake import Lake, open_lake
from lake.lease import leased
from lake.rollback import roll_back
from lake.store import open_store
from model.predict import Predictor
from tasks.night import NightSummary
from tasks.pictures import prepare, read_picture
from tasks.predictors import predictor
from tasks.rebuild import stage as rebuilding
from tasks.runner import Inline, LeaseTerms
from tasks.search.queries import search_by_key, search_by_picture
from tests.small_lake import init_lake
from vitrine.demo.draw_catalogue import draw_catalogue, write_labels

PATTERN = r"([^/]+)/[^/]+$"


@dataclass
class Shop:
    """A source of pictures beside a dictionary of what is in it."""

    uri: str
    lake_uri: str
    cache: Path
    on_prefect: bool = False
    content: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = open_store(self.uri, create=True)

    def put(self, key: str, data: bytes) -> None:
        self.store.put(key, data)
        self.content[key] = data

    def delete(self, key: str) -> None:
        self.store.delete([key])
        del self.content[key]

    def night(self, **parameters: Any) -> NightSummary:
        asked = NightlyParameters(lake=self.lake_uri, source=self.uri, product_id_pattern=PATTERN, **parameters)
        return nightly(asked) if self.on_prefect else asked.run(Inline())

    @property
    def lake(self) -> Lake:
        return open_lake(self.lake_uri)

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        with catalogue.connect(self.lake) as connection:
            return connection.execute(query).fetchall()


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A shop and its lake in local directories."""
    return _open_shop(str(tmp_path), tmp_path / "cache")


@pytest.fixture(params=["inline", pytest.param("on Prefect", marks=pytest.mark.prefect)])
def any_shop(request: pytest.FixtureRequest, root: str, tmp_path: Path) -> Shop:
    """The same, and once more on the real S3 server; its nights inline, and as flow runs of the real Prefect server."""
    on_prefect = request.param == "on Prefect"
    if on_prefect:
        request.getfixturevalue("prefect_server")
    return _open_shop(root, tmp_path / "cache", on_prefect=on_prefect)


def _open_shop(root: str, cache: Path, *, on_prefect: bool = False) -> Shop:
    init_lake(f"{root}/lake", model=True)
    return Shop(f"{root}/pictures", f"{root}/lake", cache, on_prefect)


def picture(seed: int, side: int = 48, kind: str = "JPEG") -> bytes:
    """A smooth random picture: no two seeds look alike."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(data, kind)
    return data.getvalue()


def test_the_first_night_accounts_for_every_picture(any_shop: Shop) -> None:
    for number in range(6):
        any_shop.put(f"mugs/mug-{number % 2}/{number}.jpg", picture(number))
    any_shop.put("mugs/mug-0/copy.jpg", picture(0))
    any_shop.put("mugs/broken.jpg", b"<html>not found</html>")
    any_shop.put("mugs/readme.txt", b"hello")
    found = any_shop.night()
    assert (found.ingest.listed, found.ingest.skipped, found.ingest.unchanged) == (8, 1, 0)
    assert (found.ingest.ingested, found.ingest.rejected, found.ingest.live) == (7, 1, 7)
    assert (found.score.live, found.score.contents, found.score.embedded, found.score.scored) == (7, 6, 6, 6)
    assert (found.index.rows, found.index.is_new, found.index.index_version) == (7, True, 1)
    assert any_shop.sql("SELECT DISTINCT product_id FROM scores ORDER BY 1") == [("mug-0",), ("mug-1",)]
    row = any_shop.sql(
        "SELECT status, listed, unchanged + ingested + rejected + failed, live, already_embedded + embedded, "
        "already_scored + scored, indexed, published FROM runs WHERE flow = 'nightly'"
    )
    assert row == [("completed", 8, 8, 7, 6, 6, 7, True)]
    _check_times(any_shop, found)
    flows = any_shop.sql("SELECT flow, count(*) FROM runs GROUP BY flow ORDER BY flow")
    assert flows == [("ingest-catalogue", 1), ("nightly", 1), ("rebuild-index", 1), ("score-catalogue", 1)]


def test_a_night_without_changes_does_nothing(any_shop: Shop) -> None:
    for number in range(4):
        any_shop.put(f"cup/{number}.jpg", picture(number))
    any_shop.night()
    names = ("images", "embeddings", "scores", "looks", "models", "indexes", "work")
    before = {name: _objects(any_shop.lake, name) for name in names}
    found = any_shop.night()
    assert (found.ingest.unchanged, found.ingest.ingested) == (4, 0)
    assert (found.score.embedded, found.score.scored) == (0, 0)
    assert (found.index.is_new, found.index.index_version) == (False, 1)
    assert {name: _objects(any_shop.lake, name) for name in before} == before
    assert _objects(any_shop.lake, "work") == []


def test_many_nights_agree_with_a_dictionary(shop: Shop) -> None:
    draw = random.Random(7)  # noqa: S311 (a test's seed)
    for number in range(8):
        shop.put(f"a/{number}.jpg", picture(number))
    _check_night(shop, shop.night())
    for night in range(4):
        before = dict(shop.content)
        _disturb(shop, draw, night)
        found = shop.night()
        changed = [key for key, data in shop.content.items() if before.get(key) != data]
        # A key written again with the same bytes may have a new etag: fetched again, and found the same.
        assert found.ingest.ingested + found.ingest.rejected >= len(changed)
        assert found.ingest.deleted == len(before.keys() - shop.content.keys())
        _check_night(shop, found)


def test_rewritten_files_with_the_same_bytes_are_not_scored_again(shop: Shop) -> None:
    for number in range(3):
        shop.put(f"a/{number}.png", picture(number, kind="PNG"))
    shop.night()
    shop.put("a/9.png", picture(1, kind="PNG"))
    found = shop.night()
    assert (found.ingest.ingested, found.index.is_new) == (1, True)
    assert (found.score.embedded, found.score.scored) == (0, 0)
    polarity = dict(shop.sql("SELECT image_key, polarity FROM scores"))
    assert polarity["a/9.png"] == polarity["a/1.png"]


def test_a_failed_night_leaves_readers_where_they_were_and_a_row_that_says_so(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        shop.put(f"a/{number}.jpg", picture(number))
    shop.night()
    shop.put("a/new.jpg", picture(77))
    entries = shop.lake.indexes.entries()

    def fails(*_: object, **__: object) -> None:
        raise LakeError("the disk is full: make room")

    monkeypatch.setattr("tasks.rebuild.units.write_shard", fails)
    with pytest.raises(LakeError, match="make room"):
        shop.night()
    assert shop.lake.indexes.entries() == entries
    assert _neighbours(shop, "a/0.jpg") == {"a/1.jpg", "a/2.jpg"}
    failed = shop.sql("SELECT flow, error FROM runs WHERE status = 'failed' ORDER BY flow")
    assert failed == [("nightly", "the disk is full: make room"), ("rebuild-index", "the disk is full: make room")]
    monkeypatch.undo()
    found = shop.night()
    assert (found.ingest.unchanged, found.score.scored, found.index.is_new) == (4, 0, True)
    _check_night(shop, found)


def test_a_large_catalogue_is_quantized_in_shards_and_still_found_exactly(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITRINE_FLAT_BELOW", "50")
    monkeypatch.setenv("VITRINE_SHARD_VECTORS", "110")
    monkeypatch.setenv("VITRINE_SHARD_PICTURES", "128")
    for number in range(300):
        shop.put(f"a/{number}.jpg", picture(number, side=24))
    found = shop.night()
    manifest = shop.lake.indexes.manifest(1)
    assert "PQ" in manifest.properties["factory"]
    assert sum(record.name.endswith(".codes.zst") for record in manifest.files) == 3
    assert found.index.recall_at_10 is not None and found.index.recall_at_10 >= 0.99
    _check_night(shop, found)

    shop.put("a/new.jpg", picture(1000, side=24))
    shop.delete("a/0.jpg")
    found = shop.night()
    assert (found.index.shards_kept, found.index.shards_written, found.index.rebuild_reason) == (3, 1, "")
    _check_night(shop, found)

    path = shop.lake.indexes.path(1, "shard-00001.vectors.npy")
    shop.lake.store.put(path, shop.lake.store.get(path)[:-1] + b"?")
    shop.put("a/newer.jpg", picture(1001, side=24))
    found = shop.night()
    assert "shard-00001.vectors.npy is damaged" in found.index.rebuild_reason
    assert (found.index.shards_kept, found.index.shards_written) == (0, 3)
    _check_night(shop, found)


def test_search_by_picture_finds_the_picture_itself(shop: Shop, tmp_path: Path) -> None:
    for number in range(5):
        shop.put(f"a/{number}.jpg", picture(number, side=300))
    shop.night()
    file = tmp_path / "query.jpg"
    file.write_bytes(shop.content["a/3.jpg"])
    found = search_by_picture(shop.lake, file, 2, tmp_path / "cache", "cpu")
    assert found.neighbours[0]["image_key"] == "a/3.jpg"
    assert found.neighbours[0]["similarity"] > 0.999


def test_a_source_that_lost_most_pictures_stops_the_night_before_anything_is_deleted(shop: Shop) -> None:
    for number in range(4):
        shop.put(f"a/{number}.jpg", picture(number))
    shop.night()
    for number in range(3):
        shop.delete(f"a/{number}.jpg")
    with pytest.raises(Exception, match="lacks 3 of the 4 pictures"):
        shop.night()
    assert shop.sql("SELECT count(*) FROM images") == [(4,)]
    found = shop.night(max_deleted_share=1)
    assert found.ingest.deleted == 3
    _check_night(shop, found)


@pytest.mark.parametrize("kind", [IngestParameters, NightlyParameters, ScoreParameters, RebuildParameters])
def test_parameters_refuse_what_they_do_not_know(kind: type[Any]) -> None:
    with pytest.raises(ValueError, match="Extra inputs"):
        kind(lakes="x")


def test_real_photographs_night_after_night(any_shop: Shop, grocery: Path) -> None:
    shop = any_shop
    files = sorted((grocery / "images").rglob("*.jpg"))
    assert len(files) == 964
    for file in files:
        shop.put(file.relative_to(grocery / "images").as_posix(), file.read_bytes())
    first = shop.night()
    assert (first.ingest.ingested, first.ingest.rejected, first.ingest.live) == (964, 0, 964)
    second = shop.night()
    assert (second.ingest.unchanged, second.score.scored, second.index.is_new) == (964, 0, False)
    keys = sorted(shop.content)
    for number in range(7):
        shop.put(f"new/{number}.jpg", picture(number))
    for number in range(10):
        shop.put(keys[20 + number], picture(100 + number))
    for key in keys[40:45]:
        shop.delete(key)
    third = shop.night()
    assert (third.ingest.listed, third.ingest.unchanged, third.ingest.ingested) == (966, 949, 17)
    assert (third.ingest.deleted, third.ingest.live, third.score.scored) == (5, 966, 17)
    assert (third.index.is_new, third.index.rows) == (True, 966)
    live = set(shop.content)
    assert {key for (key,) in shop.sql("SELECT image_key FROM scores")} == live
    assert _index_keys(shop) == live
    for key in keys[40:45]:
        with pytest.raises(UnknownKey):
            search_by_key(shop.lake, key, 3, shop.cache)
    _check_polarity(shop, [keys[20], "new/3.jpg", keys[0]])


def _disturb(shop: Shop, draw: random.Random, night: int) -> None:
    keys = sorted(shop.content)
    shop.delete(draw.choice(keys))
    keys = sorted(shop.content)
    shop.put(draw.choice(keys), picture(1000 + night))  # changed
    shop.put(draw.choice(keys), b"\xff\xd8\xff broken")  # was a picture, or was broken before
    shop.put(f"b/{night}.webp", picture(2000 + night, kind="WEBP"))  # new
    shop.put(f"c/{night}.jpg", shop.content["b/0.webp"])  # a content that is there already
    shop.put("a/back.jpg", picture(3))
    if night % 2:
        shop.delete("a/back.jpg")  # gone, to come back


def _check_night(shop: Shop, found: NightSummary) -> None:
    """SQL, search and the summary against the dictionary."""
    good = {key for key, data in shop.content.items() if _decodes(data)}
    assert {key for (key,) in shop.sql("SELECT image_key FROM images")} == good
    assert {key for (key,) in shop.sql("SELECT image_key FROM rejected")} == shop.content.keys() - good
    assert {key for (key,) in shop.sql("SELECT image_key FROM embeddings")} == good
    assert {key for (key,) in shop.sql("SELECT image_key FROM scores")} == good
    assert {key for (key,) in shop.sql("SELECT image_key FROM pixels")} == good
    assert _index_keys(shop) == good
    assert found.ingest.live == found.index.rows == len(good)
    assert found.ingest.listed == len(shop.content)
    some = sorted(good)[:: max(3, len(good) // 20)]
    _check_polarity(shop, some)
    _check_search(shop, some[:3])


def _check_times(shop: Shop, found: NightSummary) -> None:
    """The stages' times within the night's, the same in SQL."""
    [(times, slowest)] = shop.sql("SELECT stage_times, bottleneck FROM runs WHERE flow = 'nightly'")
    names = [spent["name"] for spent in times]
    assert names == [spent.name for spent in found.stage_times]
    assert {"list", "compare", "fetch", "decode", "write", "commit images", "orchestration"} <= set(names)
    assert {"load network", "read pixels", "prepare", "infer", "write scores"} <= set(names)
    [(arithmetic,)] = shop.sql("SELECT DISTINCT arithmetic FROM runs WHERE scored > 0")
    assert arithmetic == found.score.arithmetic == _predictor(shop).arithmetic
    assert slowest == found.bottleneck == max(times, key=lambda spent: spent["busy_s"])["name"]
    assert all(0 <= spent.busy_s + spent.waiting_s <= found.seconds for spent in found.stage_times)
    reading = [spent for spent in found.stage_times if spent.name in ("fetch", "decode", "write")]
    spans = [spent.busy_s + spent.waiting_s for spent in reading]
    assert max(spans) == pytest.approx(min(spans))  # side by side
    assert found.pictures_per_second is not None and found.pictures_per_second > 0


def _check_polarity(shop: Shop, keys: list[str]) -> None:
    """Scores and embeddings in SQL against the networks asked directly, one picture at a time."""
    model = _predictor(shop)
    stored = dict(shop.sql("SELECT image_key, polarity FROM scores"))
    embeddings = dict(shop.sql("SELECT image_key, embedding FROM embeddings"))
    for key in keys:
        pixels = prepare(read_picture(shop.content[key]).pixels, model)
        expected = model.predict(pixels[np.newaxis])
        assert stored[key] == pytest.approx(expected.polarity[0], abs=1e-4)
        np.testing.assert_allclose(embeddings[key], expected.embedding[0], atol=2e-3)  # bfloat16 in the lake


def _predictor(shop: Shop) -> Predictor:
    """The promoted look and model, which stand on one trunk."""
    return predictor(shop.lake, "cpu", look_version=shop.lake.looks.current(), model_version=shop.lake.models.current())


def _check_search(shop: Shop, keys: list[str]) -> None:
    """Search against exact cosine in SQL."""
    for key in keys:
        found = search_by_key(shop.lake, key, 5, shop.cache)
        exact = shop.sql(f"SELECT similarity FROM similar_to({json.dumps(key).replace(chr(34), chr(39))}, k := 5)")
        assert [row["similarity"] for row in found.neighbours] == pytest.approx([s for (s,) in exact], abs=2e-3)


def _neighbours(shop: Shop, key: str) -> set[str]:
    return {row["image_key"] for row in search_by_key(shop.lake, key, 100, shop.cache).neighbours}


def _index_keys(shop: Shop) -> set[str]:
    """Every key that search can answer with."""
    key = shop.sql("SELECT min(image_key) FROM images")[0][0]
    return _neighbours_all(shop, key) | {key}


def _neighbours_all(shop: Shop, key: str) -> set[str]:
    return {row["image_key"] for row in search_by_key(shop.lake, key, 10_000, shop.cache).neighbours}


def _objects(lake: Lake, name: str) -> list[str]:
    return lake.store.names(name)


def _decodes(data: bytes) -> bool:
    try:
        Image.open(io.BytesIO(data)).load()
    except OSError:
        return False
    return True


def test_a_night_whose_last_word_fails_is_a_failed_one(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.put("a/0.jpg", picture(0))

    def fails(_lake: Lake) -> None:
        raise LakeError("the disk is full: make room")

    monkeypatch.setattr("tasks.runs.write_catalogue", fails)
    with pytest.raises(LakeError, match="make room"):
        shop.night()
    monkeypatch.undo()
    shop.night()
    found = shop.sql("SELECT status FROM runs WHERE flow = 'nightly' ORDER BY started_at")
    assert found == [("failed",), ("completed",)]


def test_a_retraining_that_waits_in_vain_leaves_a_row_and_can_be_run_again(shop: Shop) -> None:
    drawn = draw_catalogue(shop.cache / "drawn", products=12, views=2, size=64, broken=0)
    for each in drawn:
        shop.put(each.image_key, (shop.cache / "drawn" / each.image_key).read_bytes())
    write_labels(shop.cache / "labels.csv", drawn)
    shop.night()
    asked = RetrainParameters(lake=shop.lake_uri, labels=str(shop.cache / "labels.csv"), epochs=2, force="a test")
    impatient = Inline(LeaseTerms(wait_hours=0))
    with leased(shop.lake, "another night"), pytest.raises(LakeBusy, match="being written by another night"):
        asked.run(impatient)
    assert shop.sql("SELECT status FROM runs WHERE flow = 'retrain-model'") == [("failed",)]
    assert asked.run(Inline()).promoted
    assert shop.lake.store.names("checkpoints") == []
    assert shop.lake.serving().model_version == shop.lake.models.current() == 3


@pytest.mark.parametrize("when", ["plan_index", "publish_index"])
def test_a_night_goes_on_under_the_look_that_a_person_puts_back_meanwhile(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    for number in range(4):
        shop.put(f"a/{number}.jpg", picture(number))
    shop.night()
    draft = shop.lake.looks.draft()
    for record in shop.lake.looks.manifest(1).files:
        draft.add(record.name, shop.lake.looks.read(1, record.name))
    draft.seal(shop.lake.looks.manifest(1).properties)
    shop.lake.looks.append("promote", draft.version, based_on=shop.lake.looks.newest())
    unit = getattr(rebuilding, when)

    def meanwhile(*arguments: object, **more: object) -> object:
        monkeypatch.undo()
        roll_back(shop.lake, "looks", 1)
        return unit(*arguments, **more)

    monkeypatch.setattr(rebuilding, when, meanwhile)
    found = shop.night()
    assert found.score.look_version == found.index.look_version == 1
    serving = shop.lake.serving()
    assert (shop.lake.looks.current(), serving.look_version, serving.model_version) == (1, 1, 1)
    assert serving.index_version == found.index.index_version
    _check_night(shop, found)
