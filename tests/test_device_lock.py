"""A device for one process at a time, which its death frees."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from tasks.device_lock import device_lock
from tasks.errors import NoDeviceLock


def is_free(path: Path) -> bool:
    try:
        with FileLock(path, timeout=0):
            return True
    except Timeout:
        return False


def test_overlapping_units_hold_one_lock_between_them(tmp_path: Path) -> None:
    path = tmp_path / "gpu.lock"
    first, second = device_lock(path), device_lock(path)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not is_free(path)
    second.__exit__(None, None, None)
    assert is_free(path)


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "gpu.lock"
    holding = (
        "import sys, time; from pathlib import Path; from tasks.device_lock import device_lock\n"
        "with device_lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)"
    )
    command = [sys.executable, "-c", holding, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        assert not is_free(path)
        waited = threading.Event()

        def wait() -> None:
            with device_lock(path):
                waited.set()

        waiter = threading.Thread(target=wait)
        waiter.start()
        other.kill()
    assert waited.wait(60)
    waiter.join()


def test_a_lock_file_that_can_not_be_made_is_an_error_each_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(NoDeviceLock, match="correct VITRINE_DEVICE_LOCK, or unset it"):  # noqa: SIM117
            with device_lock(tmp_path / "file" / "gpu.lock"):
                pass


def test_no_lock_is_held_where_none_is_named() -> None:
    with device_lock(None):
        pass
