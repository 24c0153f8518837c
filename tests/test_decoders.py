"""What a picture does to its decoder, with processes that really die: it costs that picture, and nothing else."""

from __future__ import annotations

import dataclasses
import io
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lake import catalogue
from lake.lake import open_lake
from model.errors import Undecodable
from tasks.decoders import pool
from tasks.decoders.pool import Decoders, DecodingLimits
from tasks.pictures import read_picture
from tests.small_lake import INGEST, ingest

LIMITS = DecodingLimits(max_pixels=10**6, decode_bytes=2**30, decode_seconds=60)
DEADLY = {
    b"SEGV": "decoding it ends its process: SIGSEGV",
    b"ABRT": "decoding it ends its process: SIGABRT",
    b"EXIT": "decoding it ends its process: exit code 3",
    b"HOG": "too large: decoding it needs more memory than it may have",
}


def png(seed: int, side: int = 20) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def processes() -> Iterator[pool._Here]:
    """Decoders that obey the bytes after a picture; one server for all tests here."""
    here, before = pool._Here(), pool.READER
    pool.READER = "tests.hostile_reader:read"
    here.server()
    pool.READER = before
    yield here
    here.close()


@pytest.fixture
def decoders(processes: pool._Here, monkeypatch: pytest.MonkeyPatch) -> Decoders:
    monkeypatch.setattr(pool, "_here", processes)
    monkeypatch.setattr(pool, "READER", "tests.hostile_reader:read")
    return pool.decoders(LIMITS)


def reason(decoders: Decoders, data: bytes) -> str:
    with pytest.raises(Undecodable) as refusal:
        decoders.read(data, "mug.png")
    return refusal.value.reason


def test_a_picture_comes_back_as_if_it_had_been_read_here(decoders: Decoders) -> None:
    for data in (png(1), png(1, side=300), png(1)[:-12]):
        assert decoders.read(data, "mug.png") == read_picture(data)
    assert reason(decoders, b"hello") == "not a picture: it begins with 'hello'"
    assert reason(decoders, png(2, side=1001)) == "too large: 1001 × 1001 pixels, at most 1 million"


