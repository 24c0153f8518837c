"""Odd but showable files of every other format, and files that only seem to be."""

from __future__ import annotations

import io
import itertools
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from model.pictures.decode import decode
from model.pictures.formats import PICTURE_SUFFIXES
from model.pictures.png import WITHOUT_END
from tests.gradient import GREY, HEIGHT, RGB, WIDTH, off, refusal, saved

# --- Formats --------------------------------------------------------------------------------------


def heic(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=100, chroma=444, **options)
    return file.getvalue()


def jpeg_xl(pixels: NDArray[Any], **options: Any) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(pixels, **options))


ANIMATED: dict[str, Any] = {"save_all": True, "append_images": [Image.new("RGB", (WIDTH, HEIGHT))]}
FORMATS: dict[str, tuple[bytes, int]] = {
    "HEIC": (heic(Image.fromarray(RGB)), 4),
    "HEIC, grey": (heic(Image.fromarray(GREY[..., 0])), 4),
    "JPEG 2000": (saved("JPEG2000"), 0),
    "JPEG 2000, bare": (saved("JPEG2000", no_jp2=True), 0),
    "JPEG 2000, grey of 16 bits": (saved("JPEG2000", Image.fromarray(GREY[..., 0].astype(np.uint16) * 257)), 1),
    "ICO": (saved("ICO", sizes=[(WIDTH, HEIGHT)]), 0),
    "ICO, bitmap": (saved("ICO", sizes=[(WIDTH, HEIGHT), (16, 16)], bitmap_format="bmp"), 0),
    "DIB": (saved("DIB"), 0),
    "JPEG XL": (jpeg_xl(RGB, lossless=True), 0),
    "JPEG XL, lossy": (jpeg_xl(RGB, level=99), 25),
    "JPEG XL, box": (jpeg_xl(RGB, lossless=True, usecontainer=True), 0),
    "JPEG XL, grey": (jpeg_xl(GREY[..., 0], lossless=True), 0),
    "AVIF, animated": (saved("AVIF", quality=100, subsampling="4:4:4", **ANIMATED), 4),
    "WEBP, animated": (saved("WEBP", lossless=True, **ANIMATED), 0),
    "PNG, animated": (saved("PNG", **ANIMATED), 0),
    "JPEG, of several": (saved("MPO", quality=100, subsampling=0, **ANIMATED), 4),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_its_picture_and_its_name(name: str) -> None:
    data, tolerance = FORMATS[name]
    picture = decode(data)
    assert off(picture.rgb, GREY if "grey" in name else RGB) <= tolerance
    assert (picture.format, picture.width, picture.height) == (name.split(",", maxsplit=1)[0], WIDTH, HEIGHT)
    assert picture.remark is None


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_cut_anywhere_never_becomes_another_picture(name: str) -> None:
    data, tolerance = FORMATS[name]
    expected = GREY if "grey" in name else RGB
    for length in range(20, len(data), max(1, len(data) // 29)):
        if refusal(data[:length]) is None:
            assert off(decode(data[:length]).rgb, expected) <= tolerance, length


def test_each_of_these_names_is_a_pictures() -> None:
    others = {".mpo", ".apng", ".dib", ".jfif", ".pjpeg", ".jpe", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".ico"}
    assert others <= PICTURE_SUFFIXES


def test_linear_light_in_a_jpeg_xl_is_shown_as_it_looks() -> None:
    light = np.linspace(0, 65535, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint16)
    grey = decode(jpeg_xl(light, lossless=True)).rgb[..., 0]  # libjxl takes 16 bits for linear
    unit = light / 65535
    coded = np.where(unit <= 0.0031308, 12.92 * unit, 1.055 * unit ** (1 / 2.4) - 0.055)
    assert off(grey, np.rint(coded * 255).astype(np.uint8)) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heic_stands_upright_as_its_maker_turned_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    upright = decode(saved("PNG", exif=exif)).rgb
    assert off(decode(heic(Image.fromarray(RGB), exif=exif.tobytes())).rgb, upright) <= 6


def test_an_icon_is_as_large_as_the_png_in_it() -> None:
    png = saved("PNG")
    header = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22)
    picture = decode(header + png)
    assert (picture.width, picture.height) == (WIDTH, HEIGHT)
    bomb = bytearray(header + png)
    struct.pack_into(">II", bomb, 22 + 16, 40_000, 40_000)
    bomb[22 + 29 : 22 + 33] = zlib.crc32(bomb[22 + 12 : 22 + 29]).to_bytes(4, "big")
    assert str(refusal(bytes(bomb))).startswith("too large: 40000 × 40000 pixels")


# --- JPEG -----------------------------------------------------------------------------------------

JPEGS: dict[str, bytes] = {
    "plain": saved("JPEG", quality=95),
    "progressive": saved("JPEG", quality=95, progressive=True),
    "grey": saved("JPEG", Image.fromarray(GREY[..., 0]), quality=95),
    "grey, progressive": saved("JPEG", Image.fromarray(GREY[..., 0]), quality=95, progressive=True),
    "inks": saved("JPEG", Image.fromarray(RGB).convert("CMYK"), quality=95),
    "restarts": saved("JPEG", quality=95, restart_marker_blocks=3),
}


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("bytes_short", [1, 2])
def test_a_jpeg_that_lacks_only_its_end_mark_is_shown_and_flagged(name: str, bytes_short: int) -> None:
    whole = decode(JPEGS[name])
    short = decode(JPEGS[name][:-bytes_short])
    assert off(short.rgb, whole.rgb) == 0
    assert (whole.remark, short.remark) == (None, WITHOUT_END)


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("ended", [False, True])
def test_a_jpeg_that_lacks_rows_or_scans_is_truncated_even_with_an_end_mark(name: str, ended: bool) -> None:
    data, whole = JPEGS[name], decode(JPEGS[name]).rgb
    scan = data.index(b"\xff\xda")
    for length in range(scan + 20, len(data) - 3):
        cut = data[:length] + (b"\xff\xd9" if ended else b"")
        reason = refusal(cut)
        if reason is None and not (ended and "progressive" in name):
            assert off(decode(cut).rgb, whole) == 0, length
        elif reason is not None:
            assert reason.startswith(("truncated JPEG", "damaged JPEG") if ended else "truncated JPEG"), length


def test_a_progressive_jpeg_cut_between_two_scans_is_truncated() -> None:
    data = JPEGS["progressive"]
    scans = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]
    tables = [data.rfind(b"\xff\xc4", 0, scan) for scan in scans]
    for start in (min(place for place in pair if place > 0) for pair in zip(tables[1:], scans[1:], strict=True)):
        assert str(refusal(data[:start])).startswith("truncated JPEG")


@pytest.mark.parametrize(
    "before", [b"\r\n", b"\n", b"\xef\xbb\xbf", b"\0\0\0\0", b"Content-Type: image/jpeg\r\n\r\n", b"junk"]
)
@pytest.mark.parametrize("name", ["plain", "progressive", "inks"])
def test_bytes_before_a_jpeg_do_not_hide_it(name: str, before: bytes) -> None:
    assert off(decode(before + JPEGS[name]).rgb, decode(JPEGS[name]).rgb) == 0


@pytest.mark.parametrize("after", [bytes(500), b"junk" * 300, b"\xff" * 70, JPEGS["grey"]])
@pytest.mark.parametrize("name", JPEGS)
def test_bytes_after_a_jpeg_do_not_matter(name: str, after: bytes) -> None:
    assert off(decode(JPEGS[name] + after).rgb, decode(JPEGS[name]).rgb) == 0


@pytest.mark.parametrize("blank", [b"\r\n", b"\xef\xbb\xbf"])
def test_blanks_that_a_program_printed_before_a_picture_do_not_hide_it(blank: bytes) -> None:
    for format_ in ("PNG", "GIF", "TIFF", "BMP"):
        assert off(decode(blank + saved(format_)).rgb, decode(saved(format_)).rgb) == 0 or format_ == "TIFF"


def test_jpegs_of_other_kinds_say_what_they_are() -> None:
    grey = GREY[..., 0].astype(np.uint16) * 16
    assert refusal(bytes(imagecodecs.jpeg8_encode(grey, bitspersample=12))) == "not supported: a JPEG of 12 bits"
    assert off(decode(bytes(imagecodecs.ljpeg_encode(GREY[..., 0].copy()))).rgb, GREY) == 0
    assert refusal(bytes(imagecodecs.jpegls_encode(GREY[..., 0].copy()))) == "not supported: a JPEG-LS"


# --- PNG ------------------------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        found.append((kind, png[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def with_chunk(png: bytes, extra: bytes) -> bytes:
    return png[:33] + extra + png[33:]


ANCILLARY = [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"hIST", b"tIME"]
ANCILLARY += [b"acTL", b"fcTL", b"fdAT", b"cICP", b"eXIf", b"sPLT", b"oFFs", b"caNv", b"juNK"]


@pytest.mark.parametrize("kind", ANCILLARY)
def test_no_chunk_beside_the_pixels_can_spoil_them(kind: bytes) -> None:
    png = saved("PNG")
    for body in (b"", b"\0", b"x\0\1zz", bytes(8), bytes(range(256)), zlib.compress(bytes(5_000_000))):
        good = chunk(kind, body)
        for extra in (good, good[:-1] + bytes([good[-1] ^ 1])):
            assert off(decode(with_chunk(png, extra)).rgb, RGB) == 0, body[:8]


def test_texts_and_profiles_may_be_large() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 1_200_000, zip=True)
    text.add_itxt("XML:com.adobe.xmp", "y" * 5_200_000)
    assert off(decode(saved("PNG", pnginfo=text)).rgb, RGB) == 0
    bomb = chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(200_000_000), 9))
    assert off(decode(with_chunk(saved("PNG"), bomb)).rgb, RGB) == 0


