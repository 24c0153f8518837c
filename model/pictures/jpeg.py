"""A JPEG's markers: where it begins and ends, whether all of its scans are there, and kinds that are not read."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

import simplejpeg

from model.errors import Undecodable
from model.pictures.png import WITHOUT_END

SOI, EOI = b"\xff\xd8", b"\xff\xd9"

_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_STANDALONE = {0x01, 0xD8}
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}
_PROGRESSIVE = {0xC2, 0xCA}
_KINDS = {0xC3: "a lossless JPEG", **dict.fromkeys((0xC5, 0xC6, 0xC7), "a hierarchical JPEG"), 0xF7: "a JPEG-LS"}


@dataclass
class _Structure:
    """What the markers of a JPEG say."""

    sof: int = 0
    precision: int = 8
    components: tuple[int, ...] = ()
    ended: bool = False
    missing_bits: dict[tuple[int, int], int] = field(default_factory=dict)  # (component, coefficient) -> lowest bit


def completed(data: bytes) -> tuple[bytes, str | None]:
    """The JPEG with an end mark, and a remark where it had none.

    Raises:
        Undecodable: rows or scans are missing, or it is of a kind that is not read.
    """
    if EOI in data[-64:]:
        return data, None
    structure = _read(data)
    if structure.ended:
        return data, None
    whole = data.removesuffix(b"\xff") + EOI
    if not _is_whole(structure) or warning_of(whole, len(structure.components)) is not None:
        raise Undecodable(f"truncated JPEG: the file ends after {len(data)} bytes")
    return whole, WITHOUT_END


def warning_of(data: bytes, components: int) -> str | None:
    """What libjpeg says of the pixels, None where it has no objection."""
    try:
        simplejpeg.decode_jpeg(data, colorspace={1: "GRAY", 4: "CMYK"}.get(components, "RGB"), min_factor=8)
    except ValueError as error:
        return str(error)
    return None


def lacks_rows(warning: str) -> bool:
    """Whether this warning of libjpeg's means that pixels were made up."""
    return "premature end" in warning or "found marker 0xd9" in warning


def unsupported_kind(data: bytes) -> str | None:
    """What kind of JPEG no decoder here reads, None where it is a usual one."""
    structure = _read(data)
    if structure.precision != 8:
        return f"a JPEG of {structure.precision} bits"
    return _KINDS.get(structure.sof)


def _is_whole(structure: _Structure) -> bool:
    """Whether every component has been sent, in a progressive one every coefficient down to its last bit."""
    coefficients = range(64) if structure.sof in _PROGRESSIVE else range(1)
    needed = [(component, k) for component in structure.components for k in coefficients]
    return bool(needed) and all(structure.missing_bits.get(one) == 0 for one in needed)


def _read(data: bytes) -> _Structure:
    structure, at = _Structure(), 0
    while (found := _MARKER.search(data, at)) is not None:
        marker, at = found[1][0], found.end()
        if marker in _STANDALONE:
            continue
        if marker == EOI[1]:
            structure.ended = True
            break
        length = int.from_bytes(data[at : at + 2], "big")
        segment, at = data[at + 2 : at + length], at + max(2, length)
        if marker in _FRAMES and len(segment) >= 6:
            structure.sof, structure.precision = marker, segment[0]
            structure.components = tuple(segment[6::3][: segment[5]])
        elif marker == 0xDA and segment:
            _note_scan(structure, segment)
    return structure


def _note_scan(structure: _Structure, segment: bytes) -> None:
    count = segment[0]
    if len(segment) < 1 + 2 * count + 3:
        return
    first, last, bits = struct.unpack_from(">BBB", segment, 1 + 2 * count)
    for component in segment[1 : 1 + 2 * count : 2]:
        for coefficient in range(first, min(last, 63) + 1):
            structure.missing_bits[component, coefficient] = bits & 15
