"""TIFFs of every depth and layout, held against the picture that was written and against libtiff, by libvips."""

from __future__ import annotations

import io
import itertools
import logging
import struct
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
from numpy.typing import NDArray
from PIL import Image

from model.pictures.decode import decode
from tests.gradient import GREY, HEIGHT, RGB, WIDTH, off, refusal

Samples = NDArray[Any]


def written(samples: Samples, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, metadata=None, **options)
    return file.getvalue()


def by_hand(tags: dict[int, tuple[str, list[int]]], strips: list[bytes], order: str = "<") -> bytes:
    """A TIFF of these tags (type, values) and strips, for what no program here writes."""
    body = b"".join(strips)
    starts = [8 + sum(map(len, strips[:n])) for n in range(len(strips))]
    entries = {**tags, 273: ("I", starts), 279: ("I", [len(strip) for strip in strips])}
    directory = 8 + len(body) + len(body) % 2
    packed, beyond, after = b"", b"", directory + 2 + 12 * len(entries) + 4
    for tag, (kind, values) in sorted(entries.items()):
        value = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(value) > 4:
            beyond, value = beyond + value, struct.pack(f"{order}I", after + len(beyond))
        packed += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], len(values)) + value.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    count = struct.pack(f"{order}H", len(entries))
    return (
        magic
        + struct.pack(f"{order}I", directory)
        + body
        + b"\0" * (len(body) % 2)
        + count
        + packed
        + bytes(4)
        + beyond
    )


def tags(bits: list[int], photometric: int, **more: tuple[str, list[int]]) -> dict[int, tuple[str, list[int]]]:
    basic = {256: [WIDTH], 257: [HEIGHT], 258: bits, 259: [1], 262: [photometric], 277: [len(bits)], 278: [HEIGHT]}
    return {**{tag: ("H", values) for tag, values in basic.items()}, **{int(n[1:]): value for n, value in more.items()}}


