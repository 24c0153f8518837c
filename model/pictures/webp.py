"""A WebP's chunks: what is missing of a file may be no more than its metadata."""

from __future__ import annotations

import io
import struct

from PIL.WebPImagePlugin import WebPImageFile

from model.errors import Undecodable
from model.pictures.png import WITHOUT_END

_PIXELS = {b"VP8 ", b"VP8L", b"ANMF"}


def completed(data: bytes) -> tuple[bytes, str | None]:
    """The WebP without what the end of the file cut off, and a remark where that was something.

    Raises:
        Undecodable: the pixels are not there to their end.
    """
    missing = int.from_bytes(data[4:8], "little") + 8 - len(data)
    if missing <= 0:
        return data, None
    if missing == 1 and _shown(data + b"\0") == _shown(data + b"\xff"):  # it was padding
        return data + b"\0", WITHOUT_END
    kept, kinds, at = [], set(), 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        end = at + 8 + length
        if end > len(data):
            break
        kept.append(data[at:end] + b"\0" * (length % 2))
        kinds.add(kind)
        at = end + length % 2
    if not kinds & _PIXELS:
        raise Undecodable(f"truncated WEBP: the file ends after {len(data)} bytes")
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body, WITHOUT_END


def _shown(data: bytes) -> bytes:
    with WebPImageFile(io.BytesIO(data)) as image:
        return image.tobytes()
