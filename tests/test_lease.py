"""One writer at a time: who may write, when a dead one is replaced, and what a paused one that wakes up can't do."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lake import catalogue, lease
from lake.errors import LakeBusy, LeaseLost, StoreUnavailable
from lake.lake import Lake, open_lake
from lake.lease import Lease, acquire, held_by, leased
from lake.presence import OpenRun, Presence, Writer, dead_runs, forget
from lake.schemas import IMAGES
from lake.tables import Table

PATIENTLY = timedelta(seconds=120)
PAUSED_SECONDS = 0.5  # without a sign of life after which a paused run counts as dead


@pytest.fixture
def lake(root: str) -> Lake:
    return open_lake(root, create=True)


@pytest.fixture
def runs() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def alive(runs: ExitStack, lake: Lake, run_id: str) -> Presence:
    presence = Presence(lake.store, run_id, f"night {run_id}")
    presence.start()
    runs.callback(presence.stop)
    return presence


def elsewhere(lake: Lake, run_id: str, lease_seconds: float) -> Presence:
    """A run on a machine that we can't look into; it gives no sign of life yet."""
    presence = Presence(lake.store, run_id, f"night {run_id}", lease_seconds=lease_seconds)
    presence._writer = replace(presence._writer, process=None)
    return presence


def paused(lake: Lake, run_id: str) -> Presence:
    """A run elsewhere that gives one sign of life and no more."""
    presence = elsewhere(lake, run_id, PAUSED_SECONDS)
    presence.beat()
    return presence


def row(table: Table, run_id: str) -> Any:
    values = dict.fromkeys(table.schema.names) | {"sha256": run_id}
    values |= {"image_key": run_id, "status": "ok", "ingested_at": datetime.now(UTC)} if table.schema is IMAGES else {}
    values |= {table.partition_by: 1} if table.partition_by else {}
    partition = {table.partition_by: "1"} if table.partition_by else None
    return table.write_part(pa.Table.from_pylist([values], schema=table.schema), run_id, partition=partition)


def take_over(runs: ExitStack, lake: Lake) -> Lease:
    return acquire(lake, alive(runs, lake, "second"), wait=PATIENTLY)


def test_a_second_run_is_told_at_once_who_writes_and_since_when(lake: Lake, runs: ExitStack) -> None:
    acquire(lake, alive(runs, lake, "first"))
    with pytest.raises(LakeBusy, match=r"is being written by night first since 20\d\d-\d\d-\d\d \d\d:\d\d UTC"):
        acquire(lake, alive(runs, lake, "second"))


def test_a_second_run_waits_and_begins_when_the_first_is_done(lake: Lake, runs: ExitStack) -> None:
    first = acquire(lake, alive(runs, lake, "first"))
    waiting: list[Writer] = []

    def say(writer: Writer) -> None:
        waiting.append(writer)
        first.release()

    second = acquire(lake, alive(runs, lake, "second"), wait=PATIENTLY, on_wait=say)
    assert [writer.run_id for writer in waiting] == ["first"]
    assert second.epoch == first.epoch + 1


def test_waiting_has_a_limit(lake: Lake, runs: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.01)
    acquire(lake, alive(runs, lake, "first"))
    with pytest.raises(LakeBusy, match="waited 0 minutes"):
        acquire(lake, alive(runs, lake, "second"), wait=timedelta(milliseconds=50))


def test_a_run_without_signs_of_life_is_replaced(lake: Lake, runs: ExitStack) -> None:
    first = acquire(lake, paused(lake, "first"))
    second = take_over(runs, lake)
    assert second.epoch == first.epoch + 1
    with pytest.raises(LeaseLost, match="another run took over"):
        first.check()
    second.check()


