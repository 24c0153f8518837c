"""The files below a directory as a listing: links are followed, and what is no file to read is said, not guessed at.

A link to a folder is a second name of it: its files are listed under both, wherever it sorts. A folder that stands
above itself (a link that leads back) is not entered again.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from lake.listing import BROKEN_LINK, LEADS_BACK, LISTING, NOT_UTF8, SPECIAL_FILE, UNREADABLE, Passed, PassedOver

logger = logging.getLogger(__name__)

MOST_LINKS = 4  # to folders on one path: folders that are all linked with each other have paths without number

Listed = tuple[str, int, str, int]  # path, size, etag, microseconds since 1970
Identity = tuple[int, int]  # device and inode


@dataclass(frozen=True)
class _Folder:
    path: str
    key: str  # below the root; empty for the root itself
    above: _Folder | None
    identity: Identity
    links: int  # to folders, on the way here

    def leads_back(self) -> bool:
        """Whether the same folder stands above it."""
        folder = self.above
        while folder is not None and folder.identity != self.identity:
            folder = folder.above
        return folder is not None


def walk(root: str, prefix: str, page: int, passed: Passed | None = None) -> Iterator[pa.RecordBatch]:
    """The files below a directory in a stable order, in pages of LISTING.

    `passed` is told what is passed over. Without it an unreadable folder raises OSError, as the root always does.
    """
    files = _files(root, prefix, passed)
    while rows := list(itertools.islice(files, page)):
        paths, sizes, etags, times = zip(*rows, strict=True)
        yield pa.record_batch([list(paths), list(sizes), list(etags), list(times)], schema=LISTING)


def etag_of(status: os.stat_result) -> str:
    """Of a file: its time of change in nanoseconds and its size, which a copy that keeps times shares."""
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _files(root: str, prefix: str, passed: Passed | None) -> Iterator[Listed]:
    top = _top(os.path.join(root, prefix) if prefix else root, prefix)  # noqa: PTH118
    waiting = [] if top is None else [top]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder.path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            _failed(error, folder.key, passed, is_top=folder is top)
            continue
        below = []
        for entry in entries:
            found = _look_at(entry, folder, passed)
            if isinstance(found, _Folder):
                below.append(found)
            elif found is not None:
                yield found
        waiting.extend(reversed(below))


def _top(path: str, key: str) -> _Folder | None:
    """The folder to begin with, below all that it stands in, to which a link leads back; None where it is not there."""
    try:
        real = os.path.realpath(path)
        above: _Folder | None = None
        for parent in [*reversed([*_parents(real)]), real]:
            status = os.stat(parent)  # noqa: PTH116 (pathlib takes twice as long, here and below)
            above = _Folder(path, key, above, (status.st_dev, status.st_ino), 0)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return above


def _parents(path: str) -> Iterator[str]:
    while (parent := os.path.dirname(path)) != path:  # noqa: PTH120
        yield parent
        path = parent


def _look_at(entry: os.DirEntry[str], folder: _Folder, passed: Passed | None) -> _Folder | Listed | None:
    """A folder to enter, a file as it is listed, or None for what is passed over."""
    key = f"{folder.key}/{entry.name}" if folder.key else entry.name
    if not _is_utf8(entry.name):
        _pass(passed, key, NOT_UTF8)
        return None
    try:
        if entry.is_dir():
            return _enter(entry, key, folder, passed)
        status = entry.stat()
    except OSError as error:
        if error.errno == errno.ELOOP or (error.errno == errno.ENOENT and entry.is_symlink()):
            _pass(passed, key, BROKEN_LINK)
        else:
            _failed(error, key, passed, is_top=False)
        return None
    if not stat.S_ISREG(status.st_mode):
        _pass(passed, key, SPECIAL_FILE)  # whoever reads a pipe waits for ever
        return None
    return key, status.st_size, etag_of(status), status.st_mtime_ns // 1000


def _enter(entry: os.DirEntry[str], key: str, above: _Folder, passed: Passed | None) -> _Folder | None:
    status = entry.stat()
    links = above.links + entry.is_symlink()
    folder = _Folder(entry.path, key, above, (status.st_dev, status.st_ino), links)
    if links > MOST_LINKS or folder.leads_back():
        _pass(passed, key, LEADS_BACK)
        return None
    return folder


def _failed(error: OSError, key: str, passed: Passed | None, *, is_top: bool) -> None:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return  # removed meanwhile
    if is_top or passed is None:
        raise error
    passed(PassedOver(key, UNREADABLE, error.strerror or str(error)))


def _pass(passed: Passed | None, key: str, kind: str) -> None:
    shown = os.fsencode(key).decode(errors="backslashreplace")
    if passed is not None:
        passed(PassedOver(shown, kind))
    elif kind == NOT_UTF8:
        logger.warning("%s is passed over: its name is not UTF-8, rename it", shown)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
