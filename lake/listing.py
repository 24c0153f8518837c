"""Listings in bulk: Arrow batches of paths, sizes, etags and times, a page each, from a directory or an object store.

An object store lists a thousand keys a request, each request waiting for the one before. A long listing is therefore
cut into ranges of keys, at the folders that lie ahead, which are listed side by side.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

LISTING = pa.schema(
    [
        ("path", pa.string()),
        ("size_bytes", pa.int64()),
        ("etag", pa.string()),
        ("last_modified", pa.timestamp("us", tz="UTC")),
    ]
)
TIME_AS_ETAG = "%Y-%m-%dT%H:%M:%S+00:00"
RANGES_AT_ONCE = 8
PAGES_BEFORE_CUTTING = 4

# Kinds of what a listing passes over.
BROKEN_LINK = "broken link"
FOLDER_MARKER = "folder marker"
LEADS_BACK = "link that leads back"
NOT_UTF8 = "name that is not UTF-8"
SPECIAL_FILE = "pipe, socket or device"
UNREADABLE = "can't be listed"


@dataclass(frozen=True)
class PassedOver:
    """A name that a listing does not hand on, and why."""

    path: str  # what is not UTF-8 in it is shown as \\xff
    kind: str
    cause: str = ""


Passed = Callable[[PassedOver], None]
Pages = Callable[[str], Iterator[pa.RecordBatch]]
Cuts = Callable[[str, str | None], Sequence[str]]


def from_obstore(page: Any) -> pa.RecordBatch:
    """A page of obstore's listing, which is Arrow already."""
    batch = pa.record_batch(page)
    # A store without etags still tells a changed object by its time.
    etags = pc.coalesce(batch["e_tag"], pc.strftime(batch["last_modified"], TIME_AS_ETAG))
    bare = pc.utf8_trim(pc.replace_substring_regex(etags, "^W/", ""), '"')
    columns = [batch["path"], batch["size"], bare, batch["last_modified"]]
    cast = [column.cast(field.type) for column, field in zip(columns, LISTING, strict=True)]
    return pa.record_batch(cast, schema=LISTING)


def is_exact(page: pa.RecordBatch, after: str) -> bool:
    """Whether obstore's page of what comes after a key spells each key as it is: it drops the slash at a key's end.

    Such a key is mostly the mark of a folder, which is empty; of others the order tells.
    """
    paths = page["path"].to_numpy(zero_copy_only=False)
    ordered = (not after or paths[0] > after) and bool((paths[1:] > paths[:-1]).all())
    return ordered and not pc.any(pc.equal(page["size_bytes"], 0)).as_py()


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