@pytest.mark.parametrize("how", ["refused", "late"])
def test_a_renewal_that_fails_or_arrives_late_never_leads_to_two_writers(
    lake: Lake, runs: ExitStack, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    first, put = elsewhere(lake, "first", PAUSED_SECONDS), lake.store.put
    holding, arrives = threading.Event(), threading.Event()

    def disturbed(path: str, data: bytes, *, durable: bool = True) -> None:
        if path == "running/first.json" and holding.is_set():
            if how == "refused" and not arrives.is_set():
                raise StoreUnavailable("503")
            arrives.wait(60)
        put(path, data, durable=durable)

    monkeypatch.setattr(lake.store, "put", disturbed)
    first.start()
    runs.callback(first.stop)
    old = acquire(lake, first)
    holding.set()
    part, promoted = row(old.lake.images, "first"), old.lake.looks.draft()
    promoted.seal({})
    new = take_over(runs, lake)
    arrives.set()
    first.beat()  # what was refused succeeds, what was late is there: its sign of life is fresh again
    with pytest.raises(LakeBusy, match="night second"):
        acquire(lake, alive(runs, lake, "third"))
    new.check()
    with pytest.raises(LeaseLost):
        old.check()
    with pytest.raises(LeaseLost):
        old.lake.images.commit([part], application_id="first")
    with pytest.raises(LeaseLost):
        old.lake.looks.append("promote", promoted.version, based_on=None)
    assert new.lake.images.commit([row(new.lake.images, "second")], application_id="second")
    assert lake_rows(lake, "images") == ["second"]


def test_a_run_that_gives_signs_of_life_is_never_replaced(lake: Lake, runs: ExitStack) -> None:
    presence = elsewhere(lake, "first", 2)
    presence.start()
    runs.callback(presence.stop)
    first = acquire(lake, presence)
    with pytest.raises(LakeBusy):
        acquire(lake, alive(runs, lake, "second"), wait=timedelta(seconds=5))
    first.check()


def test_a_killed_process_of_this_machine_is_replaced_at_once(tmp_path: Path, runs: ExitStack) -> None:
    lake = open_lake(str(tmp_path), create=True)
    killed = (
        "import os, sys; from lake.lake import open_lake; from lake.lease import acquire; "
        "from lake.presence import Presence; "
        "lake = open_lake(sys.argv[1]); presence = Presence(lake.store, 'first', 'night'); presence.start(); "
        "acquire(lake, presence); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", killed, str(tmp_path)], check=False)
    writer = held_by(lake.store)
    assert writer is not None and writer.run_id == "first"
    assert acquire(lake, alive(runs, lake, "second")).epoch == 2


def test_a_paused_run_that_wakes_up_changes_nothing(lake: Lake, runs: ExitStack) -> None:
    old = acquire(lake, paused(lake, "first")).lake
    logs = (old.looks, old.models, old.indexes)
    tables = (old.images, old.embeddings, old.scores)
    drafts = {versions.kind: versions.draft() for versions in logs}
    for draft in drafts.values():
        draft.seal({})
    parts = {table.name: row(table, "first") for table in tables}
    take_over(runs, lake)
    for table in tables:
        with pytest.raises(LeaseLost):
            table.commit([parts[table.name]], application_id="first")
        assert lake_rows(lake, table.name) == []
    for versions in logs:
        # As a run does that reads the log when it wakes up, and as one that had read it before.
        for based_on in (versions.newest(), None):
            with pytest.raises(LeaseLost):
                versions.append("publish", drafts[versions.kind].version, based_on=based_on)
        assert versions.entries() == [] and versions.newest() is None