PNGS = {
    "colours": saved("PNG"),
    "palette": saved("PNG", Image.fromarray(RGB).convert("P"), transparency=3),
    "grey of 16 bits": saved("PNG", Image.fromarray(GREY[..., 0].astype(np.uint16) * 257)),
}


@pytest.mark.parametrize("name", PNGS)
def test_a_damaged_chunk_of_the_pixels_is_refused(name: str) -> None:
    png = PNGS[name]
    for broken, (kind, _) in enumerate(chunks(png)):
        rebuilt = png[:8]
        for number, (each, body) in enumerate(chunks(png)):
            whole = chunk(each, body)
            rebuilt += whole[:-1] + bytes([whole[-1] ^ 1]) if number == broken else whole
        if kind != b"IEND":
            assert refusal(rebuilt) == "damaged PNG: a checksum is wrong", kind


@pytest.mark.parametrize("name", PNGS)
def test_a_png_without_its_end_is_shown_only_where_every_row_is_there(name: str) -> None:
    png, whole = PNGS[name], decode(PNGS[name]).rgb
    assert decode(png[:-12]).remark == WITHOUT_END
    for length in range(33, len(png)):
        reason = refusal(png[:length])
        if reason is None:
            assert off(decode(png[:length]).rgb, whole) == 0
            assert length > len(png) - 24  # the last bytes of the stream are only its checksum
        else:
            assert reason.startswith("truncated PNG")


