"""TIFFs as eight-bit images: any depth, layout and compression that tifffile unpacks, and what its samples mean.

Pillow misreads several of these without a word (16-bit planes, 12-bit and 32-bit samples, colour maps of 8-bit values),
so it is left with what only libtiff reads. Whatever has no agreed meaning as a picture is refused.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tifffile import TiffFile, TiffPage

from model.errors import Undecodable
from model.pictures.depths import of_floats, of_integers

_PAGES_LOOKED_AT = 8  # for the first one that is more than a thumbnail
_MINISWHITE, _MINISBLACK, _RGB, _PALETTE, _SEPARATED, _YCBCR, _CIELAB = 0, 1, 2, 3, 5, 6, 8
_COLOURS = {_MINISWHITE: 1, _MINISBLACK: 1, _RGB: 3, _PALETTE: 1, _SEPARATED: 4, _YCBCR: 3}
_JPEG, _OLD_JPEG, _ONLY_LIBTIFF = 7, 6, {6, 32766, 32809}
_MOST_BITS = {_JPEG: 8, 33003: 16, 33004: 16, 33005: 16, 34712: 16}  # of a sample, by the piece's own format
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_ASSOCIATED, _UNASSOCIATED = 1, 2


class _Overheard(logging.Filter):
    """Keeps what tifffile logs of a picture from whoever listens; others' use of it stays theirs."""

    def __init__(self) -> None:
        super().__init__()
        self._here = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        lines: list[str] | None = getattr(self._here, "lines", None)
        if lines is None:
            return True
        lines.append(record.getMessage())
        return False

    @contextmanager
    def into(self, lines: list[str]) -> Iterator[None]:
        self._here.lines = lines
        try:
            yield
        finally:
            self._here.lines = None


_overheard = _Overheard()
logging.getLogger("tifffile").addFilter(_overheard)


