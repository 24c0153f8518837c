"""A picture whose header is read: how large it is, what decoding it takes, and its pixels when they are asked for.

Three readers stand behind one interface: Pillow with its plugins, tifffile for TIFFs, libjxl for JPEG XL.
"""

from __future__ import annotations

import io
import logging
import struct
from abc import ABC, abstractmethod

import numpy as np
import simplejpeg
from PIL import Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile, DibImageFile
from PIL.ExifTags import Base as ExifTag
from PIL.GifImagePlugin import GifImageFile
from PIL.IcoImagePlugin import IcoImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from model.errors import Undecodable
from model.pictures import jpeg, jpegxl, png
from model.pictures.colour import Pixels, eight_bit, on_white
from model.pictures.tiff import Tiff

logger = logging.getLogger(__name__)

Extent = tuple[float, float, float, float]  # left, top, right, bottom: where the picture lies within what was decoded

# The reader is chosen from the first bytes and called by itself. Image.open would try every plugin,
# warn of bombs by a global limit, and say no more than "cannot identify".
_READERS: dict[str, type[ImageFile]] = {
    "AVIF": AvifImageFile,
    "BMP": BmpImageFile,
    "DIB": DibImageFile,
    "GIF": GifImageFile,
    "ICO": IcoImageFile,
    "JPEG": JpegImageFile,
    "JPEG 2000": Jpeg2KImageFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
}

_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "LA": 4, "PA": 4, "I;16": 2, "I;16B": 2, "RGB": 4, "I": 4, "F": 4}
# What a decoder holds for each pixel beside the picture itself: planes, a second copy, wider samples.
_BESIDE_BYTES = {"AVIF": 12, "HEIC": 12, "HEIF": 12, "WEBP": 8, "JPEG 2000": 16, "ICO": 8}
_JPEG_XL_BYTES = 48  # float samples, several times


class Opened(ABC):
    """One picture, its header read."""

    remark: str | None = None  # what was odd about it, known once it is loaded

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Width and height as stored, before any turn."""

    @property
    def loaded_pixels(self) -> int:
        """How many `load` gives."""
        return self.size[0] * self.size[1]

    @property
    @abstractmethod
    def decoding_bytes(self) -> int:
        """About how much memory `load` takes at most."""

    @property
    def orientation(self) -> int:
        """As in EXIF, 1 … 8."""
        return 1

    @property
    def icc_profile(self) -> bytes | None:
        """The colour profile that came with it."""
        return None

    def reduce_to(self, least_side: int) -> Extent | None:
        """Have a fraction decoded whose sides are not below this, where the format can.

        Returns where the picture lies within what will be decoded, whose sides are rounded up.
        """
        return None

    @abstractmethod
    def load(self) -> Image.Image | Pixels:
        """The pixels: an array of RGB, or an image that `on_white` lays on white."""


def open_picture(format_: str, data: bytes) -> Opened:
    """Read the header. Raises whatever the format's reader does."""
    if format_ == "TIFF":
        tiff = Tiff(data)
        return _ByPillow("TIFF", TiffImageFile(io.BytesIO(data)), data) if tiff.is_for_pillow else _ByTifffile(tiff)
    if format_ == "JPEG XL":
        return _ByLibjxl(data)
    if format_ in ("HEIC", "HEIF"):
        from pillow_heif.as_plugin import HeifImageFile

        heif: type[ImageFile] = HeifImageFile
        return _ByPillow(format_, heif(io.BytesIO(data)), data)
    if format_ == "ICO":
        data = _png_of_ico(data) or data
    reader = PngImageFile if data.startswith(png.SIGNATURE) else _READERS[format_]
    return _ByPillow(format_, reader(io.BytesIO(data)), data)


