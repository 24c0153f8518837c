from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from model.errors import Undecodable
from model.pictures.damage import MAX_PIXELS
from model.pictures.decode import Picture, decode, encode_jpeg
from model.pictures.formats import PICTURE_SUFFIXES

Pixels = NDArray[np.uint8]

PNGSUITE = Path(__file__).parents[1] / "../shared/data/pngsuite/png"
PNG_FILES = sorted(PNGSUITE.glob("*.png"))
INTERLACED = [file for file in PNG_FILES if file.name.startswith(("basi", "s")) and file.name[3] == "i"]
needs_pngsuite = pytest.mark.skipif(not PNG_FILES, reason=f"no PNG suite at {PNGSUITE}")

EXACT: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "WEBP": {"lossless": True, "exact": True},
}
RED, GREEN, BLUE, GOLD = (255, 0, 0), (0, 128, 0), (0, 0, 255), (200, 160, 40)


def saved(image: Image.Image, format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def corners(size: tuple[int, int] = (48, 32)) -> Image.Image:
    """Four quarters of different colours: red green / blue gold."""
    image = Image.new("RGB", size, RED)
    width, height = size
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(GOLD, (width // 2, height // 2, width, height))
    return image


def smooth(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(x / a + y / b) for a, b in ((9, 31), (17, 13), (29, 41))]
    return Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))


def differ(a: Pixels, b: Pixels) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def reason(data: bytes) -> str:
    with pytest.raises(Undecodable) as refusal:
        decode(data)
    return refusal.value.reason


# --- Formats and modes --------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG", "AVIF"])
def test_every_supported_format_gives_its_colours_name_and_size(format_: str) -> None:
    picture = decode(saved(corners(), format_, **EXACT.get(format_, {})))
    assert (picture.format, picture.width, picture.height) == (format_, 48, 32)
    assert picture.rgb.dtype == np.uint8 and picture.rgb.flags.writeable
    assert differ(picture.rgb, np.array(corners())) <= (4 if format_ in {"JPEG", "AVIF"} else 0)


GREYS = np.arange(256, dtype=np.uint8).reshape(16, 16)
MODES = {
    "L png": (Image.fromarray(GREYS), "PNG", GREYS),
    "1 png": (Image.fromarray(GREYS > 99), "PNG", np.where(GREYS > 99, 255, 0)),
    "LA png": (Image.merge("LA", [Image.fromarray(GREYS)] * 2), "PNG", 255 - GREYS + GREYS * (GREYS / 255)),
    "16-bit png": (Image.fromarray(GREYS.astype(np.uint16) * 257), "PNG", GREYS),
    "16-bit tiff": (Image.fromarray(GREYS.astype(np.uint16) * 257), "TIFF", GREYS),
    "int tiff": (Image.fromarray(GREYS.astype(np.int32) * 257), "TIFF", GREYS),
    "float tiff to 1": (Image.fromarray(GREYS.astype(np.float32) / 255), "TIFF", GREYS),
    "float tiff to 255": (Image.fromarray(GREYS.astype(np.float32)), "TIFF", GREYS),
    "float tiff to 1e6": (Image.fromarray(GREYS.astype(np.float32) / 255 * 1e6), "TIFF", GREYS),
    "L webp": (Image.fromarray(GREYS), "TIFF", GREYS),
    "1 tiff": (Image.fromarray(GREYS > 99), "TIFF", np.where(GREYS > 99, 255, 0)),
}


@pytest.mark.parametrize("name", MODES)
def test_grey_modes_keep_their_meaning(name: str) -> None:
    image, format_, grey = MODES[name]
    expected = np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=-1)
    assert differ(decode(saved(image, format_)).rgb, expected) <= ("LA" in name)


def test_float_pixels_that_are_no_numbers_do_not_darken_the_others() -> None:
    values = np.array([[0, 0.5, 1.0], [np.nan, np.inf, -np.inf]], np.float32)
    grey = decode(saved(Image.fromarray(values), "TIFF")).rgb[..., 0]
    assert grey.tolist() == [[0, 128, 255], [0, 255, 0]]


