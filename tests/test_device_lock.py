"""A device for one process at a time, which its death frees."""

from __future__ import annotations

import signal
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


def test_the_lock_is_held_while_the_device_is_used(tmp_path: Path) -> None:
    path = tmp_path / "gpu.lock"
    with device_lock(path):
        assert not is_free(path)
    assert is_free(path)


def test_ctrl_c_ends_the_wait_for_a_device(tmp_path: Path) -> None:
    waiting = (
        "import logging, sys; from pathlib import Path; from tasks.device_lock import device_lock\n"
        "logging.basicConfig(level='INFO', stream=sys.stdout, format='%(message)s')\n"
        "with device_lock(Path(sys.argv[1])):\n    pass"
    )
    path = tmp_path / "gpu.lock"
    with (
        device_lock(path),
        subprocess.Popen([sys.executable, "-c", waiting, str(path)], stdout=subprocess.PIPE, text=True) as other,
    ):
        assert other.stdout is not None and other.stdout.readline().startswith("waiting for the device: another ")
        other.send_signal(signal.SIGINT)
        assert other.wait(60) != 0


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
