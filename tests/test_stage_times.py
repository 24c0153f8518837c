"""The accounting of a pipeline's time, held against pipelines whose times are known."""

from __future__ import annotations

import threading
import time

import pytest

from tasks.timing import StageTime, Stopwatch, bottleneck, merged, within


def test_the_times_of_shards_add_up_by_name_in_the_order_of_the_names() -> None:
    shards = [
        (StageTime("fetch", 1.0, 3.0), StageTime("decode", 4.0, 0.0)),
        (StageTime("fetch", 2.0, 1.0), StageTime("decode", 2.5, 0.5), StageTime("write", 0.5, 2.5)),
    ]
    assert merged(time_ for shard in shards for time_ in shard) == (
        StageTime("fetch", 3.0, 4.0),
        StageTime("decode", 6.5, 0.5),
        StageTime("write", 0.5, 2.5),
    )
    assert merged([]) == ()


def test_shards_that_ran_two_at_once_share_the_seconds_that_passed() -> None:
    shard = (StageTime("fetch", 1.0, 3.0), StageTime("decode", 3.0, 1.0))
    assert within([*shard, *shard], 4.0) == shard


def test_the_bottleneck_is_what_would_take_longest_alone_not_what_was_always_busy() -> None:
    commit, decode = StageTime("commit", 2.0, 0.0), StageTime("decode", 9.0, 1.0)
    assert commit.busy_share > decode.busy_share
    assert bottleneck([commit, decode]) == "decode"


@pytest.mark.parametrize("times", [(), (StageTime("fetch", 0.0, 0.0),)])
def test_a_night_without_work_has_no_bottleneck(times: tuple[StageTime, ...]) -> None:
    assert bottleneck(times) is None
    assert all(time_.busy_share == 0 for time_ in times)


def test_two_workers_busy_half_the_time_are_a_stage_busy_half_the_time() -> None:
    watch = Stopwatch("decode", workers=2)
    work = watch.timed(lambda: time.sleep(0.2))
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(0.2)
    found = watch.read()
    assert found.busy_s >= 0.2
    assert found.waiting_s >= 0.2
    assert 0.25 < found.busy_share < 0.75


def test_a_worker_that_fails_was_busy_until_then() -> None:
    watch = Stopwatch("fetch")
    with pytest.raises(OSError, match="gone"), watch.busy():
        time.sleep(0.05)
        raise OSError("gone")
    time.sleep(0.05)
    watch.add(0.02)
    found = watch.read()
    assert found.busy_s >= 0.07
    assert found.waiting_s >= 0.02