def _png_of_ico(data: bytes) -> bytes | None:
    """The largest of an ICO's pictures, where that is a PNG: its size is the PNG's, whatever the directory says."""
    count = int.from_bytes(data[4:6], "little")
    entries = [struct.unpack_from("<BBBBHHII", data, 6 + 16 * n) for n in range(min(count, (len(data) - 6) // 16))]
    largest = max(entries, key=lambda entry: ((entry[0] or 256) * (entry[1] or 256), entry[5]))
    picture = data[largest[7] : largest[7] + largest[6]]
    return png.pixels_of(picture)[0] if picture.startswith(png.SIGNATURE) else None


class _ByPillow(Opened):
    def __init__(self, format_: str, image: ImageFile, data: bytes) -> None:
        self._format = format_
        self._image = image
        self._data = data
        self._size = image.size
        self._coefficient_bytes = 0
        if isinstance(image, JpegImageFile) and image.info.get("progressive"):
            self._coefficient_bytes = 2 * len(image.getbands()) * image.width * image.height

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    @property
    def loaded_pixels(self) -> int:
        return self._image.width * self._image.height

    @property
    def decoding_bytes(self) -> int:
        one = _PIXEL_BYTES.get(self._image.mode, 4) + _BESIDE_BYTES.get(self._format, 0)
        return self.loaded_pixels * one + self._coefficient_bytes

    @property
    def orientation(self) -> int:
        try:
            return int(self._image.getexif().get(ExifTag.Orientation, 1))
        except Exception as error:  # broken metadata is no reason to refuse good pixels
            logger.debug("orientation ignored: %r", error)
            return 1

    @property
    def icc_profile(self) -> bytes | None:
        return self._image.info.get("icc_profile")

    def reduce_to(self, least_side: int) -> Extent | None:
        image = self._image
        if not isinstance(image, JpegImageFile):
            return None
        drafted = image.draft(None, (least_side, least_side))
        return drafted[1] if drafted else None

    def load(self) -> Image.Image | Pixels:
        plain = self._plain_jpeg()
        if plain is not None:
            return plain
        box = self._image.tile[0][1] if isinstance(self._image, GifImageFile) and self._image.tile else None
        self._image.load()
        image = eight_bit(self._image, self._data)
        if box is None or tuple(box) == (0, 0, *image.size):
            return image
        canvas = Image.new("RGB", image.size, "white")
        part = on_white(image.crop(box))
        canvas.paste(Image.fromarray(part) if isinstance(part, np.ndarray) else part.convert("RGB"), box[:2])
        return canvas

    def _plain_jpeg(self) -> Image.Image | Pixels | None:
        """The pixels of a JPEG in grey or RGB, drafted as the image is; None where Pillow has to look at it.

        What libjpeg so much as warns of is left to Pillow to judge, unless pixels are missing.
        """
        image = self._image
        if not isinstance(image, JpegImageFile) or image.mode not in ("L", "RGB"):
            self._check_inks()
            return None
        width, height = image.size
        grey = image.mode == "L"
        try:
            pixels: Pixels = simplejpeg.decode_jpeg(
                self._data, colorspace="GRAY" if grey else "RGB", min_width=width, min_height=height
            )
        except ValueError as error:
            self._judge(str(error))
            return None
        if pixels.shape != (height, width, 1 if grey else 3):
            return None
        return Image.fromarray(pixels[..., 0]) if grey else pixels

    def _check_inks(self) -> None:
        if isinstance(self._image, JpegImageFile) and (warning := jpeg.warning_of(self._data, 4)):
            self._judge(warning)

    def _judge(self, warning: str) -> None:
        if jpeg.lacks_rows(warning):
            raise Undecodable("truncated JPEG: rows are missing")
        self.remark = f"libjpeg says: {warning[:80]}"


class _ByTifffile(Opened):
    def __init__(self, tiff: Tiff) -> None:
        self._tiff = tiff

    @property
    def size(self) -> tuple[int, int]:
        return self._tiff.size

    @property
    def decoding_bytes(self) -> int:
        width, height = self._tiff.size
        return width * height * (2 * self._tiff.sample_bytes + 8)

    @property
    def orientation(self) -> int:
        return self._tiff.orientation

    @property
    def icc_profile(self) -> bytes | None:
        return self._tiff.icc_profile

    def load(self) -> Image.Image:
        if self._tiff.lacks_rows:
            raise Undecodable(f"truncated TIFF: the file ends after {self._tiff.file_bytes} bytes")
        image = self._tiff.load()
        self.remark = f"tifffile says: {self._tiff.said[0][:80]}" if self._tiff.said else None
        return image


class _ByLibjxl(Opened):
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._header = jpegxl.read_header(data)

    @property
    def size(self) -> tuple[int, int]:
        return self._header.width, self._header.height

    @property
    def decoding_bytes(self) -> int:
        return self._header.width * self._header.height * _JPEG_XL_BYTES

    def load(self) -> Image.Image:
        return jpegxl.load(self._data, self._header)
