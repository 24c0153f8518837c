"""What is wrong with a picture's bytes, found before a pixel is decoded or said of what a codec raised."""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from PIL import Image

from model.errors import Undecodable

logger = logging.getLogger(__name__)

MAX_PIXELS = 100_000_000


def check_size(width: int, height: int) -> None:
    """Raises Undecodable where so many pixels would fill the memory."""
    if width * height > MAX_PIXELS:
        raise Undecodable(f"too large: {width} × {height} pixels, at most {MAX_PIXELS // 1_000_000} million")


def check_png(data: bytes) -> None:
    """Verifies the checksums of all chunks a picture is made of; Pillow skips those of the pixels.

    Raises:
        Undecodable: one is wrong, or the file ends too early.
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise Undecodable("damaged PNG: its signature is altered, as by a transfer in text mode")
    view, at, kind = memoryview(data), 8, b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise Undecodable(_cut("PNG", data))
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            raise Undecodable(_cut("PNG", data))
        critical = kind[:1].isupper()
        if critical and zlib.crc32(view[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise Undecodable("damaged PNG: a checksum is wrong")
        at = end + 4


@contextmanager
def refusals(format_: str, data: bytes) -> Iterator[None]:
    """Turns whatever a codec raises into an Undecodable whose short reason depends on the bytes alone."""
    try:
        yield
    except Undecodable:
        raise
    except Image.DecompressionBombError as error:
        raise Undecodable(f"too large: more than {MAX_PIXELS // 1_000_000} million pixels") from error
    except Exception as error:  # codecs raise nearly everything: struct.error, AssertionError, KeyError…
        logger.debug("%s: %r", format_, error)
        if _ends_early(format_, data) or (format_ == "TIFF" and "truncated" in str(error)):
            raise Undecodable(_cut(format_, data)) from error
        raise Undecodable(f"damaged {format_}: it cannot be decoded") from error


def _cut(format_: str, data: bytes) -> str:
    return f"truncated {format_}: the file ends after {len(data)} bytes"


def _ends_early(format_: str, data: bytes) -> bool:
    """Whether a file that failed lacks its end, judged by its own structure."""
    match format_:
        case "JPEG":
            return b"\xff\xd9" not in data[-64:]
        case "GIF":
            return not data.rstrip(b"\0").endswith(b";")
        case "WEBP":
            return int.from_bytes(data[4:8], "little") + 8 > len(data)
        case "BMP":
            return int.from_bytes(data[2:6], "little") > len(data)
        case "TIFF":
            return _tiff_directory_end(data) > len(data)
        case _:
            return format_ == "AVIF" and not _has_media_box(data)


def _tiff_directory_end(data: bytes) -> int:
    order: Literal["little", "big"] = "little" if data[:1] == b"I" else "big"
    start = int.from_bytes(data[4:8], order)
    return start + 2 + 12 * int.from_bytes(data[start : start + 2], order) + 4


def _has_media_box(data: bytes) -> bool:
    """Whether the box of an ISO media file that holds the coded pixels is there to its end."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"mdat" or size < 8:  # 0 is "to the end of the file", 1 a 64-bit size
            return bool(at + size <= len(data))
        at += size
    return False
