"""Listings in bulk: Arrow batches of paths, sizes, etags and times, a page each, from a directory or an object store.

An object store lists a thousand keys a request, each request waiting for the one before. A long listing is therefore
cut into ranges of keys, at the folders that lie ahead, which are listed side by side.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import queue
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

logger = logging.getLogger(__name__)

LISTING = pa.schema(
    [
        ("path", pa.string()),
        ("size_bytes", pa.int64()),
        ("etag", pa.string()),
        ("last_modified", pa.timestamp("us", tz="UTC")),
    ]
)
RANGES_AT_ONCE = 8
PAGES_BEFORE_CUTTING = 4

Listed = tuple[str, int, str, int]  # path, size, etag, microseconds since 1970
Pages = Callable[[str], Iterator[pa.RecordBatch]]
Cuts = Callable[[str, str | None], Sequence[str]]


def walk(root: Path, prefix: str, page: int) -> Iterator[pa.RecordBatch]:
    """The files below a directory in a stable order; links are followed, a cycle of them only once."""
    files = _files(str(root), prefix)
    while rows := list(itertools.islice(files, page)):
        paths, sizes, etags, times = zip(*rows, strict=True)
        yield pa.record_batch([list(paths), list(sizes), list(etags), list(times)], schema=LISTING)


def from_obstore(page: Any) -> pa.RecordBatch:
    """A page of obstore's listing, which is Arrow already."""
    batch = pa.record_batch(page)
    # A store without etags still tells a changed object by its time.
    etags = pc.coalesce(batch["e_tag"], pc.strftime(batch["last_modified"], "%Y-%m-%dT%H:%M:%S+00:00"))
    columns = [batch["path"], batch["size"], pc.utf8_trim(etags, '"'), batch["last_modified"]]
    cast = [column.cast(field.type) for column, field in zip(columns, LISTING, strict=True)]
    return pa.record_batch(cast, schema=LISTING)


def in_ranges(pages: Pages, cuts: Cuts) -> Iterator[pa.RecordBatch]:
    """Every page once, those of a long listing in any order.

    `pages(after)` lists the keys after one, in their order; `cuts(after, until)` names some keys, in their order, at
    which what lies ahead may be cut. Such a key need not exist.
    """
    for number, page in enumerate(pages(""), start=1):
        yield page
        if number == PAGES_BEFORE_CUTTING and (ahead := cuts(last := page["path"][-1].as_py(), None)):
            ranges = _Ranges(pages, cuts)
            try:
                yield from ranges.run([last, *ahead])
            finally:
                ranges.stop()
            return


class _Ranges:
    def __init__(self, pages: Pages, cuts: Cuts) -> None:
        self._pages = pages
        self._cuts = cuts
        self._pool = ThreadPoolExecutor(RANGES_AT_ONCE)
        self._pending: queue.Queue[pa.RecordBatch | BaseException | None] = queue.Queue(2 * RANGES_AT_ONCE)
        self._lock = threading.Lock()
        self._open = 0
        self._stopped = threading.Event()

    def run(self, starts: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """What comes after the first of these keys."""
        self._submit(starts)
        while (page := self._pending.get()) is not None:
            if isinstance(page, BaseException):
                raise page
            yield page

    def stop(self) -> None:
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, starts: Sequence[str], until: str | None = None) -> None:
        with self._lock:
            self._open += len(starts)
        for start, end in zip(starts, [*starts[1:], until], strict=True):
            self._pool.submit(self._range, start, end)

    def _range(self, after: str, until: str | None) -> None:
        try:
            self._list(after, until)
        except BaseException as error:  # raised again where the pages are consumed
            self._give(error)
            return
        with self._lock:
            self._open -= 1
            last = self._open == 0
        if last:
            self._give(None)

    def _list(self, after: str, until: str | None) -> None:
        """The keys after `after`, up to and with `until`; a range that is long is cut in its turn."""
        for number, page in enumerate(self._pages(after)):
            if page.num_rows == 0:
                continue
            inside = pc.greater(page["path"], after)
            if until is not None:
                inside = pc.and_(inside, pc.less_equal(page["path"], until))
            self._give(page.filter(inside))
            last = page["path"][-1].as_py()
            if self._stopped.is_set() or (until is not None and last > until):
                return
            ahead = self._cuts(last, until) if number + 1 == PAGES_BEFORE_CUTTING else ()
            if ahead:
                self._submit([last, *ahead], until)
                return

    def _give(self, page: pa.RecordBatch | BaseException | None) -> None:
        while not self._stopped.is_set():
            try:
                self._pending.put(page, timeout=0.1)
            except queue.Full:
                continue
            return


def _files(root: str, prefix: str) -> Iterator[Listed]:
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(os.path.join(root, prefix), onerror=_raise, followlinks=True):  # noqa: PTH118
        try:
            status = Path(folder).stat()
        except FileNotFoundError:
            continue  # removed meanwhile
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        names.sort()
        inside = os.path.relpath(folder, root)
        above = "" if inside == "." else f"{inside}/"
        for name in names:
            listed = _file(f"{above}{name}", os.path.join(folder, name))  # noqa: PTH118 (pathlib takes half the time)
            if listed is not None:
                yield listed


def _file(key: str, path: str) -> Listed | None:
    if not _is_utf8(key):
        logger.warning("%r is passed over: its name is not UTF-8, rename it", os.fsencode(path))
        return None
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None  # removed meanwhile, or a link that leads nowhere
        raise
    if not stat.S_ISREG(status.st_mode):
        return None  # whoever reads a pipe waits for ever
    # The inode tells a file moved into place even where it kept the old one's size and time.
    etag = f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
    return key, status.st_size, etag, status.st_mtime_ns // 1000


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
