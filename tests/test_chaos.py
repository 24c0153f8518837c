"""Nights that are killed, raced, stopped and badly served leave what a dictionary says; and the harness can fail.

The long version: `make chaos`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.campaign import UNSETTLED, Campaign, Log
from tests.chaos.nights import Part
from tests.chaos.proxy import Proxy
from tests.chaos.shop import address
from tests.chaos.tally import Tally


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "runs.jsonl")


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    return tmp_path / "requests.jsonl"


@pytest.fixture
def proxy(s3_root: str, requests: Path) -> Iterator[Proxy]:
    with Proxy(address(os.environ["AWS_ENDPOINT_URL"]), requests) as proxy:
        yield proxy


def local(tmp_path: Path, log: Log, without: Part = "nothing") -> Campaign:
    return Campaign(tmp_path, str(tmp_path / "root"), log, "local", without=without)


def test_nights_that_are_killed_raced_and_stopped_leave_what_the_dictionary_says(tmp_path: Path, log: Log) -> None:
    lake = local(tmp_path, log)
    lake.undisturbed()
    for disturb in (lake.killed_at_random, lake.raced, lake.stopped_and_taken_over_from, lake.on_changing_pictures):
        for _ in range(2):
            lake.killed_at_an_operation()
        disturb()
        lake.undisturbed()
    lake.killed_while_it_collects()
    lake.undisturbed()
    tally = Tally.read(log.path)
    assert tally.differences == ()
    assert tally.kills.total() >= 6


@pytest.mark.s3
def test_nights_on_a_store_that_fails_leave_what_the_dictionary_says(
    tmp_path: Path, log: Log, s3_root: str, proxy: Proxy, requests: Path
) -> None:
    lake = Campaign(tmp_path, s3_root, log, "s3", proxy=proxy)
    lake.undisturbed()
    lake.without_signs_of_life()
    lake.expired()
    while Tally.read(log.path, requests).spoiled < 100:
        lake.in_bad_weather(UNSETTLED)
    lake.killed_at_an_operation()
    lake.undisturbed()
    tally = Tally.read(log.path, requests)
    assert tally.differences == ()
    assert {"busy", "reset", "short", "renewal"} <= tally.faults.keys()


def test_without_the_lease_the_harness_finds_work_done_twice(tmp_path: Path, log: Log) -> None:
    lake = local(tmp_path, log, without="lease")
    lake.undisturbed()
    lake.stopped_and_taken_over_from({"ends_on": r"/images/[^/]*\.parquet#", "ends_at": 1})
    lake.undisturbed()
    assert any("doubled in" in each for each in log.differences), log.differences


@pytest.mark.s3
def test_without_retries_the_harness_finds_nights_that_fail(
    tmp_path: Path, log: Log, s3_root: str, proxy: Proxy
) -> None:
    lake = Campaign(tmp_path, s3_root, log, "s3", proxy=proxy, without="retries")
    lake.undisturbed()
    assert log.differences == []
    lake.in_bad_weather()
    assert any("in bad weather, it failed: StoreUnavailable" in each for each in log.differences), log.differences
