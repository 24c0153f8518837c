"""Picture bytes in, upright 8-bit sRGB arrays out, or `Undecodable` with a reason a person understands.

Knows file formats and colour; knows nothing of storage or what the picture is for. Pillow reads every format; a
plain JPEG's pixels come from libjpeg-turbo at once, and pixels are resized by torch's vector code, both of which give
what Pillow gives in a third of the time.
"""

import io
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageChops, ImageCms
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ExifTags import Base as ExifTag
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from model.errors import Undecodable

__all__ = ["MAX_PIXELS", "PICTURE_SUFFIXES", "Picture", "decode", "encode_jpeg", "get_ready"]

log = logging.getLogger(__name__)

MAX_PIXELS = 100_000_000
JPEG_MAX_SIDE = 65_500  # libjpeg's own limit

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

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """One decoded picture; its width and height are the original's, as a viewer shows it."""

    rgb: Pixels  # [height, width, 3], sRGB, upright; reduced when decode was asked to
    format: str
    width: int
    height: int


def decode(data: bytes, *, short_side: int | None = None) -> Picture:
    """Decode the first frame to sRGB on white; `short_side` reduces it (never enlarges) to that short side.

    Raises:
        Undecodable: whatever is wrong with the bytes; no other exception leaves here because of them.
    """
    format_ = _identify(data)
    with _refusals(format_, data):
        image = _open(format_, data)
        size, extent = image.size, _draft(image, short_side)
        plain = _pixels_of_plain_jpeg(image, data)
        flat = _flattened(image, data) if plain is None else plain
        turn = _turn(image)
        rgb = _srgb(_reduced(flat, size, extent, short_side), image.info.get("icc_profile"))
        width, height = size[::-1] if turn in _SIDEWAYS else size
        return Picture(rgb if turn is None else _turned(rgb, turn), format_, width, height)


def get_ready() -> None:
    """Load what reduces pictures, seconds the first time: otherwise the first picture would seem to take them."""
    import torch  # noqa: F401


def encode_jpeg(rgb: Pixels, quality: int = 90) -> bytes:
    """Encode [height, width, 3] as JPEG with full colour resolution: small pictures lose much by 4:2:0.

    Raises:
        Undecodable: a side is longer than a JPEG can be.
    """
    height, width = rgb.shape[:2]
    if max(height, width) > JPEG_MAX_SIDE:
        raise Undecodable(f"too large: {width} × {height} pixels, a JPEG side is at most {JPEG_MAX_SIDE}")
    # Not Pillow: it holds the GIL while it encodes.
    jpeg: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality=quality, colorsubsampling="444")
    return jpeg


# --- What the bytes are ---------------------------------------------------------------------------

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


def _identify(data: bytes) -> str:
    """The format's name; refuses what is empty, no picture, or a picture that is not read here."""
    if not data:
        raise Undecodable("empty file")
    format_ = _starts(data, _MAGIC) or _container(data)
    if format_:
        return format_
    unsupported = _starts(data, _UNSUPPORTED_MAGIC) or _unsupported_container(data)
    if unsupported:
        raise Undecodable(f"unsupported format: {unsupported}")
    raise Undecodable(f"not a picture: it begins with {_shown(data)}")


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


# --- Opening, and what can be refused before a pixel is decoded -----------------------------------


def _open(format_: str, data: bytes) -> ImageFile:
    _ignore_pillow_warnings()
    if format_ == "PNG":
        _check_png(data)
    image = _READERS[format_](io.BytesIO(data))
    _check_size(*image.size)
    return image


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Undecodable(f"too large: {width} × {height} pixels, at most {MAX_PIXELS // 1_000_000} million")


def _check_png(data: bytes) -> None:
    """Verify the checksums of all chunks a picture is made of; Pillow skips those of the pixels."""
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


def _ignore_pillow_warnings() -> None:
    """Keep odd metadata from becoming console noise, or an exception where warnings are errors.

    One idempotent process-wide filter, because `warnings.catch_warnings` is not thread safe.
    """
    if warnings.filters[0] != _PILLOW_WARNINGS:
        warnings.filterwarnings("ignore", module=_PILLOW_WARNINGS[3].pattern)


_PILLOW_WARNINGS: Any = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


# --- Why not ----------------------------------------------------------------------------------------


@contextmanager
def _refusals(format_: str, data: bytes) -> Iterator[None]:
    """Turn whatever a codec raises into one short reason that depends on the bytes alone."""
    try:
        yield
    except Undecodable:
        raise
    except Image.DecompressionBombError as error:
        raise Undecodable(f"too large: more than {MAX_PIXELS // 1_000_000} million pixels") from error
    except Exception as error:  # codecs raise nearly everything: struct.error, AssertionError, KeyError…
        log.debug("%s: %r", format_, error)
        raise Undecodable(_reason(format_, data, error)) from error


def _reason(format_: str, data: bytes, error: Exception) -> str:
    if _ends_early(format_, data) or (format_ == "TIFF" and "truncated" in str(error)):
        return _cut(format_, data)
    return f"damaged {format_}: it cannot be decoded"


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


# --- Pixels: eight bits, on white, reduced, sRGB, upright -------------------------------------------

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_TURNS[orientation] for orientation in (5, 6, 7, 8)}
_GREY = {"1", "L", "LA", "La"}

Extent = tuple[float, float, float, float]


def _draft(image: ImageFile, short_side: int | None) -> Extent | None:
    """Let libjpeg decode at 1/2, 1/4 or 1/8 where that still leaves 1.5 times the side needed.

    Returns where the picture lies within what will be decoded, whose sides are rounded up.
    """
    if not isinstance(image, JpegImageFile) or short_side is None:
        return None
    least = 3 * short_side // 2  # 53–55 dB from the full decode; at 1 × it would be 49
    drafted = image.draft(None, (least, least))
    return drafted[1] if drafted else None