DEPTHS: dict[str, Samples] = {
    "uint8": RGB,
    "uint16": RGB.astype(np.uint16) * 257,
    "uint32": RGB.astype(np.uint32) * 16843009,
    "float16": (RGB / 255).astype(np.float16),
    "float32": (RGB / 255).astype(np.float32),
    "float64": RGB / 255,
    "int32": RGB.astype(np.int32) * 257,
}
PIECES: dict[str, dict[str, Any]] = {"strips": {"rowsperstrip": 20}, "tiles": {"tile": (32, 48)}}


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "zstd", "lzma"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_samples_of_every_depth_and_layout_are_the_picture(depth: str, compression: str | None) -> None:
    samples = DEPTHS[depth]
    grey, opaque = samples[..., 0], samples.max() * np.ones_like(samples[..., :1])
    kinds: dict[str, tuple[Samples, Samples, dict[str, Any]]] = {
        "rgb": (samples, RGB, {"photometric": "rgb"}),
        "rgba": (np.dstack([samples, opaque]), RGB, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        "grey": (grey, GREY, {"photometric": "minisblack"}),
        "white is zero": (grey, 255 - GREY, {"photometric": "miniswhite"}),
    }
    tried = 0
    for (name, (pixels, expected, options)), pieces, order, predictor, planar in itertools.product(
        kinds.items(), PIECES.values(), "<>", (False, True), (False, True)
    ):
        if planar and name not in ("rgb", "rgba"):
            continue
        layout = {"planarconfig": "separate" if planar else "contig"} if name in ("rgb", "rgba") else {}
        laid = np.moveaxis(pixels, -1, 0).copy() if planar else pixels
        try:
            data = written(
                laid, compression=compression, predictor=predictor, byteorder=order, **options, **layout, **pieces
            )
        except (ValueError, NotImplementedError, KeyError):
            continue  # not every predictor goes with every type
        tried += 1
        assert off(decode(data).rgb, expected) <= 1, (name, pieces, order, predictor, planar)
    assert tried >= 20


@pytest.mark.parametrize("bits", [2, 4, 10, 12, 14])
@pytest.mark.parametrize("colours", [1, 3])
def test_packed_samples_are_read_in_their_own_range(bits: int, colours: int) -> None:
    values = RGB[..., :colours].astype(np.uint32) * (2**bits - 1) // 255
    digits = (values.reshape(HEIGHT, -1)[..., np.newaxis] >> np.arange(bits)[::-1]) & 1
    rows = np.packbits(digits.reshape(HEIGHT, -1).astype(np.uint8), axis=1)
    data = by_hand(tags([bits] * colours, 2 if colours == 3 else 1), [rows.tobytes()])
    reason = refusal(data)
    if reason is not None:
        assert reason.startswith("not supported: ")
        return
    expected = np.rint(values * 255 / (2**bits - 1)).astype(np.uint8)
    assert off(decode(data).rgb, np.repeat(expected, 3, axis=-1) if colours == 1 else expected) <= 1


def test_twelve_bit_grey_is_read() -> None:
    """Of the packed ones the one that scanners write: it may not be refused."""
    packed = np.packbits(((np.full((HEIGHT, WIDTH, 1), 2048) >> np.arange(12)[::-1]) & 1).astype(np.uint8).reshape(-1))
    assert (decode(by_hand(tags([12], 1), [packed.tobytes()])).rgb == 128).all()


@pytest.mark.parametrize("scale", [257, 1])
def test_a_colour_map_may_hold_values_of_sixteen_bits_or_of_eight(scale: int) -> None:
    table = np.random.default_rng(0).integers(0, 256, (256, 3))
    indexes = RGB[..., 2]
    data = by_hand(tags([8], 3, t320=("H", (table.T.reshape(-1) * scale).tolist())), [indexes.tobytes()])
    assert off(decode(data).rgb, table[indexes].astype(np.uint8)) == 0


@pytest.mark.parametrize("depth", ["uint8", "uint16"])
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("associated", [False, True])
def test_transparent_pictures_lie_on_white(depth: str, colours: int, associated: bool) -> None:
    most = np.iinfo(depth).max
    unit, opacity = RGB[..., :colours] / 255, RGB[..., 2:] / 255
    stored = np.dstack([unit * opacity if associated else unit, opacity])
    kind = "assocalpha" if associated else "unassalpha"
    data = written(
        np.rint(stored * most).astype(depth),
        photometric="rgb" if colours == 3 else "minisblack",
        planarconfig="contig",
        extrasamples=[kind],
    )
    expected = np.rint((unit * opacity + 1 - opacity) * 255).astype(np.uint8)
    assert off(decode(data).rgb, np.broadcast_to(expected, RGB.shape)) <= 2


@pytest.mark.parametrize("depth", ["int8", "int16", "uint64", "complex64"])
def test_samples_without_an_agreed_meaning_are_refused(depth: str) -> None:
    assert str(refusal(written(GREY[..., 0].astype(depth), photometric="minisblack"))).startswith(
        "not supported: a TIFF of"
    )


def test_negative_samples_are_refused() -> None:
    assert refusal(written(GREY[..., 0].astype(np.int32) - 9, photometric="minisblack")) == (
        "not supported: a TIFF of negative samples"
    )


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_large_tiffs_are_read_in_either_byte_order(order: str, compression: str | None) -> None:
    data = written(RGB, bigtiff=True, byteorder=order, compression=compression, photometric="rgb")
    assert off(decode(data).rgb, RGB) == 0


def test_inks_of_sixteen_bits_in_planes_are_the_colours_that_they_print() -> None:
    inks = np.concatenate([255 - RGB, np.zeros_like(RGB[..., :1])], axis=-1).astype(np.uint16) * 257
    for laid, planar in ((inks, "contig"), (np.moveaxis(inks, -1, 0).copy(), "separate")):
        assert off(decode(written(laid, photometric="separated", planarconfig=planar)).rgb, RGB) <= 1


def test_a_few_highlights_above_white_do_not_darken_a_float_picture() -> None:
    samples = (RGB / 255).astype(np.float32)
    samples[0, 0] = 7.5
    assert off(decode(written(samples, photometric="rgb")).rgb[1:], RGB[1:]) <= 1


def test_the_picture_is_shown_rather_than_a_thumbnail_before_it() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tiff:
        tiff.write(RGB[::4, ::4], photometric="rgb", subfiletype=1, metadata=None)
        tiff.write(RGB, photometric="rgb", metadata=None)
    assert off(decode(file.getvalue()).rgb, RGB) == 0


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("depth", ["uint8", "uint16", "float32"])
def test_missing_rows_are_never_made_up(depth: str, compression: str | None) -> None:
    data = written(DEPTHS[depth], photometric="rgb", compression=compression, rowsperstrip=8)
    for length in range(20, len(data), max(1, len(data) // 61)):
        assert str(refusal(data[:length])).startswith(("truncated TIFF", "damaged TIFF")), length
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        counts = tiff.pages[0].tags[279]  # type: ignore[union-attr]
    hole = bytearray(data)
    hole[counts.valueoffset + 4 : counts.valueoffset + 8] = bytes(4)
    if len(counts.value) > 1:
        assert str(refusal(bytes(hole))).startswith(("truncated TIFF", "damaged TIFF"))


def on_white(data: bytes) -> NDArray[np.uint8]:
    """What libvips makes of it."""
    image = pyvips.Image.new_from_buffer(data, "")
    if image.hasalpha():
        image = image.flatten(background=[65535 if image.format == "ushort" else 255] * (image.bands - 1))
    pixels: NDArray[np.uint8] = image.colourspace("srgb").cast("uchar").numpy().reshape(HEIGHT, WIDTH, -1)
    return np.repeat(pixels[..., :1], 3, axis=-1) if pixels.shape[-1] < 3 else pixels[..., :3]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize(
    "compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group3", "group4"]
)
def test_what_pillow_writes_is_read_as_libtiff_reads_it(mode: str, compression: str | None) -> None:
    file = io.BytesIO()
    try:
        Image.fromarray(RGB).convert(mode).save(file, "TIFF", compression=compression)
    except (OSError, RuntimeError):
        pytest.skip("no such TIFF")
    assert off(decode(file.getvalue()).rgb, on_white(file.getvalue())) <= 2


VIPS_KINDS: dict[str, dict[str, Any]] = {
    "tiles and a pyramid": {"tile": True, "pyramid": True, "compression": "deflate", "predictor": "horizontal"},
    "JPEG": {"compression": "jpeg", "Q": 95},
    "JPEG, full colour": {"compression": "jpeg", "subsample_mode": "off"},
    "two bits": {"bitdepth": 2},
    "one bit, white is zero": {"bitdepth": 1, "miniswhite": True},
    "fax": {"bitdepth": 1, "compression": "ccittfax4"},
    "big": {"bigtiff": True},
}


@pytest.mark.parametrize("kind", VIPS_KINDS)
@pytest.mark.parametrize("space", ["srgb", "b-w", "rgb16", "grey16"])
def test_what_libvips_writes_is_read_as_libtiff_reads_it(kind: str, space: str) -> None:
    source = pyvips.Image.new_from_memory(RGB.tobytes(), WIDTH, HEIGHT, 3, "uchar").copy(interpretation="srgb")
    try:
        data = source.colourspace(space).tiffsave_buffer(**VIPS_KINDS[kind])
    except pyvips.Error:
        pytest.skip("no such TIFF")
    assert off(decode(data).rgb, on_white(data)) <= 2


def test_what_tifffile_says_is_told_of_the_picture_and_to_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    data = by_hand(tags([8], 1, t65000=("H", [1, 2, 3])), [GREY[..., 0].tobytes()])
    place = struct.pack("<HHI", 65000, 3, 3)
    pointer = data.index(place) + len(place)
    broken = data[:pointer] + b"\xff\xff\xff\x7f" + data[pointer + 4 :]
    with caplog.at_level(logging.DEBUG):
        picture = decode(broken)
    assert off(picture.rgb, GREY) == 0
    assert str(picture.remark).startswith("tifffile says: ")
    assert not [record for record in caplog.records if record.name == "tifffile"]
