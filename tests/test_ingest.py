"""Bringing `images` up to date with a directory, held against a plain dictionary of what the directory holds."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import tasks.ingest.comparison
import tasks.ingest.plan
import tasks.ingest.source
import tasks.ingest.units
from lake import catalogue
from lake.answers import Answer
from lake.errors import StoreUnavailable
from lake.lake import Lake, open_lake
from lake.listing import LISTING
from lake.store import Store, open_store
from tasks.errors import CountsDisagree, SourceError
from tasks.ingest.fetching import LOCAL_FETCH_THREADS
from tasks.ingest.plan import IngestPlan, plan_ingest, preview_ingest
from tasks.ingest.products import product_id
from tasks.ingest.source import Source, are_pictures, require_pictures
from tasks.ingest.stage import IngestSummary
from tasks.ingest.units import check_images, commit_images, ingest_shard
from tests.small_lake import INGEST, ingest

NEWEST = (
    "SELECT image_key, status, reason, sha256, etag, product_id, width, height, format, ingested_at FROM newest_images"
)


def picture(seed: int, *, size: tuple[int, int] = (24, 16), kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Shop:
    """A directory of pictures beside a lake."""

    folder: Path
    lake_uri: str

    @property
    def lake(self) -> Lake:
        return open_lake(self.lake_uri, create=True)

    @property
    def source(self) -> str:
        return str(self.folder)

    def put(self, key: str, data: bytes) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def delete(self, key: str) -> None:
        (self.folder / key).unlink()

    def ingest(self, **config: Any) -> IngestSummary:
        return ingest(self.lake_uri, self.source, dataclasses.replace(INGEST, **config))

    def plan(self, **config: Any) -> IngestPlan:
        return plan_ingest(
            open_lake(self.lake_uri), self.source, uuid.uuid4().hex, dataclasses.replace(INGEST, **config)
        )

    def sql(self, query: str) -> list[dict[str, Any]]:
        with catalogue.connect(self.lake) as connection:
            rows: list[dict[str, Any]] = connection.execute(query).to_arrow_table().to_pylist()
            return rows

    def newest(self) -> dict[str, dict[str, Any]]:
        return {row["image_key"]: row for row in self.sql(NEWEST)}

    def live(self) -> dict[str, str]:
        """What the lake says: the sha256 of each picture that can be shown."""
        return {row["image_key"]: row["sha256"] for row in self.sql("SELECT image_key, sha256 FROM images")}


def counts(summary: IngestSummary) -> dict[str, int]:
    """The counts that are not zero."""
    names = ("skipped", "unchanged", "new", "changed", "deleted", "ingested", "rejected", "failed", "unreadable")
    return {name: count for name in names if (count := getattr(summary, name))}


@dataclass
class Counting:
    """A store that remembers what was read of it, and lets a test act just before each read."""

    store: Store
    keys: list[str] = field(default_factory=list)  # that were read
    before: Any = None
    etag: str | None = None  # that the listing gives every object instead of its own

    @property
    def directory(self) -> Path | None:
        return self.store.directory

    def listing(self, prefix: str = "", passed: Any = None) -> Iterator[pa.RecordBatch]:
        for page in self.store.listing(prefix, passed):
            etags = page["etag"] if self.etag is None else pa.array([self.etag] * page.num_rows)
            yield page.set_column(LISTING.get_field_index("etag"), "etag", etags)

    def read(self, path: str) -> Answer:
        self.keys.append(path)
        if self.before is not None:
            self.before(path)
        answer = self.store.read(path)
        return answer if self.etag is None else dataclasses.replace(answer, etag=self.etag)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Three pictures, ingested by nobody yet."""
    made = Shop(tmp_path / "pictures", str(tmp_path / "lake"))
    for number, name in enumerate(["a.png", "b/c.png", "b/d e.png"]):
        made.put(name, picture(number))
    open_lake(made.lake_uri, create=True)
    return made