def test_a_suggested_palette_that_is_damaged_does_not_matter() -> None:
    bad = chunk(b"PLTE", bytes(range(9)))
    assert off(decode(with_chunk(saved("PNG"), bad[:-1] + bytes([bad[-1] ^ 1]))).rgb, RGB) == 0


def test_apples_own_form_of_a_png_is_refused_by_name() -> None:
    assert str(refusal(with_chunk(saved("PNG"), chunk(b"CgBI", bytes(4))))).startswith("not supported: ")


# --- GIF ------------------------------------------------------------------------------------------


def gif(canvas: tuple[int, int], box: tuple[int, int, int, int], *, transparent: bool, interlaced: bool) -> bytes:
    """A red frame somewhere on the canvas; entry 0 of the palette, which is its background, is blue."""
    left, top, width, height = box
    frame = Image.new("P", (width, height), 1)
    frame.putpalette([0, 0, 255, 255, 0, 0, *[0] * 6])
    frame.putpixel((0, 0), 0)
    options = {"transparency": 0} if transparent else {}
    data = bytearray(saved("GIF", frame, optimize=False, interlace=interlaced, **options))
    struct.pack_into("<HH", data, 6, *canvas)
    start = data.index(b"," + struct.pack("<HHHH", 0, 0, width, height))
    struct.pack_into("<HH", data, start + 1, left, top)
    return bytes(data)


