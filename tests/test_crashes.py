"""kill -9 of any one and of all, runs that overlap, a worker that goes: the next night runs, and is right."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lake import catalogue
from lake.lease import held_by, leased
from tests.installation import Installation, installed
from tests.small_lake import init_lake
from vitrine.demo.draw_catalogue import draw_catalogue, write_labels

pytestmark = pytest.mark.prefect

PRODUCTS, VIEWS = 40, 2


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A shop whose nights take many small steps, so that each can be met in the middle of its work."""
    directory = tmp_path_factory.mktemp("crashes")
    drawn = draw_catalogue(directory / "pictures", products=PRODUCTS, views=VIEWS, size=48, broken=0)
    write_labels(directory / "labels.csv", drawn)
    init_lake(str(directory / "lake"), model=True)
    settings = {
        "VITRINE_LAKE": str(directory / "lake"),
        "VITRINE_SOURCE": str(directory / "pictures"),
        "VITRINE_LABELS": str(directory / "labels.csv"),
        "VITRINE_SHARD_PICTURES": "4",
        "VITRINE_MINIMUM_BALANCED_ACCURACY": "0",
        "VITRINE_LEASE_SECONDS": "10",
    }
    with installed(directory, settings) as here:
        here.unschedule("nightly")
        yield here


def test_after_a_killed_run_the_next_night_is_right(shop: Installation) -> None:
    night = shop.run("nightly")
    writer = in_the_middle(shop)
    os.kill(writer.pid, signal.SIGKILL)
    shop.wait_for_state(night, "Crashed")
    complete_night(shop)
    assert statuses(shop, writer.run_id) == ["crashed"]


def test_after_server_worker_and_run_were_killed_the_next_night_is_right(shop: Installation) -> None:
    change_every_picture(shop)
    shop.run("nightly")
    writer = in_the_middle(shop)
    shop.kill("server", "worker")
    os.kill(writer.pid, signal.SIGKILL)
    shop.start("server", "worker")
    complete_night(shop)
    assert statuses(shop, writer.run_id) == ["crashed"]


def test_a_night_goes_on_when_its_worker_is_killed(shop: Installation) -> None:
    change_every_picture(shop)
    night = shop.run("nightly")
    writer = in_the_middle(shop)
    shop.kill("worker")
    shop.wait_until(lambda: held_by(shop.lake.store) is None, "end of the night")
    assert statuses(shop, writer.run_id) == ["completed"]
    shop.wait_for_state(night, "Completed")
    check(shop)
    shop.start("worker")


def test_a_paused_night_that_wakes_up_after_the_next_took_over_changes_nothing(shop: Installation) -> None:
    change_every_picture(shop)
    first = shop.run("nightly")
    writer = in_the_middle(shop)
    os.kill(writer.pid, signal.SIGSTOP)
    try:
        complete_night(shop)
        entries = shop.lake.looks.entries(), shop.lake.models.entries(), shop.lake.indexes.entries()
    finally:
        os.kill(writer.pid, signal.SIGCONT)
    shop.wait_for_state(first, "Failed", "Completed", "Crashed")
    assert (shop.state(first), "another run took over" in shop.message(first)) == ("Failed", True)
    assert statuses(shop, writer.run_id) == ["failed"]  # not crashed: it tells itself what became of it
    assert (shop.lake.looks.entries(), shop.lake.models.entries(), shop.lake.indexes.entries()) == entries
    check(shop)


def test_a_night_outlives_its_server_for_a_while(shop: Installation) -> None:
    change_every_picture(shop)
    night = shop.run("nightly")
    in_the_middle(shop)
    shop.kill("server")
    shop.start("server")  # some seconds, in which the night goes on or asks for it in vain
    shop.wait_for_state(night, "Completed", "Failed", "Crashed")
    assert shop.state(night) == "Completed", shop.message(night)
    check(shop)


def test_a_waiting_night_can_be_cancelled(shop: Installation) -> None:
    with leased(shop.lake, "another night"):
        night = shop.run("nightly")
        shop.wait_for_state(night, "Waiting")
        assert shop.message(night).startswith("waiting for another night since 20")
        shop.prefect("flow-run", "cancel", night)
        shop.wait_for_state(night, "Cancelled")
    shop.wait_until(lambda: not shop.lake.store.names("running"), "end of the cancelled night")
    complete_night(shop)


def test_a_second_night_waits_for_the_first_and_does_no_work_twice(shop: Installation) -> None:
    change_every_picture(shop)
    first = shop.run("nightly")
    in_the_middle(shop)
    second = shop.run("nightly")
    shop.wait_for_state(second, "Waiting", "Completed")
    if shop.state(second) == "Waiting":
        assert "waiting for nightly since" in shop.message(second)
    for night in (first, second):
        shop.wait_for_state(night, "Completed")
    check(shop)


@pytest.mark.parametrize("first", ["nightly", "retrain"])
def test_a_night_and_a_retraining_that_overlap_leave_the_newest_model_serving(shop: Installation, first: str) -> None:
    change_every_picture(shop)
    promoted = shop.lake.models.current()
    asked = {"nightly": {}, "retrain": {"force": "to see the promotion through", "epochs": 1}}
    runs = [shop.run(first, **asked[first])]
    in_the_middle(shop, "nightly" if first == "nightly" else "retrain-model")
    other = "retrain" if first == "nightly" else "nightly"
    runs.append(shop.run(other, **asked[other]))
    for run in runs:
        shop.wait_for_state(run, "Completed", "Failed", "Crashed")
        assert shop.state(run) == "Completed", shop.message(run)
    assert shop.lake.models.current() != promoted
    complete_night(shop)  # what the retraining scored may lack what the night brought