@pytest.fixture
def counting(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Counting:
    """The shop's source, watched by the ingest tasks' reads."""
    watched = Counting(open_store(shop.source))
    for module in (tasks.ingest.source, tasks.ingest.units):
        monkeypatch.setattr(module, "open_store", lambda _uri: watched)
    return watched


# Rows


def test_few_threads_read_a_directory_where_nothing_else_is_asked_for(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        shop.put(f"many/{number}.png", picture(number))
    readers, read = set[int](), Store.read

    def watched(store: Store, path: str) -> Answer:
        if path.endswith(".png"):
            readers.add(threading.get_ident())
        return read(store, path)

    monkeypatch.setattr(Store, "read", watched)
    assert shop.ingest(fetch_threads=None).ingested >= 60
    assert 1 <= len(readers) <= LOCAL_FETCH_THREADS


def test_a_first_ingest_leaves_one_row_for_each_picture(shop: Shop) -> None:
    shop.put("b/photo.jpg", data := picture(9, size=(600, 400), kind="JPEG"))
    done = shop.ingest()
    assert counts(done) == {"new": 4, "ingested": 4}
    assert (done.listed, done.live) == (4, 4)
    assert shop.live() == {path.relative_to(shop.folder).as_posix(): digest(path.read_bytes()) for path in _files(shop)}
    row = shop.newest()["b/photo.jpg"]
    assert (row["width"], row["height"], row["format"], row["sha256"]) == (600, 400, "JPEG", digest(data))
    stored = shop.sql("SELECT pixels FROM pixels WHERE image_key = 'b/photo.jpg'")[0]["pixels"]
    assert min(Image.open(io.BytesIO(stored)).size) == 256
    [images] = shop.sql("SELECT size_bytes, last_modified FROM images WHERE image_key = 'b/photo.jpg'")
    assert images["size_bytes"] == len(data)
    assert abs((images["last_modified"] - datetime.now(UTC)).total_seconds()) < 3600


def test_any_number_of_shards_leaves_the_same_rows(shop: Shop, tmp_path: Path) -> None:
    for number in range(8):
        shop.put(f"more/{number}.png", picture(100 + number))
    plan = shop.plan(shard_pictures=3)
    shop.ingest(shard_pictures=3)
    assert [shard.number for shard in plan.shards] == [0, 1, 2, 3]
    assert [shard.rows for shard in plan.shards] == [3, 3, 3, 2]
    other = Shop(shop.folder, str(tmp_path / "other lake"))
    other.ingest(shard_pictures=1000)
    assert shop.live() == other.live()
    assert len(shop.live()) == 11


def test_the_same_content_under_two_keys_is_two_rows_of_one_content(shop: Shop) -> None:
    shop.put("copy.png", (shop.folder / "a.png").read_bytes())
    assert counts(shop.ingest()) == {"new": 4, "ingested": 4}
    live = shop.live()
    assert live["copy.png"] == live["a.png"]
    assert len(set(live.values())) == 3


def test_a_picture_that_can_not_be_decoded_is_a_row_with_a_reason(shop: Shop) -> None:
    broken = {"empty.jpg": b"", "text.jpg": b"no picture", "cut.png": picture(3)[:200], "page.webp": b"<html></html>"}
    for key, data in broken.items():
        shop.put(key, data)
    assert counts(shop.ingest()) == {"new": 7, "ingested": 3, "rejected": 4}
    newest = shop.newest()
    for key, data in broken.items():
        assert newest[key]["status"] == "rejected"
        assert newest[key]["reason"]
        assert newest[key]["sha256"] == digest(data)
        assert newest[key]["width"] is None
    assert {row["image_key"] for row in shop.sql("FROM rejected")} == set(broken)
    assert counts(shop.ingest()) == {"unchanged": 7}


def test_a_picture_that_lacks_only_its_end_mark_is_live_and_flagged(shop: Shop) -> None:
    shop.put("short.jpg", picture(9, kind="JPEG")[:-2])
    shop.put("whole.jpg", picture(9, kind="JPEG"))
    assert counts(shop.ingest()) == {"new": 5, "ingested": 5}
    remarks = {row["image_key"]: row["remark"] for row in shop.sql("SELECT image_key, remark FROM images")}
    assert remarks.pop("short.jpg") == "its end mark is missing; every row is there"
    assert set(remarks.values()) == {None}
    assert shop.sql("FROM rejected") == []


def test_a_rejected_picture_that_is_mended_becomes_live(shop: Shop) -> None:
    shop.put("late.png", picture(5)[:100])
    shop.ingest()
    shop.put("late.png", picture(5))
    assert counts(shop.ingest()) == {"unchanged": 3, "changed": 1, "ingested": 1}
    assert shop.live()["late.png"] == digest(picture(5))
    assert shop.sql("FROM rejected") == []


def test_a_live_picture_that_breaks_is_no_longer_shown(shop: Shop) -> None:
    shop.ingest()
    shop.put("a.png", b"broken now")
    assert counts(shop.ingest()) == {"unchanged": 2, "changed": 1, "rejected": 1}
    assert set(shop.live()) == {"b/c.png", "b/d e.png"}


def test_a_picture_that_is_too_large_is_rejected_unread(shop: Shop, counting: Counting) -> None:
    shop.put("huge.png", b"\0" * (3 * 2**20))
    done = shop.ingest(max_object_bytes=2**20)
    assert counts(done) == {"new": 4, "ingested": 3, "rejected": 1}
    assert shop.newest()["huge.png"]["reason"] == "too large: 3 MB, at most 1 MB"
    assert "huge.png" not in counting.keys


@pytest.mark.parametrize("suffix", ["heic", "HEIF", "svg", "jxl", "psd"])
def test_a_picture_of_a_kind_that_is_not_read_says_so(shop: Shop, suffix: str) -> None:
    data = b"<svg/>" if suffix == "svg" else b"\0\0\0\x18ftypheic" + bytes(40)
    shop.put(f"p.{suffix}", data)
    assert counts(shop.ingest()) == {"new": 4, "ingested": 3, "rejected": 1}
    assert shop.newest()[f"p.{suffix}"]["reason"]


# Names


@pytest.mark.parametrize(
    ("name", "size", "taken"),
    [
        ("a.jpg", 10, True),
        ("A.JPG", 10, True),
        ("a.jpeg", 10, True),
        ("folder.with.dots/a.png", 10, True),
        ("a.b.webp", 10, True),
        ("a.jpg", 0, True),
        ("no-suffix", 10, True),
        ("folder.png/no-suffix", 10, True),
        ("a folder marker", 0, False),
        (".hidden.jpg", 10, False),
        ("folder/.hidden.jpg", 10, False),
        (".DS_Store", 10, False),
        ("a.txt", 10, False),
        ("a.jpg.txt", 10, False),
        ("labels.csv", 10, False),
        ("a.mp4", 10, False),
        ("a.heic", 10, True),
        ("a.MPO", 10, True),
        ("mug.jpg?v=167", 10, True),
        ("mug.jpg:large", 10, True),
        ("mug.jpg?/notes.txt", 10, False),
        ("a.SVG", 10, True),
        (".jpg", 10, False),
        ("a.", 10, True),
        ("a.txt.", 10, True),
        ("folder.jpg/a.txt", 10, False),
        ("ajpg", 10, True),
        ("a.jpgx", 10, False),
        ("line\nbreak.jpg", 10, True),
        ("line\n.jpg", 10, True),
        ("写真.jpg", 10, True),
    ],
)
def test_an_object_is_a_picture_by_its_name(name: str, size: int, taken: bool) -> None:
    page = pa.record_batch([[name], [size], ["etag"], [datetime.now(UTC)]], schema=LISTING)
    assert are_pictures(page).to_pylist() == [taken]


def test_what_is_no_picture_by_its_name_is_counted_and_never_read(shop: Shop, counting: Counting) -> None:
    for name in (".hidden.jpg", "notes.txt", "b/.DS_Store", "labels.csv"):
        shop.put(name, b"something")
    done = shop.ingest()
    assert counts(done) == {"new": 3, "ingested": 3, "skipped": 4}
    assert sorted(counting.keys) == ["a.png", "b/c.png", "b/d e.png"]
    assert set(shop.newest()) == {"a.png", "b/c.png", "b/d e.png"}


@pytest.mark.parametrize(
    ("key", "pattern", "expected"),
    [
        ("shoes/0012/3.jpg", r"([^/]+)/[^/]+$", "0012"),
        ("shoes/0012/3.jpg", r"^[^/]+/(\d+)/", "0012"),
        ("0012_front.jpg", r"^(\d+)_", "0012"),
        ("front.jpg", r"^(\d+)_", None),
        ("front.jpg", r"^(\d+_)?front", None),
        ("front.jpg", None, None),
        ("_front.jpg", r"^(\d*)_", ""),
    ],
)
def test_the_pattern_finds_the_product_in_the_key(key: str, pattern: str | None, expected: str | None) -> None:
    assert product_id(key, pattern) == expected


def test_rows_carry_the_product_that_the_pattern_finds(shop: Shop) -> None:
    shop.put("b/broken.png", b"")
    shop.ingest(product_id_pattern=r"^([^/]+)/")
    assert {key: row["product_id"] for key, row in shop.newest().items()} == {
        "a.png": None,
        "b/c.png": "b",
        "b/d e.png": "b",
        "b/broken.png": "b",
    }


# What is read again


def test_an_unchanged_picture_is_not_read_again(shop: Shop, counting: Counting) -> None:
    shop.ingest()
    counting.keys.clear()
    done = shop.ingest()
    assert counts(done) == {"unchanged": 3}
    assert shop.plan().shards == ()
    assert counting.keys == []


def test_a_picture_is_unchanged_by_its_etag_and_size_alone(shop: Shop) -> None:
    shop.ingest()
    path = shop.folder / "a.png"
    before, old = path.stat(), path.read_bytes()
    with path.open("r+b") as file:  # the very same file: its inode, size and time stay, so its etag does
        file.write(b"\0" * len(old))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert counts(shop.ingest()) == {"unchanged": 3}
    assert shop.live()["a.png"] == digest(old)


def test_a_changed_picture_is_read_again_and_alone(shop: Shop, counting: Counting) -> None:
    shop.ingest()
    counting.keys.clear()
    shop.put("b/c.png", changed := picture(77))
    assert counts(shop.ingest()) == {"unchanged": 2, "changed": 1, "ingested": 1}
    assert counting.keys == ["b/c.png"]
    assert shop.live()["b/c.png"] == digest(changed)
    assert len(shop.sql("FROM image_history WHERE image_key = 'b/c.png'")) == 2


def test_a_file_moved_into_place_with_the_old_ones_size_and_time_is_taken_for_the_old_one(shop: Shop) -> None:
    shop.ingest()
    path = shop.folder / "a.png"
    before, data = path.stat(), path.read_bytes()
    other = shop.folder.parent / "other.png"
    other.write_bytes(bytes(reversed(data)))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)  # what docs/operations.md says is missed, so that a copy of a tree is not read again
    assert counts(shop.ingest()) == {"unchanged": 3}


def test_a_picture_of_another_size_is_changed_even_where_its_etag_stays(shop: Shop, counting: Counting) -> None:
    counting.etag = "the same for all"
    shop.ingest()
    shop.put("a.png", picture(78, size=(40, 40)))
    assert counts(shop.ingest()) == {"unchanged": 2, "changed": 1, "ingested": 1}


def test_a_listing_of_several_pages_is_counted_whole(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lake.store.LIST_CHUNK", 2)
    for number in range(5):
        shop.put(f"{number}.txt", b"text")
    assert counts(shop.ingest()) == {"new": 3, "ingested": 3, "skipped": 5}
    assert counts(shop.ingest()) == {"unchanged": 3, "skipped": 5}


def test_a_deleted_picture_leaves_a_tombstone_and_its_history(shop: Shop) -> None:
    shop.ingest()
    shop.delete("a.png")
    done = shop.ingest()
    assert counts(done) == {"unchanged": 2, "deleted": 1}
    assert set(shop.live()) == {"b/c.png", "b/d e.png"}
    row = shop.newest()["a.png"]
    assert (row["status"], row["sha256"], row["etag"]) == ("deleted", None, None)
    assert len(shop.sql("FROM image_history WHERE image_key = 'a.png'")) == 2
    assert counts(shop.ingest()) == {"unchanged": 2}


def test_a_picture_that_comes_back_is_new_again(shop: Shop) -> None:
    data = (shop.folder / "a.png").read_bytes()
    shop.ingest()
    shop.delete("a.png")
    shop.ingest()
    shop.put("a.png", data)
    assert counts(shop.ingest()) == {"unchanged": 2, "new": 1, "ingested": 1}
    assert shop.live()["a.png"] == digest(data)
    shop.delete("a.png")
    assert counts(shop.ingest()) == {"unchanged": 2, "deleted": 1}
    assert "a.png" not in shop.live()


def test_a_new_picture_that_vanishes_before_it_is_read_is_a_row_that_says_so(shop: Shop, counting: Counting) -> None:
    counting.before = lambda path: (shop.folder / path).unlink() if path == "a.png" else None
    assert counts(shop.ingest()) == {"new": 3, "ingested": 2, "failed": 1, "unreadable": 1}
    assert set(shop.live()) == {"b/c.png", "b/d e.png"}
    assert shop.newest()["a.png"]["reason"].startswith("gone")
    counting.before = None
    shop.put("a.png", data := picture(50))
    assert counts(shop.ingest()) == {"unchanged": 2, "new": 1, "ingested": 1}
    assert shop.live()["a.png"] == digest(data)


def test_a_changed_picture_that_can_not_be_read_keeps_its_old_state_and_is_tried_again(
    shop: Shop, counting: Counting
) -> None:
    def unreachable(path: str) -> None:
        if path == "a.png":
            raise StoreUnavailable("no answer")

    old = (shop.folder / "a.png").read_bytes()
    shop.ingest()
    shop.put("a.png", new := picture(60))
    counting.before = unreachable
    assert counts(shop.ingest()) == {"unchanged": 2, "changed": 1, "failed": 1}
    assert len(shop.live()) == 3
    assert shop.live()["a.png"] == digest(old)
    counting.before = None
    assert counts(shop.ingest()) == {"unchanged": 2, "changed": 1, "ingested": 1}
    assert shop.live()["a.png"] == digest(new)


def test_a_source_that_is_gone_stops_the_shard_long_before_its_end(shop: Shop, counting: Counting) -> None:
    def unreachable(_: str) -> None:
        raise StoreUnavailable("no answer")

    for number in range(300):
        shop.put(f"more/{number}.png", picture(1))
    plan = shop.plan()
    counting.before = unreachable
    with pytest.raises(StoreUnavailable, match=r"^6\d objects in a row could not be fetched, the last: no answer$"):
        ingest_shard(open_lake(shop.lake_uri), shop.source, "run", plan.shards[0], plan.ingested_at, INGEST)
    assert len(counting.keys) < 100


def test_where_nothing_could_be_read_nothing_is_committed(shop: Shop, counting: Counting) -> None:
    counting.before = lambda path: (shop.folder / path).unlink()
    with pytest.raises(StoreUnavailable, match="became empty while it was read"):
        shop.ingest()
    assert shop.newest() == {}
    assert shop.lake.images.version() == -1


# Sources that are refused


def commits(shop: Shop) -> tuple[int, list[str]]:
    return shop.lake.images.version(), shop.lake.store.names("")


def test_a_source_that_is_not_there_is_refused(shop: Shop, tmp_path: Path) -> None:
    shop.ingest()
    before = commits(shop)
    shop.folder.rename(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match=r"pictures does not exist: expected a directory or s3://bucket/prefix"):
        shop.plan()
    assert commits(shop) == before


@pytest.mark.parametrize("others", [0, 2])
def test_a_source_without_pictures_is_refused_even_where_all_may_vanish(tmp_path: Path, others: int) -> None:
    shop = Shop(tmp_path / "pictures", str(tmp_path / "lake"))
    shop.put("a.png", picture(1))
    shop.ingest()
    shop.delete("a.png")
    for number in range(others):
        shop.put(f"{number}.txt", b"text")
    before = commits(shop)
    with pytest.raises(SourceError) as caught:
        shop.plan(max_deleted_share=1.0)
    assert "has no pictures" in str(caught.value)
    assert ("2 objects there have other names" in str(caught.value)) == bool(others)
    with pytest.raises(SourceError) as at_once:
        require_pictures(Source(shop.source))
    assert str(at_once.value) == str(caught.value)
    assert commits(shop) == before


def test_a_source_that_lost_too_much_at_once_is_refused_and_nothing_is_deleted(shop: Shop) -> None:
    shop.ingest()
    shop.delete("a.png")
    shop.delete("b/c.png")
    before = commits(shop)
    with pytest.raises(SourceError) as caught:
        shop.plan(max_deleted_share=0.5)
    assert "lacks 2 of the 3 pictures that the lake knows" in str(caught.value)
    assert "--max-deleted-share 1" in str(caught.value)
    assert commits(shop) == before
    assert len(shop.live()) == 3
    assert counts(shop.ingest(max_deleted_share=0.7)) == {"unchanged": 1, "deleted": 2}


def test_exactly_the_allowed_share_may_vanish(shop: Shop) -> None:
    shop.put("z.png", picture(8))
    shop.ingest()
    shop.delete("a.png")
    shop.delete("z.png")
    assert counts(shop.ingest(max_deleted_share=0.5)) == {"unchanged": 2, "deleted": 2}


def test_pictures_deleted_earlier_do_not_count_as_known(shop: Shop) -> None:
    shop.ingest()
    shop.delete("a.png")
    shop.ingest()
    assert shop.plan().known == 2
    shop.delete("b/c.png")
    assert counts(shop.ingest(max_deleted_share=0.5)) == {"unchanged": 1, "deleted": 1}


def test_a_preview_says_what_the_plan_says_and_writes_nothing(shop: Shop) -> None:
    shop.ingest()
    shop.delete("a.png")
    shop.put("b/c.png", picture(70))
    shop.put("new.png", picture(71))
    shop.put("notes.txt", b"text")
    before = commits(shop)
    preview = preview_ingest(shop.lake, shop.source, INGEST)
    assert commits(shop) == before
    plan = shop.plan()
    at = plan.ingested_at
    assert dataclasses.replace(plan, shards=(), tombstones=()) == dataclasses.replace(preview, ingested_at=at)
    assert (plan.new, plan.changed, plan.deleted, plan.unchanged, plan.skipped) == (1, 1, 1, 1, 1)


# Time, retries, counts


def test_the_newest_row_wins_even_where_the_clock_goes_backwards(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    class Backwards(datetime):
        hours = 0

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            cls.hours -= 1
            return datetime.now(tz) + timedelta(hours=cls.hours)

    for module in (tasks.ingest.plan, tasks.ingest.comparison):
        monkeypatch.setattr(module, "datetime", Backwards)
    shop.ingest()
    shop.put("a.png", changed := picture(80))
    shop.ingest()
    assert shop.live()["a.png"] == digest(changed)
    shop.delete("a.png")
    shop.ingest()
    assert "a.png" not in shop.live()
    shop.put("a.png", back := picture(81))
    shop.ingest()
    assert shop.live()["a.png"] == digest(back)
    times = [row["ingested_at"] for row in shop.sql("SELECT DISTINCT ingested_at FROM image_history ORDER BY 1")]
    assert len(times) == 4


def test_every_row_of_a_run_bears_one_time(shop: Shop) -> None:
    shop.ingest(shard_pictures=1)
    assert len({row["ingested_at"] for row in shop.newest().values()}) == 1


def test_a_retried_shard_leaves_one_part(shop: Shop) -> None:
    lake, run_id = shop.lake, "a-run"
    plan = plan_ingest(open_lake(shop.lake_uri), shop.source, run_id, INGEST)
    [shard] = plan.shards
    first = ingest_shard(open_lake(shop.lake_uri), shop.source, run_id, shard, plan.ingested_at, INGEST)
    again = ingest_shard(open_lake(shop.lake_uri), shop.source, run_id, shard, plan.ingested_at, INGEST)
    assert first == again
    assert lake.store.names("images") == [f"images/{again.parts[0].path}"]
    commit_images(open_lake(shop.lake_uri), run_id, plan, [again])
    commit_images(open_lake(shop.lake_uri), run_id, plan, [again])  # a retry of the commit, whose first answer was lost
    assert check_images(open_lake(shop.lake_uri), plan, [again]) == 3
    assert len(shop.sql("FROM image_history")) == 3


def test_what_was_not_committed_is_not_seen(shop: Shop) -> None:
    plan = shop.plan()
    ingest_shard(open_lake(shop.lake_uri), shop.source, "a-run", plan.shards[0], plan.ingested_at, INGEST)
    assert shop.newest() == {}
    assert counts(shop.ingest()) == {"new": 3, "ingested": 3}


def test_a_lost_shard_is_noticed_before_anything_is_committed(shop: Shop) -> None:
    plan = plan_ingest(open_lake(shop.lake_uri), shop.source, "a-run", dataclasses.replace(INGEST, shard_pictures=2))
    shards = [
        ingest_shard(open_lake(shop.lake_uri), shop.source, "a-run", shard, plan.ingested_at, INGEST)
        for shard in plan.shards
    ]
    with pytest.raises(CountsDisagree, match=r"listed 3, but 0 unchanged \+ 2 handled; nothing was committed"):
        commit_images(open_lake(shop.lake_uri), "a-run", plan, shards[:1])
    assert shop.lake.images.version() == -1
    assert shop.newest() == {}
    commit_images(open_lake(shop.lake_uri), "a-run", plan, shards)
    assert check_images(open_lake(shop.lake_uri), plan, shards) == 3


def test_another_ingest_at_the_same_time_is_noticed(shop: Shop) -> None:
    plan = plan_ingest(open_lake(shop.lake_uri), shop.source, "a-run", INGEST)
    shards = [
        ingest_shard(open_lake(shop.lake_uri), shop.source, "a-run", shard, plan.ingested_at, INGEST)
        for shard in plan.shards
    ]
    shop.put("late.png", picture(90))
    shop.ingest()
    commit_images(open_lake(shop.lake_uri), "a-run", plan, shards)
    with pytest.raises(CountsDisagree, match="holds 4 pictures where this run left 3: another ingest"):
        check_images(open_lake(shop.lake_uri), plan, shards)


def test_a_history_of_random_changes_ends_as_the_directory_is(tmp_path: Path) -> None:
    random = np.random.default_rng(20)
    shop = Shop(tmp_path / "pictures", str(tmp_path / "lake"))
    keys = [f"{folder}/{number}.png" for folder in ("p", "q") for number in range(4)]
    shop.put("always.png", picture(0))
    for night in range(6):
        for key in random.choice(keys, 4, replace=False):
            if (shop.folder / key).exists() and random.random() < 0.5:
                shop.delete(key)
            else:
                good = random.random() < 0.7
                shop.put(key, picture(int(random.integers(1000))) if good else random.bytes(50))
        done = shop.ingest(max_deleted_share=1.0, shard_pictures=3)
        held = {path.relative_to(shop.folder).as_posix(): path.read_bytes() for path in _files(shop)}
        good_ones = {key: digest(data) for key, data in held.items() if data.startswith(b"\x89PNG")}
        assert shop.live() == good_ones, f"night {night}"
        assert done.live == len(good_ones)
        assert {row["image_key"] for row in shop.sql("FROM rejected")} == held.keys() - good_ones.keys()


def _files(shop: Shop) -> Iterator[Path]:
    return (path for path in shop.folder.rglob("*") if path.is_file())