@pytest.mark.parametrize("name", ["images", "embeddings", "scores"])
def test_a_run_that_was_paused_in_the_middle_of_its_commit_changes_nothing(
    lake: Lake, runs: ExitStack, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    old = acquire(lake, paused(lake, "first")).lake
    table: Table = getattr(old, name)
    part, append = row(table, "first"), Table._append

    def sleeping(self: Table, *arguments: Any) -> None:
        if self is table:
            take_over(runs, lake)
        append(self, *arguments)

    monkeypatch.setattr(Table, "_append", sleeping)
    with pytest.raises(LeaseLost):
        table.commit([part], application_id="first")
    assert lake_rows(lake, name) == []


@pytest.mark.parametrize("name", ["images", "embeddings", "scores"])
def test_a_commit_that_comes_just_before_the_fence_counts(
    lake: Lake, runs: ExitStack, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    table: Table = getattr(acquire(lake, paused(lake, "first")).lake, name)
    part, append = row(table, "first"), Table._append

    def quicker(self: Table, delta: Any, parts: Any, transactions: Any) -> None:
        if self.name == name and not parts:
            monkeypatch.setattr(Table, "_append", append)
            assert table.commit([part], application_id="first")
        append(self, delta, parts, transactions)

    monkeypatch.setattr(Table, "_append", quicker)
    take_over(runs, lake)
    assert lake_rows(lake, name) == ["first"]
    with pytest.raises(LeaseLost):
        table.commit([row(table, "late")], application_id="late")


def test_after_a_run_that_failed_what_it_still_had_on_its_way_is_refused(lake: Lake, runs: ExitStack) -> None:
    failed: list[Lake] = []
    with pytest.raises(RuntimeError), leased(lake, "first") as writable:
        failed.append(writable)
        raise RuntimeError("no answer to a commit")
    acquire(lake, alive(runs, lake, "second"))  # at once: the first one has ended
    with pytest.raises(LeaseLost):
        failed[0].images.commit([row(lake.images, "late")], application_id="late")


def test_a_store_that_does_not_answer_for_a_while_ends_no_waiting(
    lake: Lake, runs: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = acquire(lake, alive(runs, lake, "first"))
    second, names = alive(runs, lake, "second"), lake.store.names

    def away(_prefix: str) -> list[str]:
        monkeypatch.setattr(lake.store, "names", names)
        first.release()
        raise StoreUnavailable("it did not answer")

    monkeypatch.setattr(lake.store, "names", away)
    assert acquire(lake, second, wait=PATIENTLY).epoch == 2
    monkeypatch.setattr(lake.store, "names", away)
    with pytest.raises(StoreUnavailable):
        acquire(lake, second)


@pytest.mark.parametrize("wait", [timedelta(0), PATIENTLY])
def test_a_claim_whose_answer_was_lost_is_ones_own(
    lake: Lake, runs: ExitStack, monkeypatch: pytest.MonkeyPatch, wait: timedelta
) -> None:
    put_new = lake.store.put_new

    def lost(path: str, data: bytes) -> None:
        put_new(path, data)
        raise StoreUnavailable("no answer to a put")

    monkeypatch.setattr(lake.store, "put_new", lost)
    waited_for: list[Writer] = []
    assert acquire(lake, alive(runs, lake, "first"), wait=wait, on_wait=waited_for.append).epoch == 1
    assert waited_for == []


def test_a_run_does_not_wait_for_its_own_claim_that_it_could_not_read_back(
    lake: Lake, runs: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.01)
    put_new, get = lake.store.put_new, lake.store.get

    def lost(path: str, data: bytes) -> None:
        put_new(path, data)
        monkeypatch.setattr(lake.store, "put_new", put_new)
        raise StoreUnavailable("no answer to a put")

    def away(_path: str) -> bytes:
        monkeypatch.setattr(lake.store, "get", get)
        raise StoreUnavailable("no answer to a get")

    monkeypatch.setattr(lake.store, "put_new", lost)
    monkeypatch.setattr(lake.store, "get", away)
    waited_for: list[Writer] = []
    held = acquire(lake, alive(runs, lake, "first"), wait=PATIENTLY, on_wait=waited_for.append)
    held.check()
    assert waited_for == []


def test_a_run_that_fails_right_after_its_claim_is_waited_for_by_nobody(
    lake: Lake, runs: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError), leased(lake, "failed"):
        raise RuntimeError

    def away(_lake: Lake) -> None:
        raise StoreUnavailable("no answer to a fence")

    with monkeypatch.context() as patched:
        patched.setattr(Lake, "fence", away)
        with pytest.raises(StoreUnavailable):
            acquire(lake, alive(runs, lake, "first"))
    assert acquire(lake, alive(runs, lake, "second")).epoch == 3


def test_a_missing_sign_of_life_has_to_stay_missing(lake: Lake, runs: ExitStack) -> None:
    first = elsewhere(lake, "first", 3)
    first.start()
    runs.callback(first.stop)
    held = acquire(lake, first)
    forget(lake.store, [first.writer])  # as by one that took it for dead; it is given again within half a second
    with pytest.raises(LakeBusy):
        acquire(lake, alive(runs, lake, "second"))
    held.check()


def test_a_process_of_another_user_is_there(lake: Lake, runs: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    acquire(lake, alive(runs, lake, "first"))

    def of_another(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr("os.kill", of_another)
    monkeypatch.setattr("lake.presence._process", lambda _pid: None)  # and its entry in /proc is hidden
    with pytest.raises(LakeBusy):
        acquire(lake, alive(runs, lake, "second"))


def test_what_was_committed_before_the_takeover_stays(lake: Lake, runs: ExitStack) -> None:
    old = acquire(lake, paused(lake, "first")).lake
    assert old.images.commit([row(old.images, "first")], application_id="first")
    new = take_over(runs, lake).lake
    assert new.images.commit([row(new.images, "second")], application_id="second")
    assert not old.images.commit([row(old.images, "first")], application_id="first")  # its answer was lost: no error
    assert lake_rows(lake, "images") == ["first", "second"]


def test_a_takeover_is_seen_by_no_reader(lake: Lake, runs: ExitStack) -> None:
    old = acquire(lake, paused(lake, "first")).lake
    draft = old.models.draft()
    draft.seal({"trained": True})
    old.models.append("promote", draft.version, based_on=None, reason="the first")
    before = lake.models.entries(), lake.models.newest(), lake.serving()
    new = take_over(runs, lake).lake
    assert (lake.models.entries(), lake.models.newest(), lake.serving()) == before
    [described] = catalogue.describe_versions(lake.models, 1)
    assert (described["status"], described["reason"]) == ("accepted", "the first")
    second = new.models.draft()
    second.seal({"trained": True})
    assert new.models.append("promote", second.version, based_on=before[1]).current == second.version
    # A person's word needs no lease, whoever writes.
    assert lake.models.append("roll back", 1, based_on=lake.models.newest()).current == 1


def test_a_lease_survives_pickling_of_its_lake(lake: Lake, runs: ExitStack) -> None:
    import pickle

    held = acquire(lake, alive(runs, lake, "first"))
    copy = pickle.loads(pickle.dumps(held.lake))  # noqa: S301 (our own bytes)
    assert (copy.uri, copy.epoch) == (lake.uri, 1)
    held_parts = (copy.images, copy.embeddings, copy.scores, copy.looks, copy.models, copy.indexes)
    assert [part.epoch for part in held_parts] == [1] * 6


def test_of_many_runs_one_writes_at_a_time(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.01)
    writing, most, turns = 0, 0, 0
    lock = threading.Lock()

    def work(number: int) -> None:
        nonlocal writing, most, turns
        with ExitStack() as stack:
            held = acquire(lake, alive(stack, lake, f"run-{number}"), wait=PATIENTLY)
            with lock:
                writing, turns = writing + 1, turns + 1
                most = max(most, writing)
            held.check()
            time.sleep(0.01)
            with lock:
                writing -= 1
            held.release()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(18)))
    assert (turns, most) == (18, 1)
    assert len(lake.store.names("lease")) <= 2 * lease.EPOCHS_KEPT + 2


def test_a_claim_that_slept_through_many_epochs_is_no_lease(
    lake: Lake, runs: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper, put_new = alive(runs, lake, "sleeper"), lake.store.put_new

    def slept(path: str, data: bytes) -> None:
        monkeypatch.setattr(lake.store, "put_new", put_new)
        for _ in range(lease.EPOCHS_KEPT + 3):
            with leased(lake, "another"):
                pass
        put_new(path, data)

    monkeypatch.setattr(lake.store, "put_new", slept)
    with pytest.raises(LeaseLost):
        acquire(lake, sleeper)


def test_dead_runs_are_found_with_what_they_had_begun(lake: Lake, runs: ExitStack) -> None:
    dead = paused(lake, "dead")
    dead.opened(OpenRun("dead", None, "nightly", "shop", datetime.now(UTC).isoformat()))
    dead.opened(OpenRun("part", "dead", "score-catalogue", None, datetime.now(UTC).isoformat()))
    dead.beat()
    other = alive(runs, lake, "living")
    deadline = time.monotonic() + 60
    while not (listed := dead_runs(other)) and time.monotonic() < deadline:
        time.sleep(0.05)
    [(writer, last_seen)] = listed
    assert [(run.run_id, run.flow) for run in writer.open_runs] == [("dead", "nightly"), ("part", "score-catalogue")]
    assert abs(last_seen - datetime.now(UTC)) < timedelta(minutes=5)
    forget(lake.store, [writer])
    assert dead_runs(other) == []


def test_a_run_that_ended_leaves_no_sign_of_life(lake: Lake) -> None:
    with leased(lake, "collect") as writable:
        assert writable.epoch == 1
        assert len(lake.store.names("running")) == 1
    assert lake.store.names("running") == []
    assert held_by(lake.store) is None


def lake_rows(lake: Lake, table: str) -> list[str]:
    with catalogue.workbench(lake) as sql:
        history = {"images": "image_history", "embeddings": "embedding_history", "scores": "score_history"}[table]
        return [content for (content,) in sql.execute(f"SELECT sha256 FROM {history} ORDER BY 1").fetchall()]