def test_a_run_from_the_command_line_is_told_at_once_who_writes(shop: Installation) -> None:
    with leased(shop.lake, "a night"):
        done = subprocess.run(
            [sys.executable, "-m", "vitrine", "nightly"],
            env=shop.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"vitrine: {shop.lake.uri} is being written by a night since 20")


def test_a_cancelled_night_is_cancelled_everywhere_and_lets_the_next_one_in(shop: Installation) -> None:
    change_every_picture(shop)
    night = shop.run("nightly")
    writer = in_the_middle(shop)
    with stopped(writer.pid):  # where the machine is busy the command takes longer than the rest of the night
        shop.prefect("flow-run", "cancel", night)
    shop.wait_for_state(night, "Cancelled")
    shop.wait_until(lambda: held_by(shop.lake.store) is None, "free lease")
    assert statuses(shop, writer.run_id) == ["cancelled"]
    complete_night(shop)


def test_a_good_night_says_on_prefects_page_what_it_did(shop: Installation) -> None:
    change_every_picture(shop)
    night = complete_night(shop)
    pictures = PRODUCTS * VIEWS
    found = shop.get(f"/flow_runs/{night}")
    assert found["name"].startswith("nightly 20") and found["name"].endswith(" lake")
    ingested = f"{pictures} pictures listed: 0 unchanged, {pictures} ingested, 0 rejected; 0 deleted"
    scored = f"{pictures} different pictures: {pictures} embedded under look 1, {pictures} scored under model "
    assert found["state"]["message"].startswith(f"{ingested}; {scored}")
    lines = whole_log(shop, night, f"Finished in state Completed({ingested!r}"[:-1])
    for begins in (f"ingest: {ingested}", f"score: {scored}", "index: index "):
        assert sum(line.startswith(begins) for line in lines) == 1, lines


def test_a_failed_night_names_the_unit_that_failed_and_gives_its_reason(shop: Installation) -> None:
    night = shop.run("nightly", source=str(shop.directory / "nowhere"))
    shop.wait_for_state(night, "Failed")
    reason = f"the source {shop.directory / 'nowhere'} does not exist: expected a directory or s3://bucket/prefix"
    assert shop.message(night) == reason
    lines = whole_log(shop, night, f"Finished in state Failed({reason!r}")
    unit, run = (line for line in lines if reason in line)  # one line each, and no more
    assert unit.startswith("Finished in state Failed('Task run encountered an exception SourceError: "), lines
    assert run.startswith(f"Finished in state Failed({reason!r}"), lines
    assert not any("Traceback" in line for line in lines), lines
    complete_night(shop)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process does nothing while the block runs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def whole_log(shop: Installation, run: str, last: str) -> list[str]:
    """The run's log, once its last line, which begins so, has reached the server."""
    shop.wait_until(lambda: any(line.startswith(last) for line in shop.lines(run)), "last line of the log")
    return shop.lines(run)


def in_the_middle(shop: Installation, what: str = "nightly") -> Any:
    """The process of the run that writes, once parts of its work are there that no commit names."""
    writer = shop.writer(what)
    tables = {"images": shop.lake.images, "embeddings": shop.lake.embeddings, "scores": shop.lake.scores}
    before = {file.path for table in tables.values() for file in table.files()}

    def has_begun() -> bool:
        there = {name for table in tables for name in shop.lake.store.names(table)}
        return any(name.endswith(".parquet") for name in there - before)

    shop.wait_until(has_begun, f"{what} in the middle of its work")
    return writer


def change_every_picture(shop: Installation) -> None:
    """Another content of each picture, which the next night has to read and to score."""
    for path in (shop.directory / "pictures").rglob("*.jpg"):
        path.write_bytes(path.read_bytes() + b"\0")


def complete_night(shop: Installation) -> str:
    """A night that must complete, and leave everything right; its id."""
    night = shop.run("nightly")
    shop.wait_for_state(night, "Completed", "Failed", "Crashed", "Cancelled")
    assert shop.state(night) == "Completed", shop.message(night)
    check(shop)
    return night


def check(shop: Installation) -> None:
    """Each picture of the source is there once, embedded and scored once by each model, indexed, and all serve."""
    keys = {path.relative_to(shop.directory / "pictures").as_posix() for path in pictures(shop)}
    lake = shop.lake
    with catalogue.connect(lake) as sql:
        live = [key for (key,) in sql.execute("SELECT image_key FROM images").fetchall()]
        embedded = [key for (key,) in sql.execute("SELECT image_key FROM embeddings").fetchall()]
        scored = [key for (key,) in sql.execute("SELECT image_key FROM scores").fetchall()]
        doubled = sql.execute(
            "SELECT sha256, model_version FROM score_history GROUP BY ALL HAVING count(*) > 1 UNION ALL "
            "SELECT sha256, look_version FROM embedding_history GROUP BY ALL HAVING count(*) > 1"
        ).fetchall()
    assert sorted(live) == sorted(embedded) == sorted(scored) == sorted(keys)
    assert doubled == []
    serving = lake.serving()
    assert serving.index_version is not None
    assert (lake.looks.current(), lake.models.current()) == (serving.look_version, serving.model_version)
    assert lake.indexes.manifest(serving.index_version).properties["rows"] == len(keys)


def pictures(shop: Installation) -> list[Path]:
    return sorted((shop.directory / "pictures").rglob("*.jpg"))


def statuses(shop: Installation, run_id: str) -> list[str]:
    with catalogue.connect(shop.lake) as sql:
        found = sql.execute("SELECT status FROM runs WHERE run_id = ?", [run_id]).fetchall()
    return [status for (status,) in found]
