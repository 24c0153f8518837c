"""One object that can't be read never stops a night, a source that is away always does; rows say what was answered."""

from __future__ import annotations

import ctypes
import dataclasses
import io
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lake import catalogue
from lake.errors import LakeError, StoreUnavailable
from lake.lake import open_lake
from tasks.errors import SourceError
from tasks.ingest.fetching import Flow
from tasks.ingest.source import Source, passed_over
from tasks.ingest.stage import IngestSummary, ingest
from tasks.ingest.units import ingest_shard
from tasks.runner import Inline
from tests.small_lake import INGEST
from tests.small_s3 import BUCKET, SmallS3, etag, serving

PREFIX = "pictures/"


def picture(seed: int, side: int = 16) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@dataclass
class Shop:
    """A source and a lake that is brought up to date with it."""

    source: str
    lake_uri: str
    s3: SmallS3 = field(default_factory=SmallS3)

    def put(self, key: str, data: bytes) -> None:
        if self.source.startswith("s3://"):
            self.s3.objects[PREFIX + key] = data
            return
        path = Path(self.source, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def ingest(self, **config: Any) -> IngestSummary:
        lake, chosen = open_lake(self.lake_uri, create=True), dataclasses.replace(INGEST, **config)
        found = ingest(lake, self.source, chosen, Inline(retry_seconds=0))
        assert found.listed == found.unchanged + found.new + found.changed
        assert found.listed == found.unchanged + found.ingested + found.rejected + found.failed
        row = self.sql("SELECT * FROM runs ORDER BY started_at DESC LIMIT 1")[0]
        assert {name: row[name] for name in found.counts()} == found.counts() | {
            "skipped_by_kind": row["skipped_by_kind"]
        }
        assert found.live == len(self.live())
        return found

    def sql(self, query: str) -> list[dict[str, Any]]:
        with catalogue.connect(open_lake(self.lake_uri)) as connection:
            rows: list[dict[str, Any]] = connection.execute(query).to_arrow_table().to_pylist()
            return rows

    def live(self) -> dict[str, str]:
        return {row["image_key"]: row["sha256"] for row in self.sql("SELECT image_key, sha256 FROM images")}

    def unreadable(self) -> dict[str, str]:
        return {row["image_key"]: row["reason"] for row in self.sql("FROM unreadable")}

    def history(self) -> int:
        return len(self.sql("FROM image_history"))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A directory of four pictures that the lake has."""
    made = Shop(str(tmp_path / "shop"), str(tmp_path / "lake"))
    for number in range(4):
        made.put(f"mug/{number}.png", picture(number))
    made.ingest()
    return made


@pytest.fixture
def remote(tmp_path: Path, aws: pytest.MonkeyPatch) -> Iterator[Shop]:
    """The same on S3, where a test says what is refused or altered."""
    aws.setattr("lake.s3.RETRY_SECONDS", 0.05)
    made = Shop(f"s3://{BUCKET}/pictures", str(tmp_path / "lake"))
    with serving(made.s3) as endpoint:
        aws.setenv("AWS_ENDPOINT_URL", endpoint)
        aws.setenv("AWS_ACCESS_KEY_ID", "key")
        aws.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        for number in range(4):
            made.put(f"mug/{number}.png", picture(number))
        made.ingest()
        yield made


# Objects that can't be read


REFUSALS = {
    "AccessDenied": (403, "access denied (AccessDenied)"),
    "InvalidObjectState": (403, "archived (InvalidObjectState): restore it"),
    "KMS.DisabledException": (400, "refused by the server: 400 KMS.DisabledException"),
    "NoSuchKey": (404, "gone: it was listed, and not there when it was to be read"),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_the_only_new_picture_is_refused_every_night_and_every_night_goes_on(remote: Shop, code: str) -> None:
    status, reason = REFUSALS[code]
    remote.put("new.png", picture(9))
    remote.s3.refused[f"{PREFIX}new.png"] = status, code
    for _ in range(2):
        found = remote.ingest()
        assert (found.failed, found.unreadable, found.live, found.unchanged) == (1, 1, 4, 4)
        assert found.first_unreadable == (("new.png", reason),)
        assert f"new.png: {reason}" in str(found)
        assert remote.unreadable() == {"new.png": reason}
    assert remote.history() == 5  # said once
    assert remote.s3.asked[f"{PREFIX}new.png"] == 2  # and tried every night

    remote.s3.refused.clear()
    assert remote.ingest().ingested == 1
    assert "new.png" in remote.live()
    assert remote.unreadable() == {}


def test_nine_of_nine_are_refused_for_good_and_the_night_goes_on(remote: Shop) -> None:
    for number in range(9):
        remote.put(f"new/{number}.png", picture(20 + number))
        remote.s3.refused[f"{PREFIX}new/{number}.png"] = 403, "AccessDenied"
    del remote.s3.objects[f"{PREFIX}mug/0.png"]
    found = remote.ingest()
    assert (found.failed, found.unreadable, found.deleted, found.live) == (9, 9, 1, 3)
    assert len(found.first_unreadable) < 9


def test_a_known_picture_whose_new_bytes_are_refused_stays_as_it_was(remote: Shop) -> None:
    before = remote.live()
    remote.put("mug/0.png", picture(30))
    remote.s3.refused[f"{PREFIX}mug/0.png"] = 403, "AccessDenied"
    assert remote.ingest().unreadable == 1
    assert remote.live() == before
    assert [row["is_shown"] for row in remote.sql("FROM unreadable")] == [True]
    del remote.s3.objects[f"{PREFIX}mug/0.png"]
    assert remote.ingest().deleted == 1
    assert before.keys() - remote.live().keys() == {"mug/0.png"}
    assert remote.unreadable() == {}


def test_an_object_that_answers_500_every_night_stops_none(remote: Shop) -> None:
    remote.put("new.png", picture(9))
    remote.s3.refused[f"{PREFIX}new.png"] = 500, "InternalError"
    found = remote.ingest()
    assert (found.failed, found.unreadable, found.live) == (1, 0, 4)
    assert "new.png" not in {row["image_key"] for row in remote.sql("FROM newest_images")}


@pytest.mark.parametrize("kind", ["gone", "folder", "pipe", "link"])
def test_a_file_that_is_something_else_once_it_is_read_stops_no_night(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    shop.put("new.png", picture(9))
    path = Path(shop.source, "new.png")
    read = ingest_shard

    def changed_meanwhile(*arguments: Any, **named: Any) -> Any:
        path.unlink()
        match kind:
            case "folder":
                path.mkdir()
            case "pipe":
                os.mkfifo(path)
            case "link":
                path.symlink_to("new.png")
        return read(*arguments, **named)

    monkeypatch.setattr("tasks.ingest.stage.ingest_shard", changed_meanwhile)
    found = shop.ingest()
    assert (found.failed, found.unreadable, found.live) == (1, 1, 4)
    assert shop.unreadable()["new.png"]


def without_privileges() -> None:
    """Have the program that is executed next obey files' modes, even as root."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_what_a_user_may_not_read_is_named_and_left_as_it_is(shop: Shop) -> None:
    shop.put("locked/1.png", picture(8))
    shop.ingest()
    shop.put("new.png", picture(9))
    Path(shop.source, "new.png").chmod(0)
    Path(shop.source, "locked").chmod(0)
    command = [sys.executable, "-m", "vitrine", "ingest", shop.source, "--lake", shop.lake_uri]
    try:
        for _ in range(2):
            done = subprocess.run(
                command, capture_output=True, text=True, preexec_fn=without_privileges, timeout=120, check=False
            )
            assert done.returncode == 0, done.stderr
            assert "new.png: access denied" in done.stdout
            assert "locked: Permission denied" in done.stdout
            assert "their 1 known pictures stay as they are" in done.stdout
    finally:
        Path(shop.source, "locked").chmod(0o755)
    assert set(shop.live()) == {"locked/1.png", *(f"mug/{n}.png" for n in range(4))}
    assert shop.unreadable() == {"new.png": "access denied"}
    shop.ingest()  # by somebody who may
    assert shop.unreadable() == {}


# A source that is away


@pytest.mark.parametrize(
    "code", ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"]
)
@pytest.mark.parametrize("what", ["", "list"])
def test_credentials_that_end_stop_the_night_and_delete_nothing(remote: Shop, what: str, code: str) -> None:
    before = remote.live()
    remote.put("new.png", picture(9))
    del remote.s3.objects[f"{PREFIX}mug/3.png"]
    remote.s3.refused[what] = 400 if code == "ExpiredToken" else 403, code
    with pytest.raises(LakeError) as caught:
        remote.ingest()
    assert "\n" not in str(caught.value)
    assert remote.live() == before
    assert remote.unreadable() == {}


def test_a_store_that_answers_503_to_everything_stops_the_night(remote: Shop) -> None:
    before = remote.live()
    for number in range(9):
        remote.put(f"new/{number}.png", picture(20 + number))
    remote.s3.refused[""] = 503, "SlowDown"
    with pytest.raises(StoreUnavailable, match="none of the pictures of s3://shop/pictures could be fetched"):
        remote.ingest()
    assert remote.live() == before


def test_a_folder_that_is_unmounted_while_it_is_read_stops_the_night(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = shop.live()
    shop.put("new.png", picture(9))
    read = ingest_shard

    def unmounted(*arguments: Any, **named: Any) -> Any:
        Path(shop.source).rename(tmp_path / "unmounted")
        Path(shop.source).mkdir()
        return read(*arguments, **named)

    monkeypatch.setattr("tasks.ingest.stage.ingest_shard", unmounted)
    with pytest.raises(StoreUnavailable, match="became empty while it was read"):
        shop.ingest()
    with pytest.raises(SourceError, match="has no pictures"):
        shop.ingest()
    assert shop.live() == before


# Damage


def test_mass_damage_is_no_green_night_until_it_is_allowed(shop: Shop) -> None:
    for number in range(4, 40):
        shop.put(f"mug/{number}.png", picture(number))
    shop.ingest()
    before = shop.live()
    for number in range(38):
        shop.put(f"mug/{number}.png", b"")
    with pytest.raises(SourceError, match=r"38 of the 40 pictures .* no longer be decoded \(mug/0\.png: .*share 1"):
        shop.ingest()
    assert shop.live() == before
    assert shop.ingest(max_deleted_share=1.0).rejected == 38
    assert len(shop.live()) == 2


def test_damage_and_loss_are_counted_together(shop: Shop) -> None:
    Path(shop.source, "mug/0.png").unlink()
    for number in (1, 2):
        shop.put(f"mug/{number}.png", b"<html>no such page</html>")
    with pytest.raises(SourceError, match=r"2 of the 4 pictures .* and 1 are gone"):
        shop.ingest()
    assert shop.ingest(max_deleted_share=0.75).live == 1


def test_new_pictures_that_are_none_are_no_damage(shop: Shop) -> None:
    for number in range(20):
        shop.put(f"new/{number}.png", b"")
    assert shop.ingest().rejected == 20


# Rows describe what was answered


def test_an_answer_shorter_than_listed_under_its_etag_is_left_for_the_next_night(remote: Shop) -> None:
    whole = picture(9)
    remote.put("new.png", whole)
    remote.s3.alter = lambda _, data: (data[:8], etag(data))
    found = remote.ingest()
    assert (found.failed, found.unreadable, found.rejected) == (1, 0, 0)
    remote.s3.alter = None
    assert remote.ingest().ingested == 1


def test_an_answer_that_disagrees_once_is_fetched_again(remote: Shop) -> None:
    remote.put("new.png", picture(9))
    cut = [True]
    remote.s3.alter = lambda _, data: (data[:8], etag(data)) if cut and cut.pop() else (data, etag(data))
    assert remote.ingest().ingested == 1


def test_a_row_bears_the_etag_and_size_of_what_was_read(remote: Shop) -> None:
    first, second = picture(9), picture(10, 24)
    remote.put("new.png", first)
    remote.s3.alter = lambda _, __: (second, etag(second))  # put there after the listing
    remote.ingest()
    [row] = remote.sql("SELECT etag, size_bytes, width FROM images WHERE image_key = 'new.png'")
    assert (row["etag"], row["size_bytes"], row["width"]) == (etag(second), len(second), 24)
    remote.s3.alter = None  # and the first is put back: listed as ever
    assert remote.ingest().changed == 1
    assert remote.sql("SELECT etag FROM images WHERE image_key = 'new.png'") == [{"etag": etag(first)}]


# Keys


@pytest.mark.parametrize("odd", [[], ["a//b.png"]], ids=["plain", "odd keys too"])
def test_folder_markers_are_no_pictures_and_keys_are_unique(remote: Shop, odd: list[str]) -> None:
    for marker in ("", "mug/", "mug/0.png/", "odd.png/"):
        remote.put(marker, b"")
    remote.put("mug/with bytes.png/", b"x")
    remote.put("mug/with bytes.png", picture(12))
    for key in odd:  # which obstore can't spell: the listing is boto3's from there on
        remote.put(key, picture(11))
    remote.s3.listed_twice.append(f"{PREFIX}mug/1.png")
    for _ in range(2):
        found = remote.ingest()
        assert set(remote.live()) == {*(f"mug/{n}.png" for n in range(4)), *odd, "mug/with bytes.png"}
        assert found.skipped_by_kind == {"folder marker": 4, "listed twice": 1}
    assert found.unchanged == 5 + len(odd)


def test_a_linked_folder_is_a_second_name_and_real_paths_win(shop: Shop) -> None:
    for name in ("a-gift-set", "z-gift-set"):
        Path(shop.source, name).symlink_to("mug")
    Path(shop.source, "one.png").symlink_to("mug/0.png")
    found = shop.ingest()
    assert (found.unchanged, found.new, found.deleted) == (4, 9, 0)
    names = {f"{folder}/{n}.png" for folder in ("mug", "a-gift-set", "z-gift-set") for n in range(4)}
    assert set(shop.live()) == {*names, "one.png"}


def test_links_that_lead_back_or_nowhere_and_special_files_are_passed_over(shop: Shop) -> None:
    top = Path(shop.source)
    (top / "mug" / "self").symlink_to(".")
    (top / "mug" / "up").symlink_to("..")
    (top / "outside").symlink_to("../..")
    (top / "round-1").symlink_to("round-2")
    (top / "round-2").symlink_to("round-1")
    (top / "broken.png").symlink_to("nothing.png")
    os.mkfifo(top / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(top)  # a socket's path is short
        listening.bind("socket.png")
        os.chdir(here)
    Path(os.fsdecode(os.fsencode(top) + b"/bad-\xff.png")).write_bytes(picture(1))
    found = shop.ingest()
    assert (found.unchanged, found.listed) == (4, 4)
    assert found.skipped_by_kind == {
        "link that leads back": 3,
        "broken link": 3,
        "pipe, socket or device": 2,
        "name that is not UTF-8": 1,
    }
    assert found.skipped == 9
    names = {(one.path, one.kind) for one in passed_over(Source(shop.source))}
    assert ("bad-\\xff.png", "name that is not UTF-8") in names
    assert ("mug/up", "link that leads back") in names


def test_folders_that_are_all_linked_with_each_other_end(shop: Shop) -> None:
    folders = [Path(shop.source, name) for name in "pqrs"]
    for folder in folders:
        folder.mkdir()
        (folder / "1.png").write_bytes(picture(1))
        for other in folders:
            (folder / f"to-{other.name}").symlink_to(f"../{other.name}")
    found = shop.ingest()
    assert found.live == 4 + 4 * (1 + 3 + 3 * 2 + 3 * 2 * 1)


def test_what_is_excluded_is_counted_and_not_read(shop: Shop) -> None:
    for key in ("@eaDir/0.png", "mug/@eaDir/0.png", "mug/thumbs/1.png", "mug/thumbs/keep.png"):
        shop.put(key, picture(40))
    found = shop.ingest(exclude=("@eaDir/", "thumbs/*", "!thumbs/keep.png", "**/thumbs/*", "!**/thumbs/keep.png"))
    assert (found.new, found.skipped_by_kind) == (1, {"excluded": 3})
    assert "mug/thumbs/keep.png" in shop.live()


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not as \.gitignore spells patterns"):
        dataclasses.replace(INGEST, exclude=("!",))


# Contents are stored once


def stored_bytes(shop: Shop) -> int:
    store = open_lake(shop.lake_uri).store
    return sum(each.size_bytes for page in store.pages("images") for each in page if each.path.endswith(".parquet"))


def pixels(shop: Shop) -> dict[str, bytes]:
    return {row["image_key"]: row["pixels"] for row in shop.sql("SELECT image_key, pixels FROM pixels")}


@pytest.fixture
def large(tmp_path: Path) -> Shop:
    """Twelve pictures whose pixels weigh more than their rows."""
    made = Shop(str(tmp_path / "large"), str(tmp_path / "a lake"))
    for number in range(12):
        made.put(f"mug/{number}.png", picture(number, 160))
    made.ingest()
    return made


def test_touched_files_are_read_and_not_stored_again(large: Shop) -> None:
    before, size, stored = large.live(), stored_bytes(large), pixels(large)
    for path in Path(large.source).rglob("*.png"):
        os.utime(path, ns=(0, 1))
    assert large.ingest().unchanged == 12
    assert large.ingest().unchanged == 12
    assert (large.live(), pixels(large)) == (before, stored)
    assert stored_bytes(large) < 1.2 * size


def test_a_renamed_folder_is_not_stored_again(large: Shop) -> None:
    stored, size = pixels(large), stored_bytes(large)
    Path(large.source, "mug").rename(Path(large.source, "cup"))
    found = large.ingest(max_deleted_share=1.0)
    assert (found.new, found.deleted, found.live) == (12, 12, 12)
    assert pixels(large) == {key.replace("mug", "cup"): data for key, data in stored.items()}
    assert stored_bytes(large) < 1.2 * size
    with catalogue.workbench(open_lake(large.lake_uri)) as sql:
        places = sql.execute("SELECT image_key, sha256 FROM stored_pictures").fetchall()
    assert dict(places) == large.live()


def test_a_changed_pattern_holds_for_every_known_picture(large: Shop) -> None:
    size, stored = stored_bytes(large), pixels(large)

    def products() -> set[str | None]:
        return {row["product_id"] for row in large.sql("SELECT product_id FROM images")}

    assert products() == {None}
    assert large.ingest(product_id_pattern=r"^(\w+)/").renamed == 12
    assert products() == {"mug"}
    found = large.ingest(product_id_pattern=r"(\d)\.png$")
    assert (found.renamed, found.unchanged) == (12, 12)
    assert products() == set("0123456789")
    large.put("mug/99.png", picture(99))
    assert large.ingest().renamed == 0  # the lake's pattern holds where none is given
    assert large.sql("SELECT product_id FROM images WHERE image_key = 'mug/99.png'") == [{"product_id": "9"}]
    assert pixels(large).items() >= stored.items()
    assert stored_bytes(large) < 1.5 * size


# Slow links


def test_a_link_slower_than_a_stall_is_read_to_its_end(remote: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lake.s3.STALL_SECONDS", 1.0)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")  # another store, with that limit
    for number in range(8):
        remote.put(f"new/{number}.png", picture(60 + number, 90))
    weight = sum(len(data) for key, data in remote.s3.objects.items() if "/new/" in key)
    remote.s3.bytes_per_second = weight / 3
    assert remote.ingest(fetch_threads=8).ingested == 8


def test_fewer_are_in_flight_after_a_stall_and_more_again_while_all_goes_well() -> None:
    flow = Flow(16)
    with flow.slot() as first, flow.slot() as second:
        flow.stalled(first)
        flow.stalled(second)  # of the same moment
    assert flow.allowed == 8
    for _ in range(3):
        with flow.slot() as slot:
            flow.stalled(slot)
    assert flow.allowed == 1
    for _ in range(200):
        flow.went_well()
    assert flow.allowed == 16