def test_transparency_is_composited_on_white() -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0] = [(255, 0, 0, 255), (255, 0, 0, 128), (9, 9, 9, 0)]
    expected = np.array([[(255, 0, 0), (255, 127, 127), (255, 255, 255)]], np.uint8)
    for format_ in ("PNG", "WEBP", "TIFF"):
        data = saved(Image.fromarray(pixels), format_, **EXACT.get(format_, {}))
        assert differ(decode(data).rgb, expected) <= 1, format_


@pytest.mark.parametrize("transparency", [0, b"\x00\xff\x80"])
def test_a_transparent_palette_entry_is_white(transparency: int | bytes) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *BLUE, *BLUE])
    image.putdata([0, 1, 2])
    rgb = decode(saved(image, "PNG", transparency=transparency)).rgb
    half = BLUE if transparency == 0 else (127, 127, 255)
    assert rgb[0].tolist() == [[255, 255, 255], list(BLUE), list(half)]


@pytest.mark.parametrize("format_", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_counts(format_: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in (RED, BLUE, GOLD)]
    options = EXACT.get(format_, {})
    data = saved(frames[0], format_, save_all=True, append_images=frames[1:], **options)
    assert differ(decode(data).rgb, np.array(frames[0])) == 0


def test_a_picture_of_several_in_one_jpeg_is_read_as_its_first() -> None:
    data = saved(corners(), "MPO", save_all=True, append_images=[Image.new("RGB", (48, 32), BLUE)])
    picture = decode(data)
    assert (picture.format, picture.width) == ("JPEG", 48)
    assert differ(picture.rgb, decode(saved(corners(), "JPEG")).rgb) == 0


# --- Colour -------------------------------------------------------------------------------------

CMYK_INKS = {  # cyan, magenta, yellow, black -> what the plain formula (1 − ink)(1 − black) makes of them
    (0, 0, 0, 0): (255, 255, 255),
    (255, 0, 0, 0): (0, 255, 255),
    (0, 255, 255, 0): (255, 0, 0),
    (0, 0, 0, 255): (0, 0, 0),
    (0, 0, 0, 128): (127, 127, 127),
}


def without_adobe(jpeg: bytes) -> bytes:
    start = jpeg.index(b"\xff\xee")
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


@pytest.mark.parametrize("inks", CMYK_INKS)
def test_cmyk_jpegs_have_true_colours_whichever_way_ink_is_stored(inks: tuple[int, int, int, int]) -> None:
    adobe = saved(Image.new("CMYK", (16, 16), inks), "JPEG", quality=100)
    plain = without_adobe(saved(Image.new("CMYK", (16, 16), tuple(255 - ink for ink in inks)), "JPEG"))
    expected = np.full((16, 16, 3), CMYK_INKS[inks], np.uint8)
    assert differ(decode(adobe).rgb, expected) <= 3
    assert differ(decode(plain).rgb, expected) <= 3


def test_ycck_jpegs_are_read_as_what_they_mean() -> None:
    # libjpeg, jdcolor.c: YCCK is YCbCr of R = 1 − C…; Adobe stores C as 1 − ink, which makes R the ink.
    inks = (200, 100, 50)
    ycc = Image.new("RGB", (16, 16), inks).convert("YCbCr").getpixel((0, 0))
    assert isinstance(ycc, tuple)
    stored = Image.new("CMYK", (16, 16), (*(255 - int(value) for value in ycc), 0))
    data = bytearray(saved(stored, "JPEG", quality=100))
    data[data.index(b"Adobe") + 11] = 2
    expected = np.full((16, 16, 3), [255 - ink for ink in inks], np.uint8)
    assert differ(decode(bytes(data)).rgb, expected) <= 4


def xyz_profile() -> bytes:
    """A wide-gamut RGB profile: sRGB's with its red and green columns exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {profile[at : at + 4].decode(): at for at in range(132, 132 + 12 * profile[131], 12)}
    red, green = tags["rXYZ"], tags["gXYZ"]
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF"])
def test_an_embedded_profile_is_converted_to_srgb(format_: str) -> None:
    exchanged = corners().split()
    source = Image.merge("RGB", [exchanged[1], exchanged[0], exchanged[2]])
    expected = decode(saved(corners(), format_, quality=100)).rgb
    rgb = decode(saved(source, format_, quality=100, icc_profile=xyz_profile())).rgb
    assert differ(rgb[4:12, 4:20], expected[4:12, 4:20]) <= 6  # inside the red quarter
    assert differ(rgb[20:28, 4:20], expected[20:28, 4:20]) <= 6  # inside the blue quarter


def test_an_srgb_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for mode in ("RGB", "L", "RGBA", "P"):
        image = corners().convert(mode)
        with_profile = decode(saved(image, "PNG", icc_profile=profile)).rgb
        assert differ(with_profile, decode(saved(image, "PNG")).rgb) <= 1, mode


def test_a_grey_picture_obeys_the_colour_profile_it_carries() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exponent, lighter = (struct.pack(">i", round(gamma * 65536)) for gamma in (2.4, 1.2))
    assert exponent in profile
    image = Image.new("L", (8, 8), 128)
    options: dict[str, Any] = {"icc_profile": profile.replace(exponent, lighter)}
    rgb = decode(saved(image, "PNG", **options)).rgb
    assert rgb.min() > 150
    assert differ(rgb, decode(saved(image.convert("RGB"), "PNG", **options)).rgb) == 0


def cmyk_profile() -> bytes:
    """A CMYK → Lab table of 2 points a side whose paper is white and whose every ink prints black."""
    grid = np.zeros((16, 3), np.uint8) + np.array([0, 128, 128], np.uint8)
    grid[0] = [255, 128, 128]
    ramp = bytes(range(256))
    identity = b"".join(struct.pack(">i", (i % 4 == 0) << 16) for i in range(9))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + grid.tobytes() + ramp * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    tags, body, at = b"", b"", 128 + 4 + 2 * 12
    for name, tag in ((b"A2B0", table), (b"wtpt", white)):
        padded = tag + bytes(-len(tag) % 4)
        tags += name + struct.pack(">II", at + len(body), len(tag))
        body += padded
    header = bytearray(128)
    header[0:4] = struct.pack(">I", at + len(body))
    header[8:24] = b"\2\x10\0\0prtrCMYKLab "
    header[36:40], header[68:80] = b"acsp", struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    return bytes(header) + struct.pack(">I", 2) + tags + body


def test_a_cmyk_profile_decides_what_inks_look_like() -> None:
    inks = Image.new("CMYK", (32, 16), (0, 0, 0, 0))
    inks.paste((255, 0, 0, 0), (16, 0, 32, 16))  # cyan by the plain formula, black by this profile
    rgb = decode(saved(inks, "JPEG", quality=100, icc_profile=cmyk_profile())).rgb
    assert differ(rgb[:, :16], np.full((16, 16, 3), 255, np.uint8)) <= 3
    assert differ(rgb[:, 16:], np.full((16, 16, 3), 0, np.uint8)) <= 3


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_broken_or_foreign_profile_is_ignored(mode: str) -> None:
    image = corners().convert(mode)
    bare = decode(saved(image, "JPEG")).rgb
    foreign = cmyk_profile() if mode != "CMYK" else xyz_profile()
    for profile in (b"no profile at all", xyz_profile()[:200], foreign):
        assert differ(decode(saved(image, "JPEG", icc_profile=profile)).rgb, bare) == 0


# --- Orientation --------------------------------------------------------------------------------


def as_viewed(stored: Pixels, orientation: int) -> Pixels:
    """EXIF 2.32: which side of the stored picture the visual top and left are."""
    rows_then_columns = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: stored[::-1].transpose(1, 0, 2),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: stored[:, ::-1].transpose(1, 0, 2),
    }
    return rows_then_columns[orientation]


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright_and_report_the_size_a_viewer_shows(format_: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = saved(corners(), format_, exif=exif, **EXACT.get(format_, {}))
    turned = decode(data)
    expected = as_viewed(np.array(corners()), orientation)
    assert (turned.width, turned.height) == ((48, 32) if orientation < 5 else (32, 48))
    assert differ(turned.rgb, expected) <= 4
    reduced = decode(data, short_side=16)
    assert reduced.rgb.shape == ((16, 24, 3) if orientation < 5 else (24, 16, 3))
    assert (reduced.width, reduced.height) == (turned.width, turned.height)


CUT_EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x05\1\x12\0\x03"  # promises five entries; Pillow warns


@pytest.mark.parametrize("exif", [b"Exif\0\0rubbish", CUT_EXIF, b"Exif\0\0"])
def test_broken_exif_is_ignored_without_a_warning(exif: bytes) -> None:
    assert differ(decode(saved(corners(), "JPEG", exif=exif)).rgb, decode(saved(corners(), "JPEG")).rgb) == 0


# --- Reduction ----------------------------------------------------------------------------------


SIZES = [(1600, 1201), (1201, 1600), (257, 900), (256, 256), (100, 300), (2001, 515)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
def test_reduction_gives_exactly_the_short_side_and_looks_like_a_full_decode(
    size: tuple[int, int], format_: str
) -> None:
    data = saved(smooth(*size), format_)
    reduced, full = decode(data, short_side=256), decode(data)
    short = min(full.width, full.height)
    scale = min(256, short) / short
    target = (round(size[0] * scale), round(size[1] * scale))
    assert reduced.rgb.shape == (target[1], target[0], 3)
    assert (reduced.width, reduced.height) == size == (full.width, full.height)
    expected = np.array(Image.fromarray(full.rgb).resize(target, Image.Resampling.LANCZOS))
    error = float(np.mean((expected.astype(float) - reduced.rgb) ** 2))
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > 42  # dB


JPEG_KINDS: dict[str, dict[str, Any]] = {
    "4:2:0": {"subsampling": 2},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "RGB inside": {"keep_rgb": True},
}


@pytest.mark.parametrize("kind", JPEG_KINDS)
@pytest.mark.parametrize("size", [(700, 523), (348, 348), (1603, 1201), (33, 4000)])
def test_jpegs_decode_and_reduce_to_what_pillow_makes_of_them(size: tuple[int, int], kind: str) -> None:
    data = saved(smooth(*size), "JPEG", **JPEG_KINDS[kind])
    assert differ(decode(data).rgb, np.array(Image.open(io.BytesIO(data)))) == 0
    drafted = Image.open(io.BytesIO(data))
    made = drafted.draft(None, (384, 384))
    short = min(*size, 256)
    target = (round(size[0] * short / min(size)), round(size[1] * short / min(size)))
    expected = drafted.resize(target, Image.Resampling.LANCZOS, box=made[1] if made else None)
    assert differ(decode(data, short_side=256).rgb, np.array(expected)) <= 1


@pytest.mark.parametrize("size", [(1, 60000), (60000, 1), (1, 1), (3, 40000)])
@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
def test_extreme_shapes_stay_pictures(size: tuple[int, int], format_: str) -> None:
    data = saved(Image.new("RGB", size, GOLD), format_)
    for short_side in (1, 256):
        picture = decode(data, short_side=short_side)
        assert (picture.width, picture.height) == size
        assert min(picture.rgb.shape[:2]) == min(short_side, *size)
        assert decode(encode_jpeg(picture.rgb)).rgb.shape == picture.rgb.shape


def test_encoding_keeps_colours_and_refuses_what_a_jpeg_cannot_hold() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = RED, BLUE  # 4:2:0 would make purple of this
    assert np.abs(decode(encode_jpeg(stripes)).rgb.astype(int) - stripes).mean() < 8
    assert len(encode_jpeg(stripes, quality=30)) < len(encode_jpeg(stripes))
    with pytest.raises(Undecodable, match="too large: 1 × 70000 pixels"):
        encode_jpeg(np.zeros((70000, 1, 3), np.uint8))


# --- Refusals -----------------------------------------------------------------------------------

REASONS = {
    b"": "empty file",
    b"<html><body>404</body></html>": "not a picture: it begins with '<html><body>'…",
    b"\0\0\0\0\0\0\0\0": "not a picture: it begins with bytes 00 00 00 00",
    b"hello": "not a picture: it begins with 'hello'",
    b"BMW is a maker of cars": "not a picture: it begins with 'BMW is a mak'…",
    b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>': "unsupported format: SVG",
    b"<?xml version='1.0'?><rss/>": "not a picture: it begins with '<?xml versio'…",
    b"%PDF-1.7\n": "unsupported format: PDF",
    b"%!PS-Adobe-3.0 EPSF-3.0": "unsupported format: PostScript",
    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic": "truncated HEIC: the file ends after 24 bytes",
    b"\0\0\0\x18ftypisom\0\0\0\0mp41avc1": "unsupported format: video",
    b"8BPS\0\1": "unsupported format: Photoshop",
    b"\x89PNG\r\r\n\x1a\n": "damaged PNG: its signature is altered, as by a transfer in text mode",
    b"\x89PNG\r\n\x1a\n\0\0": "truncated PNG: the file ends after 10 bytes",
    b"\xff\xd8\xff": "truncated JPEG: the file ends after 3 bytes",
    b"\xff\xd8\xff\xd9": "damaged JPEG: it cannot be decoded",
    b"GIF89a": "truncated GIF: the file ends after 6 bytes",
}


@pytest.mark.parametrize("data", REASONS)
def test_what_is_no_picture_is_refused_with_a_reason_a_person_understands(data: bytes) -> None:
    assert reason(data) == REASONS[data]


def png_of(width: int, height: int, *, depth: int = 8, colour: int = 2, key: bytes = b"", rows: bytes = b"") -> bytes:
    """A PNG made by hand, which may only claim its size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [header, *([b"tRNS" + key] if key else []), b"IDAT" + zlib.compress(rows), b"IEND"]
    packed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_decompression_bombs_are_refused_by_their_claimed_size() -> None:
    assert reason(png_of(30000, 30000)) == "too large: 30000 × 30000 pixels, at most 200 million"
    assert reason(png_of(MAX_PIXELS + 1, 1)).startswith("too large: 200000001 × 1 pixels")
    assert reason(png_of(10000, 10000)) == "damaged PNG: it cannot be decoded"  # the size itself is allowed
    vp8x = b"VP8X\x0a\0\0\0\0\0\0\0" + (16383).to_bytes(3, "little") * 2
    webp = b"WEBP" + vp8x + b"VP8L" + (5).to_bytes(4, "little") + b"\x2f\xff\xff\xff\x0f\0"
    riff = b"RIFF" + len(webp).to_bytes(4, "little")
    assert reason(riff + webp) == "too large for its decoder: more than 178 million pixels"
    gif = bytearray(saved(corners(), "GIF"))
    gif[6:10] = b"\xff\xff\xff\xff"
    assert reason(bytes(gif)) == "too large: 65535 × 65535 pixels, at most 200 million"


CUTTABLE = {
    "JPEG": saved(smooth(40, 30), "JPEG"),
    "JPEG progressive": saved(smooth(40, 30), "JPEG", progressive=True),
    "PNG": saved(smooth(40, 30), "PNG"),
    "GIF": saved(smooth(40, 30), "GIF"),
    "BMP": saved(smooth(40, 30), "BMP"),
    "TIFF": saved(smooth(40, 30), "TIFF"),
    "TIFF lzw": saved(smooth(40, 30), "TIFF", compression="tiff_lzw"),
    "WEBP": saved(smooth(40, 30), "WEBP"),
    "AVIF": saved(smooth(40, 30), "AVIF"),
}


@pytest.mark.parametrize("name", CUTTABLE)
def test_a_file_cut_anywhere_is_refused_as_truncated_or_gives_every_pixel(name: str) -> None:
    data = CUTTABLE[name]
    whole = decode(data).rgb
    for length in range(20, len(data) - 1, max(1, len(data) // 97)):
        try:
            assert differ(decode(data[:length]).rgb, whole) == 0
        except Undecodable as refusal:
            format_ = name.split(maxsplit=1)[0]
            allowed = {f"truncated {format_}: the file ends after {length} bytes"}
            if format_ == "TIFF":  # whose directory is there, but not what it points to
                allowed.add("damaged TIFF: it cannot be decoded")
            assert refusal.reason in allowed


# --- The PNG suite ------------------------------------------------------------------------------


def unfiltered(raw: bytes, height: int, row_bytes: int, pixel_bytes: int) -> Pixels:
    """PNG (third edition), 9: each byte is stored as a difference from its neighbours."""
    out = np.zeros((height + 1, row_bytes + pixel_bytes), int)
    for y in range(height):
        kind, *row = raw[y * (row_bytes + 1) : (y + 1) * (row_bytes + 1)]
        for x, value in enumerate(row, start=pixel_bytes):
            a, b, c = out[y + 1, x - pixel_bytes], out[y, x], out[y, x - pixel_bytes]
            paeth = min((a, b, c), key=lambda v, p=a + b - c: abs(p - v))  # type: ignore[misc]
            out[y + 1, x] = (value + (0, a, b, (a + b) // 2, paeth)[kind]) % 256
    return out[1:, pixel_bytes:].astype(np.uint8)


def samples(rows: Pixels, depth: int, count: int) -> NDArray[np.int64]:
    if depth == 16:
        return rows.view(">u2").astype(np.int64)
    bits = np.unpackbits(rows, axis=1).reshape(len(rows), -1, depth)[:, :count]
    values: NDArray[np.int64] = bits @ (1 << np.arange(depth)[::-1])
    return values


def by_the_specification(data: bytes) -> Pixels | None:
    """Decode a PNG that is not interlaced, slowly, in float: its pixels on white."""
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        chunks[kind] = chunks.get(kind, b"") + data[at + 8 : at + 8 + length]
        at += 12 + length
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    if interlaced:
        return None
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row_bytes = (width * channels * depth + 7) // 8
    raw = zlib.decompress(chunks[b"IDAT"])
    rows = unfiltered(raw, height, row_bytes, max(1, channels * depth // 8))
    pixels = samples(rows, depth, width * channels).reshape(height, width, channels)
    key, unit = chunks.get(b"tRNS"), pixels / (2**depth - 1)
    alpha = np.ones((height, width, 1))
    if colour == 3:
        unit = np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)[pixels[..., 0]] / 255
        if key is not None:
            alpha = np.frombuffer(key.ljust(256, b"\xff"), np.uint8)[pixels] / 255
    elif colour in (4, 6):
        alpha, unit = unit[..., -1:], unit[..., :-1]
    elif key is not None:
        alpha = 1.0 - (pixels == np.frombuffer(key, ">u2")).all(axis=-1, keepdims=True)
    flat = np.broadcast_to(unit * alpha + 1 - alpha, (height, width, 3))
    on_white: Pixels = np.rint(flat * 255).astype(np.uint8)
    return on_white


@needs_pngsuite
@pytest.mark.parametrize("file", PNG_FILES, ids=lambda file: file.stem)
def test_the_png_suite_is_read_as_the_specification_says(file: Path) -> None:
    data = file.read_bytes()
    if file.name.startswith("x"):
        assert reason(data).startswith(("damaged PNG: ", "not a picture: ", "truncated PNG: "))
        return
    picture = decode(data)
    assert (picture.width, picture.height) == struct.unpack(">II", data[16:24])
    assert picture.rgb.shape == (picture.height, picture.width, 3)
    expected = by_the_specification(data)
    if expected is not None:
        assert differ(picture.rgb, expected) <= 1  # 16-bit colours lose their low byte in Pillow


KEYED = {  # the transparent colour is dark, unlike the suite's, whose white on white proves nothing
    "1-bit grey": png_of(8, 1, depth=1, colour=0, key=b"\0\0", rows=b"\0\x5a"),
    "2-bit grey": png_of(4, 1, depth=2, colour=0, key=b"\0\1", rows=b"\0\x1b"),
    "4-bit grey": png_of(4, 1, depth=4, colour=0, key=b"\0\5", rows=b"\0\x05\x5f"),
    "8-bit grey": png_of(3, 1, colour=0, key=b"\0\5", rows=b"\0\x05\x06\xf5"),
    "16-bit grey": png_of(3, 1, depth=16, colour=0, key=b"\x12\x34", rows=b"\0\x12\x34\x12\x35\0\x34"),
    "8-bit colour": png_of(2, 1, key=b"\0\1\0\2\0\3", rows=b"\0\1\2\3\1\2\4"),
    "16-bit colour": png_of(
        2, 1, depth=16, key=b"\1\x99\2\x99\3\x99", rows=b"\0" + b"\1\x99\2\x99\3\x99" + b"\x09" * 6
    ),
}


@pytest.mark.parametrize("name", KEYED)
def test_the_transparent_colour_of_a_png_is_in_its_own_bit_depth(name: str) -> None:
    expected = by_the_specification(KEYED[name])
    assert expected is not None and (expected == 255).all(axis=-1).any()
    assert differ(decode(KEYED[name]).rgb, expected) <= 1


@needs_pngsuite
@pytest.mark.parametrize("file", INTERLACED, ids=lambda file: file.stem)
def test_interlaced_pngs_equal_their_plain_twins(file: Path) -> None:
    twin = file.with_name(f"{file.name[:3]}n{file.name[4:]}")
    assert differ(decode(file.read_bytes()).rgb, decode(twin.read_bytes()).rgb) == 0


# --- Whatever the bytes -------------------------------------------------------------------------

VALID = [
    *CUTTABLE.values(),
    saved(corners().convert("P"), "PNG", transparency=3),
    saved(corners().convert("CMYK"), "JPEG", icc_profile=cmyk_profile()),
    saved(Image.fromarray(GREYS.astype(np.uint16) * 257), "PNG"),
    saved(Image.fromarray(GREYS.astype(np.float32)), "TIFF"),
    saved(corners(), "JPEG", exif=bytes.fromhex("45786966000049492a00080000000100120103000100000006000000")),
    saved(corners(), "PNG", save_all=True, append_images=[corners()]),
    saved(corners(), "WEBP", save_all=True, append_images=[smooth(48, 32)]),
]


def decodes_or_refuses(data: bytes) -> None:
    """The whole contract: a picture of the promised shape, or Undecodable; warnings are errors here."""
    try:
        picture = decode(data, short_side=24)
    except Undecodable as refusal:
        assert 0 < len(refusal.reason) < 100 and "object at 0x" not in refusal.reason
        return
    assert isinstance(picture, Picture)
    assert picture.rgb.ndim == 3 and picture.rgb.shape[2] == 3 and picture.rgb.dtype == np.uint8
    assert min(picture.rgb.shape[:2]) == min(24, picture.width, picture.height)


@given(st.binary(max_size=200), st.sampled_from([b"", *(data[:n] for data in VALID for n in (4, 16, 60))]))
@settings(max_examples=300, derandomize=True)
def test_random_bytes_never_raise_anything_else(tail: bytes, head: bytes) -> None:
    decodes_or_refuses(head + tail)


@given(st.data())
@settings(max_examples=500, derandomize=True)
def test_damaged_pictures_never_raise_anything_else(draw: st.DataObject) -> None:
    data = bytearray(draw.draw(st.sampled_from(VALID)))
    for _ in range(draw.draw(st.integers(1, 4))):
        # Headers are where codecs go wrong in the most ways.
        at = draw.draw(st.integers(0, min(400, len(data) - 1)) | st.integers(0, len(data) - 1))
        if draw.draw(st.booleans()):
            data[at] = draw.draw(st.integers(0, 255))
        else:
            data[at : at + draw.draw(st.integers(0, 30))] = draw.draw(st.binary(max_size=30))
    decodes_or_refuses(remade(bytes(data)))


def remade(data: bytes) -> bytes:
    """Give a damaged PNG true checksums again, so that the damage gets past them."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    out, at = bytearray(data), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 <= len(data):
            out[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(out)


# --- Company ------------------------------------------------------------------------------------


def test_threads_decode_alike_and_leak_no_warning() -> None:
    noisy = saved(corners(), "JPEG", exif=CUT_EXIF, icc_profile=xyz_profile())
    inputs = [noisy, *VALID] * 8
    alone = [decode(data, short_side=20).rgb for data in inputs]
    gate = threading.Barrier(4)

    def work(_: int) -> list[Pixels]:
        gate.wait()
        return [decode(data, short_side=20).rgb for data in inputs]

    with ThreadPoolExecutor(4) as pool:
        for together in pool.map(work, range(4)):
            assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_others_still_get_their_own_warnings() -> None:
    decode(CUTTABLE["PNG"])
    with pytest.raises(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)


def test_suffixes_are_lower_case_and_importing_stays_light() -> None:
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in PICTURE_SUFFIXES)
    code = "import sys, model.pictures.decode; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
