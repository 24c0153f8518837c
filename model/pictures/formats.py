"""Which picture format bytes are in, by how they begin."""

from __future__ import annotations

import re

from model.errors import Undecodable

_SUFFIXES = {
    "AVIF": ".avif .avifs",
    "BMP": ".bmp .dib",
    "GIF": ".gif",
    "HEIC": ".heic .heif .heics .heifs .hif",
    "ICO": ".ico",
    "JPEG": ".jpg .jpeg .jpe .jfif .jif .pjpeg .pjp .mpo",
    "JPEG 2000": ".jp2 .j2k .jpf .jpx .j2c .jpc .jph .jhc",
    "JPEG XL": ".jxl",
    "PNG": ".png .apng",
    "TIFF": ".tif .tiff",
    "WEBP": ".webp",
}
PICTURE_SUFFIXES = frozenset(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes.split())

_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\1\0": "ICO",
}
_UNSUPPORTED_MAGIC = {
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"8BPS": "Photoshop",
    b"PK\3\4": "ZIP",
    b"ID3": "audio",
    b"\x1a\x45\xdf\xa3": "Matroska video",
}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_HEIF_BRANDS = {b"mif1", b"mif2", b"msf1", b"miaf"}
_JUNK_BYTES = 1024  # that may stand before a picture
_BMP_HEADER_BYTES = {12, 16, 40, 52, 56, 64, 108, 124}
_SVG = re.compile(rb"\s*(<\?xml|<!--|<!DOCTYPE svg|<svg)[^\0]*?<svg[\s>]|\s*<svg[\s>]", re.IGNORECASE)


def identify(data: bytes) -> tuple[str, int]:
    """The format's name, one that `open_picture` reads, and where in the bytes the picture begins.

    Raises:
        Undecodable: the bytes are empty, no picture, or a picture of a format that is not read here.
    """
    if not data:
        raise Undecodable("empty file")
    unsupported = _starts(data, _UNSUPPORTED_MAGIC)
    if not unsupported and (format_ := _starts(data, _MAGIC) or _container(data)):
        return format_, 0
    unsupported = unsupported or _unsupported_container(data)
    if unsupported:
        raise Undecodable(f"unsupported format: {unsupported}")
    return _after_junk(data)


def _after_junk(data: bytes) -> tuple[str, int]:
    """A picture behind the blanks that programs print before their output, or a JPEG behind any few bytes."""
    head = data[:_JUNK_BYTES]
    blanks = len(head) - len(head.lstrip(b"\xef\xbb\xbf \t\r\n\0"))
    behind = data[blanks : blanks + 64]
    if 0 < blanks < len(head) and (format_ := _starts(behind, _MAGIC) or _container(behind)):
        return format_, blanks
    start = data.find(b"\xff\xd8\xff", 0, _JUNK_BYTES)
    if start > 0:
        return "JPEG", start
    raise Undecodable(f"not a picture: it begins with {_shown(data)}")


def _starts(data: bytes, names: dict[bytes, str]) -> str | None:
    return next((name for magic, name in names.items() if data.startswith(magic)), None)


def _container(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and data[14:15] and data[14] in _BMP_HEADER_BYTES:
        return "BMP"
    if _is_dib(data):
        return "DIB"
    return _iso_media(_brands(data))


def _is_dib(data: bytes) -> bool:
    """A BMP without its file header: a header of a known size, one plane, a known depth."""
    if len(data) < 40 or int.from_bytes(data[:4], "little") not in _BMP_HEADER_BYTES - {12, 16}:
        return False
    planes, bits = (int.from_bytes(data[at : at + 2], "little") for at in (12, 14))
    return planes == 1 and bits in {1, 4, 8, 16, 24, 32}


def _iso_media(brands: set[bytes]) -> str | None:
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    if brands & _HEIC_BRANDS:
        return "HEIC"
    return "HEIF" if brands & _HEIF_BRANDS else None


def _unsupported_container(data: bytes) -> str | None:
    if _brands(data):
        return "video"
    return "SVG" if _SVG.match(data[:4096].removeprefix(b"\xef\xbb\xbf")) else None


def _brands(data: bytes) -> set[bytes]:
    """The major and the compatible brands of an ISO media file (AVIF, HEIC, MP4), else nothing."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), len(data), 256)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}


def _shown(data: bytes) -> str:
    head = data[:12]
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        text = " ".join(head.decode("ascii").split())
        return f"'{text}'" + ("…" if len(data) > len(head) else "")
    return "bytes " + head[:4].hex(" ")
