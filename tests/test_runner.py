"""One contract over every runner: order, bounds, retries, errors; and that Ctrl-C waits for no shard's end."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from lake.errors import LakeError, StoreUnavailable
from tasks import progress
from tasks.ingest.pipeline import Lanes, Pipeline
from tasks.runner import Inline, LeaseTerms, Runner

Body = Callable[[Runner], Any]
Carry = Callable[[Body], Any]  # carries a body out on a runner


@pytest.fixture(params=["inline", pytest.param("on Prefect", marks=pytest.mark.prefect)])
def carry_out(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Carry:
    """The way to have a body run on the runner."""
    if request.param == "inline":
        return lambda body: body(Inline(retry_seconds=0.01))
    request.getfixturevalue("prefect_server")
    from prefect import flow

    from flows import runners

    monkeypatch.setattr(runners, "RETRY_SECONDS", 0.01)

    @flow(name="contract")
    def contract(body: Any) -> Any:
        return body(runners.PrefectRunner(LeaseTerms()))

    return contract


class Counted:
    """How often units ran, and how many at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.most = 0
        self.begun: list[int] = []

    def __call__(self, number: int, *, seconds: float = 0.0, fails_at: int = -1) -> int:
        with self.lock:
            self.begun.append(number)
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(seconds)
        with self.lock:
            self.now -= 1
        if number == fails_at:
            raise LakeError(f"no {number}")
        return number * number


def counting() -> tuple[Counted, Callable[..., int]]:
    counted = Counted()

    def unit(number: int, **more: Any) -> int:
        return counted(number, **more)

    return counted, unit


@pytest.mark.parametrize("at_once", [1, 3])
def test_results_come_in_the_order_of_the_work_and_no_more_run_at_once_than_asked(
    carry_out: Carry, at_once: int
) -> None:
    counted, unit = counting()
    slow_at_first = partial(unit, seconds=0.02)
    results = carry_out(lambda runner: runner.map(slow_at_first, range(12), at_once=at_once, key="test-progress"))
    assert results == [number * number for number in range(12)]
    assert counted.most <= at_once


def test_what_is_said_and_waited_for_stands_in_the_log_of_this_process(
    carry_out: Carry, caplog: pytest.LogCaptureFixture
) -> None:
    def talk(runner: Runner) -> None:
        runner.say("%d pictures", 3)
        with runner.waiting() as say:
            say("waiting for another run")
            say("waiting for another run")

    with caplog.at_level(logging.INFO):
        carry_out(talk)
    lines = [(line.levelname, line.getMessage()) for line in caplog.records]
    told = [("INFO", "3 pictures"), ("WARNING", "waiting for another run")]  # each once, whatever else Prefect logs
    assert [line for line in lines if line in told] == told


def test_no_work_is_no_result(carry_out: Carry) -> None:
    _, unit = counting()
    assert carry_out(lambda runner: runner.map(unit, [], at_once=2, key="test-progress")) == []


def test_a_unit_is_given_its_arguments_and_its_result_is_handed_back(carry_out: Carry) -> None:
    def pair(first: object, *, second: object) -> tuple[object, object]:
        return first, second

    first, second = object(), object()
    assert carry_out(lambda runner: runner.call(pair, first, second=second)) == (first, second)


def test_what_is_transient_is_tried_three_times_and_nothing_else_is(carry_out: Carry) -> None:
    tried: list[str] = []

    def comes_back(_number: int = 0) -> str:
        tried.append("store")
        if len(tried) < 3:
            raise StoreUnavailable("no answer")
        return "there"

    def wrong(_number: int = 0) -> None:
        tried.append("wrong")
        raise LakeError("no such thing")

    assert carry_out(lambda runner: runner.call(comes_back)) == "there"
    assert tried == ["store"] * 3
    with pytest.raises(LakeError, match="no such thing"):
        carry_out(lambda runner: runner.call(wrong))
    assert tried.count("wrong") == 1


def test_a_store_that_stays_away_is_the_error(carry_out: Carry) -> None:
    tried: list[int] = []

    def away(number: int) -> None:
        tried.append(number)
        raise StoreUnavailable("no answer")

    with pytest.raises(StoreUnavailable, match="no answer"):
        carry_out(lambda runner: runner.map(away, [7], at_once=2, key="test-progress"))
    assert tried == [7, 7, 7]


