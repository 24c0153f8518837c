"""Picture bytes in, upright 8-bit sRGB arrays out, or `Undecodable` with a reason a person understands.

Knows nothing of storage or what the picture is for. Pillow reads every format; a plain JPEG's pixels come from
libjpeg-turbo at once, and pixels are resized by torch's vector code, both of which give what Pillow gives in a third of
the time.
"""

from __future__ import annotations

import logging
import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image
from PIL.ExifTags import Base as ExifTag
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from model.errors import Undecodable
from model.pictures.colour import Pixels, flattened, to_srgb
from model.pictures.damage import check_png, check_size, refusals
from model.pictures.formats import identify, open_image

logger = logging.getLogger(__name__)

JPEG_MAX_SIDE = 65_500  # libjpeg's own limit

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
Extent = tuple[float, float, float, float]


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
    format_ = identify(data)
    with refusals(format_, data):
        _ignore_pillow_warnings()
        if format_ == "PNG":
            check_png(data)
        image = open_image(format_, data)
        check_size(*image.size)
        size, extent = image.size, _draft(image, short_side)
        plain = _pixels_of_plain_jpeg(image, data)
        flat = flattened(image, data) if plain is None else plain
        turn = _turn(image)
        rgb = to_srgb(_reduced(flat, size, extent, short_side), image.info.get("icc_profile"))
        width, height = size[::-1] if turn in _SIDEWAYS else size
        upright = rgb if turn is None else np.array(Image.fromarray(rgb).transpose(turn))
        return Picture(upright, format_, width, height)


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
        logger.debug("orientation ignored: %r", error)
        return None


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
    pixels_of_size: Pixels = small[0].permute(1, 2, 0).numpy()
    return pixels_of_size


def _ignore_pillow_warnings() -> None:
    """Keep odd metadata from becoming console noise, or an exception where warnings are errors.

    One idempotent process-wide filter, because `warnings.catch_warnings` is not thread safe.
    """
    if warnings.filters[0] != _PILLOW_WARNINGS:
        warnings.filterwarnings("ignore", module=_PILLOW_WARNINGS[3].pattern)


_PILLOW_WARNINGS: Any = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
