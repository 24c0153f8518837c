"""A PNG's chunks: those that make its pixels are verified, those around them can't spoil it.

Pillow refuses a picture for a large text, a short pHYs or a bad profile, and skips the checksums of the pixels. So it
gets a PNG of the chunks that count here, and nothing else.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from model.errors import Undecodable

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PROFILE_BYTES = 16 * 2**20  # of a colour profile, inflated
WITHOUT_END = "its end mark is missing; every row is there"

_INDEXED = 3  # the colour type of a palette


def pixels_of(data: bytes) -> tuple[bytes, str | None]:
    """The PNG of what decides its pixels, orientation and profile, and a remark where its end is missing.

    Raises:
        Undecodable: a chunk of the pixels is damaged, or missing, or the PNG is not one by the standard.
    """
    if not data.startswith(SIGNATURE):
        raise Undecodable("damaged PNG: its signature is altered, as by a transfer in text mode")
    kept: list[bytes | memoryview] = [SIGNATURE]
    colour_type, pixels, ended = 0, False, False
    for chunk in _chunks(data):
        if chunk.kind == b"IEND":
            ended = chunk.complete
            break
        if chunk.kind == b"IHDR" and len(chunk.body) == 13:
            colour_type = chunk.body[9]
        pixels |= chunk.kind == b"IDAT"
        if _is_kept(chunk, colour_type):
            kept.append(chunk.raw if chunk.complete else _packed(chunk.kind, bytes(chunk.body)))
    if not pixels:
        raise Undecodable(f"truncated PNG: the file ends after {len(data)} bytes")
    return b"".join([*kept, _packed(b"IEND", b"")]), None if ended else WITHOUT_END


@dataclass(frozen=True)
class _Chunk:
    kind: bytes
    body: memoryview  # what there is of it, where the file ends within
    raw: memoryview  # with length, kind and checksum
    complete: bool
    intact: bool  # its checksum is right, or missing


def _chunks(data: bytes) -> Iterator[_Chunk]:
    view, at = memoryview(data), len(SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        checksum = data[end : end + 4]
        complete = len(checksum) == 4
        intact = not complete or zlib.crc32(view[at + 4 : end]) == int.from_bytes(checksum, "big")
        yield _Chunk(kind, view[at + 8 : end], view[at : end + 4], complete, intact)
        at = end + 4


def _is_kept(chunk: _Chunk, colour_type: int) -> bool:
    kind = chunk.kind
    if kind == b"CgBI":
        raise Undecodable("not supported: a PNG in Apple's own form (CgBI)")
    if kind == b"PLTE" and colour_type != _INDEXED:
        return False  # only a suggestion
    if kind[:1].isupper() or kind == b"tRNS":
        if not chunk.intact:
            raise Undecodable("damaged PNG: a checksum is wrong")
        return True
    if kind == b"iCCP":
        return chunk.intact and _is_small_profile(bytes(chunk.body))
    return kind == b"eXIf" and chunk.intact


def _is_small_profile(body: bytes) -> bool:
    """Whether an iCCP chunk inflates, to no more than a profile should."""
    _, separator, packed = body.partition(b"\0")
    if not separator or packed[:1] != b"\0":
        return False
    inflater = zlib.decompressobj()
    try:
        inflater.decompress(packed[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return False
    return inflater.eof


def _packed(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body), kind) + body + zlib.crc32(body, zlib.crc32(kind)).to_bytes(4, "big")