@pytest.mark.parametrize("harm", DEADLY)
def test_a_picture_that_ends_its_decoder_is_refused_by_name(
    decoders: Decoders, harm: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert reason(decoders, png(1) + harm) == DEADLY[harm]
    if harm != b"HOG":
        assert "decoding mug.png ended its process" in caplog.text
    assert decoders.read(png(1), "mug.png") == read_picture(png(1))


def test_a_picture_that_hangs_is_refused_after_its_time(decoders: Decoders) -> None:
    hasty = pool.decoders(dataclasses.replace(LIMITS, decode_seconds=0.5))
    started = time.monotonic()
    assert reason(hasty, png(1) + b"HANG") == "decoding it took longer than 0.5 s"
    assert time.monotonic() - started < 20
    assert hasty.read(png(1), "mug.png") == read_picture(png(1))


def test_others_are_read_while_some_end_their_decoders(decoders: Decoders) -> None:
    harms = [b"", b"SEGV", b"", b"ABRT", b""] * 8

    def outcome(number: int) -> object:
        try:
            return decoders.read(png(number) + harms[number], str(number))
        except Undecodable as error:
            return error.reason

    with ThreadPoolExecutor(4) as threads:
        outcomes = list(threads.map(outcome, range(len(harms))))
    assert outcomes == [DEADLY.get(harm) or read_picture(png(number)) for number, harm in enumerate(harms)]


def test_a_picture_whose_decoder_was_killed_by_somebody_else_is_read_by_the_next(
    decoders: Decoders, processes: pool._Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    processes.close()  # the server has the environment of its start
    processes.forget()
    monkeypatch.setenv("HOSTILE_FOLDER", str(tmp_path))
    assert pool.decoders(LIMITS).read(png(1) + b"ONCE", "mug.png").width == 20
    assert len(list(tmp_path.iterdir())) == 1


def test_all_decoders_together_take_no_more_memory_than_allowed(
    decoders: Decoders, processes: pool._Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    processes.close()
    processes.forget()
    monkeypatch.setenv("HOSTILE_FOLDER", str(tmp_path))
    narrow, data = dataclasses.replace(LIMITS, decode_bytes=150 * 2**20), png(1) + b"ALONE"
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(lambda n: pool.decoders(narrow).read(data, str(n)), range(12)))
    wide = pool.decoders(LIMITS)  # without the bound they would have met
    with ThreadPoolExecutor(4) as threads:
        met = list(threads.map(lambda n: _meets(wide, data, n), range(12)))
    assert any(met)


def _meets(decoders: Decoders, data: bytes, number: int) -> bool:
    try:
        decoders.read(data, str(number))
    except Undecodable as error:
        return error.reason == "two at once"
    return False


def test_what_a_codec_writes_is_told_of_its_picture_and_not_to_the_terminal(
    decoders: Decoders, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        remark = decoders.read(png(1) + b"CHATTER", "mug.png").remark
    assert remark == "a codec says: TIFFReadDirectory: something odd[31m (and 1023 lines more)"
    assert "of mug.png a codec says" in caplog.text
    assert decoders.read(png(1), "mug.png").remark is None
    assert capfd.readouterr().err == ""


def test_decoders_that_left_and_a_server_that_is_gone_are_replaced(decoders: Decoders, processes: pool._Here) -> None:
    decoders.read(png(1), "mug.png")
    for idle in list(decoders._idle):
        os.kill(idle._process, signal.SIGTERM)
    assert decoders.read(png(1), "mug.png") == read_picture(png(1))
    processes.server()._popen.kill()
    processes.server()._popen.wait()
    assert decoders.read(png(2), "mug.png") == read_picture(png(2))


def test_a_night_that_is_killed_leaves_no_decoder_behind(tmp_path: Path) -> None:
    program = (
        "from tasks.decoders import pool; pool.READER = 'tests.hostile_reader:read'; import sys, pathlib, threading\n"
        "limits = pool.DecodingLimits(10**6, 2**30, 600)\n"
        "data = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "pool.decoders(limits).read(data[:-4], 'a'); print(pool._here.server()._popen.pid, flush=True)\n"
        "pool.decoders(limits).read(data, 'a')\n"
    )
    picture = tmp_path / "hang.png"
    picture.write_bytes(png(1) + b"HANG")
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", program, str(picture)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=root) as night:
        assert night.stdout is not None
        server = int(night.stdout.readline())
        night.kill()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _runs(server):
        time.sleep(0.05)
    assert not _runs(server)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_in_a_night_each_harmful_picture_is_one_rejected_row_and_so_it_stays(
    decoders: Decoders, tmp_path: Path
) -> None:
    shop, lake = tmp_path / "shop", str(tmp_path / "lake")
    shop.mkdir()
    open_lake(lake, create=True)
    for number in range(30):
        (shop / f"{number:02d}.png").write_bytes(png(number))
    for harm in DEADLY:
        (shop / f"{harm.decode()}.png").write_bytes(png(1) + harm)
    (shop / "hang.png").write_bytes(png(1) + b"HANG")
    config = dataclasses.replace(INGEST, decode_seconds=2.0)
    first = ingest(lake, str(shop), config)
    assert (first.listed, first.ingested, first.rejected, first.failed) == (35, 30, 5, 0)
    with catalogue.connect(open_lake(lake)) as sql:
        rows = dict(sql.execute("SELECT image_key, reason FROM rejected").fetchall())
    assert rows == {
        **{f"{harm.decode()}.png": text for harm, text in DEADLY.items()},
        "hang.png": "decoding it took longer than 2 s",
    }
    (shop / "again.png").write_bytes(png(1) + b"SEGV")
    (shop / "new.png").write_bytes(png(99))
    second = ingest(lake, str(shop), config)
    assert (second.unchanged, second.ingested, second.rejected) == (35, 1, 1)