def _pixels_of_plain_jpeg(image: ImageFile, data: bytes) -> Pixels | None:
    """The pixels of a JPEG in the usual colours, drafted as the image is; None where Pillow has to look at it.

    Whatever libjpeg has to say of the file, be it a mere warning, is left to Pillow to judge.
    """
    if not isinstance(image, JpegImageFile) or image.mode != "RGB":
        return None
    width, height = image.size
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, min_width=width, min_height=height)
    except ValueError:
        return None
    return pixels if pixels.shape == (height, width, 3) else None


def _turn(image: ImageFile) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(ExifTag.Orientation, 1))
    except Exception as error:  # broken metadata is no reason to refuse good pixels
        log.debug("orientation ignored: %r", error)
        return None


def _turned(rgb: Pixels, turn: Image.Transpose) -> Pixels:
    return np.array(Image.fromarray(rgb).transpose(turn))


def _flattened(image: ImageFile, data: bytes) -> Image.Image | Pixels:
    image.load()
    return _on_white(_eight_bit(image, data))


def _eight_bit(image: ImageFile, data: bytes) -> Image.Image:
    """Bring 16-bit, integer and float grey to eight bits (Pillow would clip them), mend what it misreads."""
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled(image)
    if isinstance(image, JpegImageFile) and image.mode == "CMYK" and "adobe" not in image.info:
        return ImageChops.invert(image)  # only Adobe stores ink inverted; Pillow assumes it everywhere
    if isinstance(image, PngImageFile):
        _mend_colour_key(image, depth=data[24])
    return image


def _scaled(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    grey = Image.fromarray(_SIXTEEN_TO_EIGHT[values] if image.mode.startswith("I;16") else _from_numbers(values))
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey


_SIXTEEN_TO_EIGHT = np.rint(np.arange(65536) / 257).astype(np.uint8)


def _from_numbers(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    full = _full_scale(values)
    unit = np.clip(np.nan_to_num(values, nan=0.0, posinf=full, neginf=0.0), 0, full) / np.float32(full)
    eight: npt.NDArray[np.uint8] = np.rint(unit * 255).astype(np.uint8)
    return eight


def _full_scale(values: npt.NDArray[Any]) -> float:
    """White in a picture whose format does not say: 1 for floats, 255, 65535, or the largest value."""
    top = float(np.max(values, where=np.isfinite(values), initial=0))
    usual = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
    return next((full for full in usual if top <= full), top)


def _mend_colour_key(image: PngImageFile, depth: int) -> None:
    """A PNG's transparent colour is in the file's bit depth; Pillow compares it with eight-bit pixels."""
    key = image.info.get("transparency")
    if isinstance(key, tuple) and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in key)
    elif isinstance(key, int) and image.mode == "L":
        image.info["transparency"] = key * 255 // (2**depth - 1)


def _on_white(image: Image.Image) -> Image.Image | Pixels:
    """Flatten to RGB pixels, or to an image in L, CMYK or LAB."""
    plain = "L" if image.mode in _GREY else "RGB"
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert(plain)
    elif image.mode not in {"CMYK", "LAB"}:
        image = image.convert(plain)
    return np.array(image) if image.mode == "RGB" else image


def _reduced(
    flat: Image.Image | Pixels, size: tuple[int, int], extent: Extent | None, short_side: int | None
) -> Image.Image | Pixels:
    short = min(size)
    if short_side is None or short_side >= short:
        return flat
    width, height = (max(1, round(side * short_side / short)) for side in size)
    if isinstance(flat, np.ndarray):
        return shrunk(flat, width, height, extent)
    return flat.resize((width, height), Image.Resampling.LANCZOS, box=extent, reducing_gap=3.0)


def shrunk(pixels: Pixels, width: int, height: int, extent: Extent | None) -> Pixels:
    """What Pillow's LANCZOS gives of the extent, ± 1, several times as fast."""
    from torch import from_numpy, inference_mode
    from torch.nn.functional import interpolate

    within = extent[2:] if extent is not None else None
    with inference_mode():
        batch = from_numpy(pixels)[np.newaxis].permute(0, 3, 1, 2)  # channels last, so that nothing is copied
        if within is None or within == (pixels.shape[1], pixels.shape[0]):
            small = interpolate(batch, size=(height, width), mode="lanczos", antialias=True)
        else:
            scale = (height / within[1], width / within[0])
            small = interpolate(batch, scale_factor=scale, mode="lanczos", antialias=True)
    shrunk: Pixels = small[0].permute(1, 2, 0).numpy()
    return shrunk


def _srgb(flat: Image.Image | Pixels, icc: bytes | None) -> Pixels:
    mode = "RGB" if isinstance(flat, np.ndarray) else flat.mode
    from_mode, transform = _icc_transform(icc) if icc else ("", None)
    if transform is None or (mode != from_mode and (mode, from_mode) != ("L", "RGB")):
        return flat if isinstance(flat, np.ndarray) else np.array(flat.convert("RGB"))
    image = Image.fromarray(flat) if isinstance(flat, np.ndarray) else flat
    return np.array(transform.apply(image.convert(from_mode)))


@lru_cache(maxsize=16)  # a shop's pictures come from few cameras and programs; building one takes 1–20 ms
def _icc_transform(icc: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The mode that a profile describes and its transform to sRGB; a broken profile has none."""
    modes = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK", "Lab": "LAB"}
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        mode = modes[profile.profile.xcolor_space.strip()]
        return mode, ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except Exception as error:
        log.debug("colour profile ignored: %r", error)
        return "", None
