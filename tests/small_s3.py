"""A few lines of S3 over real sockets: it lists and hands out what a test says, and refuses or alters what it says."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "shop"
MODIFIED = "2026-11-01T02:00:00.000Z", "Sun, 01 Nov 2026 02:00:00 GMT"

Refusal = tuple[int, str]  # status and error code
Sent = tuple[bytes, str]  # a body and its etag


def etag(data: bytes) -> str:
    """As S3 makes it."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class SmallS3:
    """The objects of one bucket, by their whole keys, and how the server behaves."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.listed_twice: list[str] = []
        self.refused: dict[str, Refusal] = {}  # requests for an object; the key "" stands for all
        self.alter: Callable[[str, bytes], Sent] | None = None  # what is answered instead of an object
        self.bytes_per_second: float | None = None  # of all answers together
        self.asked: Counter[str] = Counter()
        self.link = threading.Lock()

    def listing(self, prefix: str, after: str) -> str:
        keys = sorted([*self.objects, *self.listed_twice])
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{MODIFIED[0]}</LastModified>"
            f"<ETag>&quot;{etag(self.objects[key])}&quot;</ETag><Size>{len(self.objects[key])}</Size></Contents>"
            for key in keys
            if key.startswith(prefix) and key > after
        )
        return f'<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>'

    def answer(self, key: str) -> Sent:
        data = self.objects[key]
        return (data, etag(data)) if self.alter is None else self.alter(key, data)


class _Handler(BaseHTTPRequestHandler):
    store: ClassVar[SmallS3]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query, key = parse_qs(url.query, keep_blank_values=True), unquote(url.path).removeprefix(f"/{BUCKET}")[1:]
        if "list-type" in query:
            if refusal := self.store.refused.get("list"):
                return self._refuse(*refusal)
            listing = self.store.listing(query.get("prefix", [""])[0], query.get("start-after", [""])[0])
            return self._send(200, listing.encode())
        self.store.asked[key] += 1
        if refusal := self.store.refused.get(key, self.store.refused.get("")):
            return self._refuse(*refusal)
        if key not in self.store.objects:
            return self._refuse(404, "NoSuchKey")
        data, tag = self.store.answer(key)
        return self._send(200, data, tag)

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode())

    def _send(self, status: int, body: bytes, tag: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", MODIFIED[1])
        if tag:
            self.send_header("ETag", f'"{tag}"')
        self.end_headers()
        for start in range(0, len(body), 1024):
            if tag and self.store.bytes_per_second is not None:
                with self.store.link:  # one link for all
                    time.sleep(1024 / self.store.bytes_per_second)
            self.wfile.write(body[start : start + 1024])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(store: SmallS3) -> Iterator[str]:
    """The endpoint's URL while the block runs."""
    handler: Any = type("Handler", (_Handler,), {"store": store})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
