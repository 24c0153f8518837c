"""A listing in ranges, held against the sorted keys that it is of; and against a real server."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lake.listing import LISTING, PAGES_BEFORE_CUTTING, in_ranges
from lake.store import open_store


@dataclass
class Bucket:
    """Sorted keys in pages, as S3 lists them."""

    keys: list[str]
    page: int = 3
    fails_after: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    requests: int = 0
    at_once: int = 0
    most_at_once: int = 0

    def pages(self, after: str) -> Iterator[pa.RecordBatch]:
        left = [key for key in sorted(self.keys) if key > after]
        for start in range(0, len(left), self.page):
            page = left[start : start + self.page]
            with self.lock:
                self.requests += 1
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
            time.sleep(0.0005)
            with self.lock:
                self.at_once -= 1
            if self.fails_after is not None and page[0] > self.fails_after:
                raise OSError("the listing broke off")
            yield pa.record_batch([[*page], [1] * len(page), ["e"] * len(page), [0] * len(page)], schema=LISTING)

    def cuts(self, after: str, until: str | None) -> list[str]:
        folders = {key.split("/")[0] + "/" for key in self.keys}
        return [cut for cut in sorted(folders) if cut > after and (until is None or cut < until)][:5]

    def listed(self) -> list[str]:
        return [path for page in in_ranges(self.pages, self.cuts) for path in page["path"].to_pylist()]


names = st.text("ab./", min_size=1, max_size=4)


@settings(max_examples=60)
@given(keys=st.sets(st.builds(lambda *parts: "/".join(parts), names, names), max_size=120))
def test_ranges_lose_no_key_and_repeat_none(keys: set[str]) -> None:
    assert sorted(Bucket(sorted(keys)).listed()) == sorted(keys)


def test_a_short_listing_is_never_cut_and_comes_in_order() -> None:
    bucket = Bucket([f"f/{number}" for number in range(3 * PAGES_BEFORE_CUTTING - 1)])
    assert bucket.listed() == sorted(bucket.keys)
    assert (bucket.requests, bucket.most_at_once) == (PAGES_BEFORE_CUTTING, 1)


def test_a_long_listing_is_read_side_by_side_in_hardly_more_requests() -> None:
    keys = [f"{folder:03d}/{number:04d}" for folder, number in itertools.product(range(20), range(30))]
    bucket = Bucket(keys)
    assert sorted(bucket.listed()) == keys
    assert bucket.most_at_once > 1
    assert bucket.requests < 1.5 * len(keys) / bucket.page


def test_a_range_that_breaks_off_fails_the_listing_and_leaves_no_thread() -> None:
    before = threading.active_count()
    keys = [f"{folder}/{number:03d}" for folder, number in itertools.product(range(9), range(30))]
    with pytest.raises(OSError, match="the listing broke off"):
        Bucket(keys, fails_after="7/").listed()
    assert threading.active_count() <= before  # a server of another test may have ended meanwhile


def test_a_consumer_that_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    bucket = Bucket([f"{folder}/{number:03d}" for folder, number in itertools.product(range(9), range(100))])
    pages = in_ranges(bucket.pages, bucket.cuts)
    for _ in range(PAGES_BEFORE_CUTTING + 2):
        next(pages)
    pages.close()  # type: ignore[attr-defined]
    assert threading.active_count() <= before  # a server of another test may have ended meanwhile


@pytest.mark.s3
def test_a_real_server_lists_a_long_prefix_in_ranges_without_loss(
    s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(s3_root)
    keys = [f"shop/{folder:02d}/{number:03d}.jpg" for folder, number in itertools.product(range(12), range(25))]
    keys += ["shop/05", "shop/05.jpg", "shop/05-a/x.jpg", "shop/11/ü.jpg", "other/1.jpg"]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.put(key, b"x"), keys))
    monkeypatch.setattr("lake.store.LIST_CHUNK", 20)
    for prefix in ("", "shop", "shop/05"):
        expected = sorted(key for key in keys if not prefix or key.startswith(f"{prefix}/"))
        assert store.names(prefix) == expected
