"""A device for one process at a time: a lock file that the processes which share the device have in common.

The kernel frees it when its process ends, however it ends: nothing is left that could block the next night.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.errors import NoDeviceLock

logger = logging.getLogger(__name__)


class _Shared:
    """Lock files that several units of work in this process hold together.

    Given back and asked for again between two shards, another process would load its network in turn with this one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[Path, tuple[int, FileLock]] = {}

    def take(self, path: Path) -> None:
        with self._lock:  # the first one waits for the file, the others for the first one
            count, file = self._held.get(path, (0, FileLock(path, thread_local=False)))
            if count == 0:
                _acquire(file, path)
            self._held[path] = (count + 1, file)

    def give_back(self, path: Path) -> None:
        with self._lock:
            count, file = self._held.pop(path)
            if count > 1:
                self._held[path] = (count - 1, file)
            else:
                file.release()


def _acquire(file: FileLock, path: Path) -> None:
    try:
        try:
            file.acquire(timeout=0)
        except Timeout:
            logger.info("waiting for the device: another process holds %s", path)
            file.acquire()
    except OSError as error:
        raise NoDeviceLock(
            f"the lock file {path} can't be used ({error.strerror}): correct VITRINE_DEVICE_LOCK, or unset it"
        ) from error


_shared = _Shared()


@contextmanager
def device_lock(path: Path | None) -> Iterator[None]:
    """Hold the lock file while the block uses a device; None holds nothing. Units of one process hold it together.

    Raises NoDeviceLock where the file can't be made.
    """
    if path is None:
        yield
        return
    _shared.take(path)
    try:
        yield
    finally:
        _shared.give_back(path)
