"""A source of pictures that changes, beside a dictionary of what is in it."""

from __future__ import annotations

import io
import random
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from lake.store import open_store


class Shop:
    """A source, local or on S3, and what it holds; `ever` keeps each content that a key has had."""

    def __init__(self, uri: str, draw: random.Random, pictures: int) -> None:
        self.uri = uri
        self.content: dict[str, bytes] = {}
        self.ever: dict[str, set[bytes]] = {}
        self._draw = draw
        self._store = open_store(uri, create=True, check=False)
        for number in range(pictures):
            self.put(f"mug-{number % 7}/{number:03d}.jpg", self._picture())

    def put(self, key: str, data: bytes) -> None:
        """A new or another content, whole at once."""
        self._store.put(key, data, durable=False)
        self._now_holds(key, data)

    def delete(self, key: str) -> None:
        """The source has it no more."""
        self._store.delete([key])
        del self.content[key]

    def change(self, most: int = 6) -> None:
        """Some pictures come, change, go, break, come back or are copies of others."""
        for _ in range(self._draw.randint(1, most)):
            keys = sorted(self.content)
            key = self._draw.choice(keys)
            match self._draw.choice(["new", "new", "changed", "changed", "deleted", "broken", "copy"]):
                case "new":
                    self.put(f"new-{self._draw.randrange(9)}/{self._draw.randrange(10**6):06d}.jpg", self._picture())
                case "changed":
                    self.put(key, self._picture())
                case "deleted" if len(keys) > 12:
                    self.delete(key)
                case "broken":
                    self.put(key, b"<html>" + self._draw.randbytes(self._draw.randrange(1, 99)))
                case "copy":
                    self.put(key, self.content[self._draw.choice(keys)])

    def change_under_the_night(self) -> None:
        """The same, and a file that is being written while it is read: half of it, then all."""
        key, data = self._draw.choice(sorted(self.content)), self._picture()
        path = self._file(key)
        if path is not None:
            path.write_bytes(data[: len(data) // 2])
            self._now_holds(key, data[: len(data) // 2])
        self.change(3)
        if path is not None:
            path.write_bytes(data)
            self._now_holds(key, data)

    def _now_holds(self, key: str, data: bytes) -> None:
        self.content[key] = data
        self.ever.setdefault(key, set()).add(data)

    def _file(self, key: str) -> Path | None:
        return None if "://" in self.uri else Path(self.uri) / key

    def _picture(self) -> bytes:
        """A smooth small JPEG; no two are alike, nor of one length."""
        coarse = np.frombuffer(self._draw.randbytes(48), np.uint8).reshape(4, 4, 3)
        data, side = io.BytesIO(), self._draw.randrange(32, 65)
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(data, "JPEG")
        return data.getvalue() + bytes(self._draw.randrange(400))


def address(endpoint: str) -> tuple[str, int]:
    """Host and port of a URL."""
    parts = urlsplit(endpoint)
    return parts.hostname or "127.0.0.1", parts.port or 80
