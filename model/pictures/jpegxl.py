"""JPEG XL: its size and colours from the header, its pixels from libjxl (by imagecodecs).

imagecodecs hands the pixels over in the picture's own colour space without saying which one, so the header is read for
it here, and only sRGB is let through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.errors import Undecodable
from model.pictures.depths import of_floats, of_integers

_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_SIZES = ((1, 9), (1, 13), (1, 18), (1, 30))
_ENUM = ((0, 0), (1, 0), (2, 4), (18, 6))
_ALPHA = 0
_D65, _SRGB_PRIMARIES = 1, 1
_LINEAR, _SRGB_CURVE = 8, 13
_GREY, _XYB = 1, 2


@dataclass(frozen=True)
class Header:
    """What is decided before a pixel is decoded."""

    width: int
    height: int  # upright
    curve: int | None  # how brightness is coded, by the standard's number; None where colours are not those of sRGB
    associated_alpha: bool


def read_header(data: bytes) -> Header:
    """ISO/IEC 18181-1, annexes A and D. Raises ValueError where the file ends within the header."""
    bits = _Bits(_codestream(data)[2:])
    width, height = _size(bits)
    if bits.flag():  # all by default
        return Header(width, height, _SRGB_CURVE, associated_alpha=False)
    orientation = _extra_fields(bits) if bits.flag() else 1
    _depth(bits)
    bits.flag()  # whether 16 bits are enough for the modular mode
    associated = [_extra_channel(bits) for _ in range(bits.number((0, 0), (1, 0), (2, 4), (1, 12)))]
    bits.flag()  # whether it is coded in XYB: the decoder gives what was encoded
    curve = _curve(bits)
    if orientation > 4:
        width, height = height, width
    return Header(width, height, curve, any(associated))


def load(data: bytes, header: Header) -> Image.Image:
    """An image in L, LA, RGB or RGBA.

    Raises:
        Undecodable: its colours are not sRGB's.
    """
    import imagecodecs

    if header.curve not in (_SRGB_CURVE, _LINEAR):
        raise Undecodable("not supported: a JPEG XL picture in another colour space than sRGB")
    if header.associated_alpha:
        raise Undecodable("not supported: a JPEG XL picture whose colours are multiplied by their opacity")
    samples: NDArray[Any] = imagecodecs.jpegxl_decode(data, index=0, numthreads=1)
    if samples.ndim == 2:
        samples = samples[..., np.newaxis]
    eight_bit = of_floats(samples) if samples.dtype.kind == "f" else of_integers(8 * samples.dtype.itemsize)
    if header.curve == _LINEAR:
        colours = samples.shape[2] - (samples.shape[2] in (2, 4))
        samples[..., :colours] = _coded(samples[..., :colours])
    pixels = eight_bit(samples)
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _coded(linear: NDArray[Any]) -> NDArray[Any]:
    """Linear light under sRGB's curve (IEC 61966-2-1), of the same type."""
    most = 1.0 if linear.dtype.kind == "f" else float(np.iinfo(linear.dtype).max)
    light = np.clip(linear / most, 0, 1)
    coded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * most
    return coded if linear.dtype.kind == "f" else np.rint(coded)


class _Bits:
    """The least significant bit of a byte comes first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data[:4096], "little")
        self._left = 8 * len(data[:4096])

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("the header is cut off")
        value = self._value & ((1 << count) - 1)
        self._value >>= count
        return value

    def flag(self) -> bool:
        return bool(self.take(1))

    def number(self, *choices: tuple[int, int]) -> int:
        """U32 of the standard: two bits choose an offset and how many bits are added to it."""
        offset, count = choices[self.take(2)]
        return offset + self.take(count)


def _codestream(data: bytes) -> bytes:
    """What follows the boxes of a container, enough of it for the header."""
    if data[:2] == b"\xff\x0a":
        return data[:4098]
    at = 0
    while at + 8 <= len(data):
        length, kind, start = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], at + 8
        if length == 1:
            length, start = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        if kind in (b"jxlc", b"jxlp"):
            start += 4 if kind == b"jxlp" else 0
            return data[start : start + 4098]
        if length < 8:
            break
        at += length
    raise ValueError("no codestream")


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.flag()
    height = 8 * (1 + bits.take(5)) if small else bits.number(*_SIZES)
    ratio = bits.take(3)
    if ratio:
        numerator, denominator = _RATIOS[ratio]
        return height * numerator // denominator, height
    return (8 * (1 + bits.take(5)) if small else bits.number(*_SIZES)), height


def _extra_fields(bits: _Bits) -> int:
    """The orientation, 1 … 8; what else is there is passed over."""
    orientation = 1 + bits.take(3)
    if bits.flag():
        _size(bits)
    if bits.flag():  # a preview
        _preview(bits)
    if bits.flag():  # an animation
        bits.number((100, 0), (1000, 0), (1, 10), (1, 30))
        bits.number((1, 0), (1001, 0), (1, 8), (1, 10))
        bits.number((0, 0), (0, 3), (0, 16), (0, 32))
        bits.flag()
    return orientation


def _preview(bits: _Bits) -> None:
    eighths = bits.flag()
    choices = ((16, 0), (32, 0), (1, 5), (33, 9)) if eighths else ((1, 6), (65, 8), (321, 10), (1345, 12))
    bits.number(*choices)
    if not bits.take(3):
        bits.number(*choices)


def _depth(bits: _Bits) -> int:
    if not bits.flag():
        return bits.number((8, 0), (10, 0), (12, 0), (1, 6))
    depth = bits.number((32, 0), (16, 0), (24, 0), (1, 6))
    bits.take(4)
    return depth


def _extra_channel(bits: _Bits) -> bool:
    """Whether it is opacity that the colours are multiplied by.

    Raises:
        Undecodable: it is something that may change the colours, such as black ink.
    """
    if bits.flag():
        return False
    kind = bits.number(*_ENUM)
    _depth(bits)
    bits.number((0, 0), (3, 0), (4, 0), (1, 3))
    bits.take(8 * bits.number((0, 0), (0, 4), (16, 5), (48, 10)))
    if kind != _ALPHA:
        raise Undecodable("not supported: a JPEG XL picture with other channels than colours and opacity")
    return bits.flag()


def _curve(bits: _Bits) -> int | None:
    if bits.flag():  # all by default
        return _SRGB_CURVE
    if bits.flag():  # an ICC profile follows
        return None
    space = bits.number(*_ENUM)
    if space == _XYB or bits.number(*_ENUM) != _D65:
        return None
    if space != _GREY and bits.number(*_ENUM) != _SRGB_PRIMARIES:
        return None
    return None if bits.flag() else bits.number(*_ENUM)