def test_the_error_of_a_unit_is_raised(carry_out: Carry) -> None:
    _, unit = counting()
    failing = partial(unit, fails_at=5, seconds=0.01)
    with pytest.raises(LakeError, match="no 5"):
        carry_out(lambda runner: runner.map(failing, range(40), at_once=2, key="test-progress"))


def test_after_an_error_nothing_new_begins_while_an_earlier_unit_is_at_work(carry_out: Carry) -> None:
    counted, unit = counting()
    failed = threading.Event()

    def first_is_slow(number: int) -> int:
        if number == 0:
            failed.wait(60)
            time.sleep(1)
        if number == 3:
            failed.set()
        return unit(number, seconds=0.02, fails_at=3)

    with pytest.raises(LakeError, match="no 3"):
        carry_out(lambda runner: runner.map(first_is_slow, range(60), at_once=2, key="test-progress"))
    assert 0 in counted.begun  # what had begun has ended
    assert max(counted.begun) <= 12


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_server")
def test_a_prefect_server_that_goes_away_is_named() -> None:
    import httpx
    from prefect import flow

    from flows.errors import PrefectUnavailable
    from flows.runners import PrefectRunner

    def away() -> None:
        raise httpx.ConnectError("All connection attempts failed")

    @flow(name="away")
    def asking() -> None:
        PrefectRunner(LeaseTerms()).call(away)

    with pytest.raises(PrefectUnavailable, match=r"went away \(All connection attempts failed\)"):
        asking()


def test_inline_begins_nothing_after_an_error() -> None:
    counted, unit = counting()
    with pytest.raises(LakeError, match="no 5"):
        Inline().map(partial(unit, fails_at=5, seconds=0.01), range(400), at_once=2, key="test-progress")
    assert max(counted.begun) <= 8
    assert counted.now == 0  # what had begun has ended


INTERRUPTED = """
import signal, sys, threading, time
from tasks import progress
from tasks.ingest.pipeline import Lanes, Pipeline
from tasks.runner import Inline

times = int(sys.argv[1])

def long(number):
    if number == 0:
        for _ in range(times):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.2)
    for _ in range(100_000):
        progress.advance(1)
        time.sleep(0.001)

try:
    Inline().map(long, range(6), at_once=2, key="test-progress")
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_however_often_ends_units_at_their_next_step(times: int) -> None:
    """A unit would take a hundred seconds and more."""
    command = [sys.executable, "-c", INTERRUPTED, str(times)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.stdout == "interrupted\n", done.stderr


def test_an_interrupt_ends_the_units_of_its_own_run_and_no_others(carry_out: Carry) -> None:
    at_work, over = threading.Barrier(4), threading.Event()

    def long(number: int) -> int:
        at_work.wait(60)
        while not over.is_set():
            progress.advance(1)
            time.sleep(0.001)
        return number

    def interrupted(number: int) -> None:
        if number:
            at_work.wait(60)
            raise KeyboardInterrupt
        long(number)  # a minute and more, where it is not stopped

    with ThreadPoolExecutor(1) as elsewhere:
        other = elsewhere.submit(lambda: Inline().map(long, [8, 9], at_once=2, key="other"))
        giving_up = threading.Timer(60, over.set)
        giving_up.start()
        with pytest.raises(KeyboardInterrupt):
            carry_out(lambda runner: runner.map(interrupted, range(2), at_once=2, key="test-progress"))
        assert not over.is_set()
        time.sleep(0.1)
        over.set()
        giving_up.cancel()
        assert other.result(60) == [8, 9]


def test_an_interrupt_reaches_the_threads_within_a_unit() -> None:
    begun = threading.Event()

    def unit(number: int) -> None:
        if number:
            begun.wait(60)
            raise KeyboardInterrupt

        def decode(_batch: Sequence[tuple[int, int]]) -> list[None]:
            begun.set()
            for _ in range(100_000):
                progress.advance(1)
                time.sleep(0.001)
            return [None]

        Pipeline([1], lambda number: number, decode, Lanes(1, 1, 1)).run()

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Inline().map(unit, range(2), at_once=2, key="test-progress")
    assert time.monotonic() - started < 50


def test_after_an_interrupt_nobody_is_stopped_any_more() -> None:
    def interrupted(number: int) -> None:
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Inline().map(interrupted, range(6), at_once=2, key="test-progress")
    progress.advance(1)
    assert Inline().map(progress.advance, range(3), at_once=2, key="again") == [None] * 3
