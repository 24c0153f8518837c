"""A decoded image's colours as eight-bit sRGB on white: bit depths, transparency, ink, colour profiles."""

from __future__ import annotations

import io
import logging
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from model.pictures.depths import of_floats, of_integers

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]

_GREY = {"1", "L", "LA", "La"}


def to_srgb(flat: Image.Image | Pixels, icc: bytes | None) -> Pixels:
    """H×W×3 in sRGB, of what `on_white` gave and the profile that came with it."""
    mode = "RGB" if isinstance(flat, np.ndarray) else flat.mode
    from_mode, transform = _icc_transform(icc) if icc else ("", None)
    if transform is None or (mode != from_mode and (mode, from_mode) != ("L", "RGB")):
        return flat if isinstance(flat, np.ndarray) else np.array(flat.convert("RGB"))
    image = Image.fromarray(flat) if isinstance(flat, np.ndarray) else flat
    return np.array(transform.apply(image.convert(from_mode)))


def eight_bit(image: ImageFile, data: bytes) -> Image.Image:
    """A loaded image in eight bits, which Pillow would clip to, what it misreads mended."""
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled(image)
    if isinstance(image, JpegImageFile) and image.mode == "CMYK" and "adobe" not in image.info:
        return ImageChops.invert(image)  # only Adobe stores ink inverted; Pillow assumes it everywhere
    if isinstance(image, PngImageFile):
        _mend_colour_key(image, depth=data[24])
    return image


def _scaled(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    scale = of_integers(16) if image.mode.startswith("I;16") else of_floats(values)
    grey = Image.fromarray(scale(values))
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey


def _mend_colour_key(image: PngImageFile, depth: int) -> None:
    """A PNG's transparent colour is in the file's bit depth; Pillow compares it with eight-bit pixels."""
    key = image.info.get("transparency")
    if isinstance(key, tuple) and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in key)
    elif isinstance(key, int) and image.mode == "L":
        image.info["transparency"] = key * 255 // (2**depth - 1)


def on_white(image: Image.Image) -> Image.Image | Pixels:
    """An eight-bit image laid on white: RGB pixels, or an image in L, CMYK or LAB."""
    plain = "L" if image.mode in _GREY else "RGB"
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert(plain)
    elif image.mode not in {"CMYK", "LAB"}:
        image = image.convert(plain)
    return np.array(image) if image.mode == "RGB" else image


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
        logger.debug("colour profile ignored: %r", error)
        return "", None
