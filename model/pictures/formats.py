"""Which picture format bytes are in, by how they begin, and which of Pillow's readers reads it."""

from __future__ import annotations

import io
import re

from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from model.errors import Undecodable

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
)

# The reader is chosen from the first bytes and called by itself. Image.open would try every plugin,
# warn of bombs by a global limit, and say no more than "cannot identify".
_READERS: dict[str, type[ImageFile]] = {
    "AVIF": AvifImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "TIFF": TiffImageFile,
    "WEBP": WebPImageFile,
}

_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_UNSUPPORTED_MAGIC = {
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"8BPS": "Photoshop",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\1\0": "ICO",
    b"PK\3\4": "ZIP",
    b"\x1a\x45\xdf\xa3": "Matroska video",
}
_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"}
_BMP_HEADER_BYTES = {12, 16, 40, 52, 56, 64, 108, 124}
_SVG = re.compile(rb"\s*(<\?xml|<!--|<!DOCTYPE svg|<svg)[^\0]*?<svg[\s>]|\s*<svg[\s>]", re.IGNORECASE)


def identify(data: bytes) -> str:
    """The format's name, one that `open_image` reads.

    Raises:
        Undecodable: the bytes are empty, no picture, or a picture of a format that is not read here.
    """
    if not data:
        raise Undecodable("empty file")
    format_ = _starts(data, _MAGIC) or _container(data)
    if format_:
        return format_
    unsupported = _starts(data, _UNSUPPORTED_MAGIC) or _unsupported_container(data)
    if unsupported:
        raise Undecodable(f"unsupported format: {unsupported}")
    raise Undecodable(f"not a picture: it begins with {_shown(data)}")


def open_image(format_: str, data: bytes) -> ImageFile:
    """The picture's header; its pixels are decoded when they are asked for. Raises whatever Pillow does."""
    return _READERS[format_](io.BytesIO(data))


def _starts(data: bytes, names: dict[bytes, str]) -> str | None:
    return next((name for magic, name in names.items() if data.startswith(magic)), None)


def _container(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and data[14:15] and data[14] in _BMP_HEADER_BYTES:
        return "BMP"
    if _brands(data) & {b"avif", b"avis"}:
        return "AVIF"
    return None


def _unsupported_container(data: bytes) -> str | None:
    brands = _brands(data)
    if brands & _HEIF_BRANDS:
        return "HEIC"
    if brands:
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