@pytest.mark.parametrize(("transparent", "interlaced"), list(itertools.product([False, True], repeat=2)))
@pytest.mark.parametrize("box", [(0, 0, 64, 64), (16, 8, 32, 40), (60, 60, 4, 4)])
def test_the_first_frame_of_a_gif_lies_on_white(
    box: tuple[int, int, int, int], transparent: bool, interlaced: bool
) -> None:
    left, top, width, height = box
    expected = np.full((64, 64, 3), 255, np.uint8)
    expected[top : top + height, left : left + width] = (255, 0, 0)
    expected[top, left] = (255, 255, 255) if transparent else (0, 0, 255)
    data = gif((64, 64), box, transparent=transparent, interlaced=interlaced)
    assert off(decode(data).rgb, expected) == 0
    assert off(decode(data, short_side=64).rgb, expected) == 0


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_gif_without_its_trailer_is_shown_and_flagged(interlaced: bool) -> None:
    data = saved("GIF", interlace=interlaced)
    assert decode(data[:-1]).remark == WITHOUT_END
    whole = decode(data).rgb
    for length in range(20, len(data) - 1, 7):
        reason = refusal(data[:length])
        if reason is None:
            assert off(decode(data[:length]).rgb, whole) == 0
        else:
            assert reason.startswith(("truncated GIF", "damaged GIF"))


# --- WebP -----------------------------------------------------------------------------------------


def test_a_webp_may_lack_its_metadata_but_no_pixels() -> None:
    data = saved("WEBP", lossless=True, exif=Image.Exif(), xmp=b"x" * 500)
    assert off(decode(data[:-100]).rgb, RGB) == 0
    assert decode(data[:-100]).remark == WITHOUT_END
    assert str(refusal(data[: len(data) - 540])).startswith("truncated WEBP")


# --- Held against another decoder -----------------------------------------------------------------


def noise(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "GIF", "JPEG", "AVIF"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1"])
def test_pictures_are_what_libvips_makes_of_them(format_: str, mode: str) -> None:
    image = Image.fromarray(np.dstack([noise(1), RGB[..., 0]])).convert(mode)
    options: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "AVIF": {"subsampling": "4:4:4"}}
    try:
        data = saved(format_, image, **options.get(format_, {}))
    except (OSError, ValueError, KeyError):
        pytest.skip("no such picture")
    theirs = pyvips.Image.new_from_buffer(data, "")
    if theirs.hasalpha():
        theirs = theirs.flatten(background=[255] * (theirs.bands - 1))
    pixels = theirs.colourspace("srgb").cast("uchar").numpy()[..., :3]
    assert off(decode(data).rgb, pixels) <= (3 if format_ in ("JPEG", "AVIF") else 1)


CASES = Path(__file__).parents[1] / "../shared/cases/odd_pictures.py"
REFUSED = {"jpg_cut_95.jpg", "jpg_big_cut_50_bytes.jpg", "jpg_progressive_cut_60.jpg", "jpg_garbage_between.jpg"}


@pytest.fixture(scope="module")
def odd_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty odd but mostly showable files."""
    if not CASES.exists():
        pytest.skip(f"no {CASES}")
    folder = tmp_path_factory.mktemp("odd")
    subprocess.run([sys.executable, str(CASES), str(folder)], check=True)
    return folder


def test_of_fifty_odd_files_each_is_shown_as_it_should_be_or_refused(odd_pictures: Path) -> None:
    large = np.asarray(Image.fromarray(RGB).resize((1500, 1000)))
    for file in sorted(odd_pictures.iterdir()):
        reason = refusal(file.read_bytes())
        assert (reason is not None) == (file.name in REFUSED), (file.name, reason)
        if reason is None and file.name != "gif_part_frame.gif":
            pixels = decode(file.read_bytes()).rgb
            expected = large if "big" in file.name or "progressive" in file.name else RGB
            expected = GREY if file.name.startswith("tif_grey") else expected
            lossy = file.name.startswith(("jpg", "webp", "gif"))
            assert np.abs(pixels.astype(int) - expected).mean() <= (6 if lossy else 3), file.name
