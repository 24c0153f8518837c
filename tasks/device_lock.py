"""A device for one process at a time: a lock file that the processes which share the device have in common.

The kernel frees it when its process ends, however it ends: nothing is left that could block the next night.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.errors import NoDeviceLock

logger = logging.getLogger(__name__)


@contextmanager
def device_lock(path: Path | None) -> Iterator[None]:
    """Hold the lock file while the block uses a device; None holds nothing. Raises NoDeviceLock if it can't be made.

    To be entered by a run's main thread, which Ctrl-C interrupts while it waits.
    """
    if path is None:
        yield
        return
    file = FileLock(path, mode=0o666)  # others who share the device may be other users
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
    try:
        yield
    finally:
        file.release()
