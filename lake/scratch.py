"""Temporary directories: gone with the block that asked for one, and those of killed processes with the next."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lake.errors import LakeError

PREFIX = "vitrine-scratch-"
YOUNG_SECONDS = 600.0  # whoever has just made a directory may not have locked it yet
_NAME = re.compile(rf"{PREFIX}\w{{8}}")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary directory for the block. Raises LakeError where none can be made or it is full."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    except OSError as error:
        raise LakeError(f"no temporary directory can be made ({error.strerror}): set TMPDIR to one that can") from error
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: nobody sweeps there either
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _sweep(folder.parent)
        yield folder
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise LakeError(f"{folder.parent} is full ({error.strerror}): make room, or set TMPDIR to another") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _sweep(parent: Path) -> None:
    """Remove what killed processes of this user left: the system has released their locks."""
    for name in os.listdir(parent):  # noqa: PTH208 (a shared directory may hold many others)
        if _NAME.fullmatch(name):
            with suppress(OSError):  # another process has just removed it, is at work in it, or is another user's
                _remove_if_dead(parent / name)


def _remove_if_dead(folder: Path) -> None:
    if (
        folder.is_symlink()
        or folder.stat().st_uid != os.getuid()
        or time.time() - folder.stat().st_mtime < YOUNG_SECONDS
    ):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