class Tiff:
    """One TIFF's picture: its header is read when this is made, its pixels by `load`.

    Raises what tifffile does for a directory that makes no sense.
    """

    def __init__(self, data: bytes) -> None:
        self.file_bytes = len(data)
        self.said: list[str] = []  # by tifffile, of what is odd
        with _overheard.into(self.said):
            self._file = TiffFile(io.BytesIO(data), _multifile=False)
            pages = cast(list[TiffPage], list(islice(self._file.pages, _PAGES_LOOKED_AT)))
            self.page_number = next((n for n, page in enumerate(pages) if not page.is_reduced), 0)
            self._page = pages[self.page_number]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as stored."""
        return self._page.imagewidth, self._page.imagelength

    @property
    def sample_bytes(self) -> int:
        """Bytes of a pixel as it is unpacked."""
        depth = self._page.dtype.itemsize if self._page.dtype is not None else 8
        return int(self._page.samplesperpixel) * depth

    @property
    def orientation(self) -> int:
        """As in EXIF, 1 … 8."""
        return int(self._page.tags.valueof(274) or 1)

    @property
    def icc_profile(self) -> bytes | None:
        """The embedded colour profile."""
        profile = self._page.tags.valueof(34675)
        return profile if isinstance(profile, bytes) else None

    @property
    def is_for_pillow(self) -> bool:
        """Whether only libtiff reads it, which Pillow calls."""
        page = self._page
        subsampled = page.photometric == _YCBCR and page.compression != _JPEG
        return page.compression in _ONLY_LIBTIFF or subsampled or (page.photometric == _CIELAB and _plain_bytes(page))

    @property
    def lacks_rows(self) -> bool:
        """Whether a strip or tile is missing or lies beyond the end of the file."""
        page = self._page
        places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        expected = int(np.prod(page.chunked))
        ends = max((offset + count for offset, count in places), default=0)
        return len(places) < expected or ends > self.file_bytes or any(count == 0 for _, count in places[:expected])

    def load(self) -> Image.Image:
        """An image in L, RGB or CMYK, or in LA or RGBA where it is transparent.

        Raises:
            Undecodable: its samples have no agreed meaning as a picture.
        """
        page = self._page
        self._check()
        with _overheard.into(self.said):
            pixels = np.asarray(page.asarray(squeeze=False, maxworkers=1))  # planes × 1 × height × width × samples
        planes = np.moveaxis(pixels[:, 0], 0, -1).reshape(*pixels.shape[2:4], -1) if len(pixels) > 1 else pixels[0, 0]
        del pixels
        colours = _COLOURS[int(page.photometric)]
        return _image(planes, colours, self._alpha(colours), self._eight_bit(planes, colours), page)

    def _check(self) -> None:
        page = self._page
        colours = _COLOURS.get(int(page.photometric))
        kind = {_UNSIGNED: "unsigned", _SIGNED: "signed", _FLOAT: "float"}.get(int(page.sampleformat), "complex")
        samples = f"samples of {page.bitspersample} bits, {kind}"
        if colours is None:
            raise Undecodable(f"not supported: a TIFF of photometric interpretation {int(page.photometric)}")
        if page.imagedepth != 1 or page.samplesperpixel < colours or page.tags.valueof(332, 1) != 1:
            raise Undecodable("not supported: a TIFF of such colours or layers")
        if page.dtype is None or not isinstance(page.bitspersample, int) or kind == "complex":
            raise Undecodable(f"not supported: a TIFF of {samples}")
        if (kind == "signed" and page.bitspersample != 32) or (kind == "unsigned" and page.bitspersample > 32):
            raise Undecodable(f"not supported: a TIFF of {samples}")
        most_bits = _MOST_BITS.get(int(page.compression), 64)
        if page.bitspersample > most_bits:
            raise Undecodable(f"not supported: a TIFF of {samples}, in pieces of another format")
        if page.photometric == _PALETTE and (kind != "unsigned" or page.bitspersample > 16):
            raise Undecodable(f"not supported: a TIFF of a colour map and {samples}")

    def _alpha(self, colours: int) -> tuple[int, bool] | None:
        """Which sample is the opacity, and whether the colours are multiplied by it."""
        for number, kind in enumerate(self._page.extrasamples):
            if kind in (_ASSOCIATED, _UNASSOCIATED):
                return colours + number, kind == _ASSOCIATED
        return None

    def _eight_bit(self, planes: NDArray[Any], colours: int) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
        """What makes eight bits of some rows; where the format does not say what white is, all pixels decide."""
        if self._page.sampleformat == _UNSIGNED:
            return of_integers(int(self._page.bitspersample))
        if self._page.sampleformat == _SIGNED and planes.min() < 0:
            raise Undecodable("not supported: a TIFF of negative samples")
        return of_floats(planes[..., :colours])


def _plain_bytes(page: TiffPage) -> bool:
    return page.bitspersample == 8 and page.sampleformat == _UNSIGNED


def _image(
    planes: NDArray[Any],
    colours: int,
    alpha: tuple[int, bool] | None,
    eight_bit: Callable[[NDArray[Any]], NDArray[np.uint8]],
    page: TiffPage,
) -> Image.Image:
    """The samples as an image, some rows at a time so that no second copy of them is made."""
    height, width = planes.shape[:2]
    palette = _palette(page) if page.photometric == _PALETTE else None
    shown = 3 if palette is not None else colours
    channels = shown + (alpha is not None)
    out = np.empty((height, width, channels), np.uint8)
    rows = max(1, 2**20 // max(1, width * planes.shape[2]))
    for top in range(0, height, rows):
        part = planes[top : top + rows]
        band = out[top : top + rows]
        band[..., :shown] = palette[part[..., 0]] if palette is not None else eight_bit(part[..., :colours])
        if page.photometric == _MINISWHITE:
            np.subtract(255, band[..., :shown], out=band[..., :shown])
        if alpha is not None:
            sample, associated = alpha
            band[..., shown] = eight_bit(part[..., sample])
            if associated:
                _divide(band, shown)
    return _as_image(out, shown, transparent=alpha is not None)


def _as_image(pixels: NDArray[np.uint8], shown: int, *, transparent: bool) -> Image.Image:
    if shown == 4:  # ink knows no transparency in Pillow, and white is none of it
        if transparent:
            pixels[..., :4] = np.rint(pixels[..., :4] * (pixels[..., 4:] / np.float32(255)))
        return Image.fromarray(np.ascontiguousarray(pixels[..., :4]), "CMYK")
    if shown == 1 and not transparent:
        return Image.fromarray(pixels[..., 0])
    return Image.fromarray(pixels)


def _divide(band: NDArray[np.uint8], shown: int) -> None:
    """Colours that were multiplied by their opacity, as they were before."""
    opacity = np.maximum(band[..., shown:].astype(np.uint32), 1)
    colours = (band[..., :shown].astype(np.uint32) * 255 + opacity // 2) // opacity
    band[..., :shown] = np.minimum(colours, 255)


def _palette(page: TiffPage) -> NDArray[np.uint8]:
    """The colour map, entries × 3. Its values have 16 bits; some programs write them in 8."""
    colours = np.asarray(page.tags.valueof(320, ()), np.uint16)
    entries = 2 ** int(page.bitspersample)
    if colours.size != 3 * entries:
        raise Undecodable(f"damaged TIFF: a colour map of {colours.size // 3} entries, expected {entries}")
    table: NDArray[np.uint16] = colours.reshape(3, entries).T
    return (table if table.max() < 256 else np.rint(table / 257)).astype(np.uint8)
