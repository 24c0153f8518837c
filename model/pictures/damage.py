"""What is wrong with a picture's bytes, found before a pixel is decoded or said of what a codec raised."""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from PIL import Image

from model.errors import Undecodable
from model.pictures import jpeg, png, webp

logger = logging.getLogger(__name__)

_NOT_SUPPORTED = re.compile(r"unsupported|not supported|not implemented|cannot handle|cannot decompress", re.IGNORECASE)
_A_KIND = {"AVIF": "an", "HEIC": "an", "HEIF": "an", "ICO": "an"}

MAX_PIXELS = 200_000_000  # unless the caller says otherwise


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises Undecodable where these are no sizes, or so many pixels would fill the memory."""
    if width * height > max_pixels:
        raise Undecodable(f"too large: {width} × {height} pixels, at most {max_pixels / 1e6:g} million")


def completed(format_: str, data: bytes) -> tuple[bytes, str | None]:
    """The file as its reader wants it, and a remark where only its end is missing.

    Raises:
        Undecodable: pixels are missing or damaged.
    """
    match format_:
        case "JPEG":
            return jpeg.completed(data)
        case "PNG":
            return png.pixels_of(data)
        case "WEBP":
            return webp.completed(data)
        case "GIF":
            return data, png.WITHOUT_END if _ends_early("GIF", data) else None
        case _:
            return data, None


@contextmanager
def refusals(format_: str, data: bytes) -> Iterator[None]:
    """Turns whatever a codec raises into an Undecodable whose short reason depends on the bytes alone."""
    try:
        yield
    except Undecodable:
        raise
    except Image.DecompressionBombError as error:
        raise Undecodable(f"too large for its decoder: more than {_bomb_pixels() // 10**6} million pixels") from error
    except MemoryError as error:
        raise Undecodable("too large: decoding it needs more memory than it may have") from error
    except Exception as error:  # codecs raise nearly everything: struct.error, AssertionError, KeyError…
        logger.debug("%s: %r", format_, error)
        raise Undecodable(_reason(format_, data, error)) from error


def _reason(format_: str, data: bytes, error: Exception) -> str:
    if _ends_early(format_, data) or (format_ == "TIFF" and "truncated" in str(error)):
        return _cut(format_, data)
    kind = jpeg.unsupported_kind(data) if format_ == "JPEG" else None
    if kind is not None:
        return f"not supported: {kind}"
    if isinstance(error, NotImplementedError) or _NOT_SUPPORTED.search(str(error)):
        return f"not supported: {_A_KIND.get(format_, 'a')} {format_} of this kind"
    return f"damaged {format_}: it cannot be decoded"


def _bomb_pixels() -> int:
    return 2 * (Image.MAX_IMAGE_PIXELS or 0)


def _cut(format_: str, data: bytes) -> str:
    return f"truncated {format_}: the file ends after {len(data)} bytes"


def _ends_early(format_: str, data: bytes) -> bool:
    """Whether a file that failed lacks its end, judged by its own structure."""
    checks: dict[str, Callable[[], bool]] = {
        "JPEG": lambda: jpeg.EOI not in data[-64:],
        "PNG": lambda: b"IEND" not in data,
        "GIF": lambda: not data.rstrip(b"\0").endswith(b";"),
        "WEBP": lambda: int.from_bytes(data[4:8], "little") + 8 > len(data),
        "BMP": lambda: int.from_bytes(data[2:6], "little") > len(data),
        "TIFF": lambda: data[2:4] in (b"*\0", b"\0*") and _tiff_directory_end(data) > len(data),
    }
    if format_ in ("AVIF", "HEIC", "HEIF"):
        return not _has_media_box(data)
    return format_ in checks and checks[format_]()


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
