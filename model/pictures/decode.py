"""Picture bytes in, upright 8-bit sRGB arrays out, or `Undecodable` with a reason a person understands.

Knows nothing of storage or what the picture is for. Pillow reads every format; a plain JPEG's pixels come from
libjpeg-turbo at once, and pixels are resized by torch's vector code, both of which give what Pillow gives in a third of
the time.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from model.errors import Undecodable
from model.pictures.colour import Pixels, on_white, to_srgb
from model.pictures.damage import MAX_PIXELS, check_size, completed, refusals
from model.pictures.formats import identify
from model.pictures.opening import Extent, open_picture

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

_LEAST_DRAFT = 3  # halves of the side needed that libjpeg leaves: 53–55 dB from the full decode; at 1 × it would be 49
_LEAST_BOXED = 4  # times the side needed that a large picture is averaged down to before it is resized
_LARGE = 16_000_000  # pixels from which on a picture is laid on white and averaged in bands
_BAND_PIXELS = 2_000_000
_FLATTENING_BYTES = 16  # for each pixel that is laid on white at once


@dataclass(frozen=True)
class Picture:
    """One decoded picture; its width and height are the original's, as a viewer shows it."""

    rgb: Pixels  # [height, width, 3], sRGB, upright; reduced when decode was asked to
    format: str
    width: int
    height: int
    remark: str | None = None  # what is odd about a file that was read all the same


def decode(
    data: bytes,
    *,
    short_side: int | None = None,
    max_pixels: int = MAX_PIXELS,
    reserve: Callable[[int, bool], object] | None = None,
) -> Picture:
    """Decode the first frame to sRGB on white; `short_side` reduces it (never enlarges) to that short side.

    `reserve` is told, once the header says it and before a pixel is decoded, about how many bytes decoding takes and
    whether pixels may be resized, for which PyTorch is loaded; it may wait until there is room for them.

    Raises:
        Undecodable: whatever is wrong with the bytes; no other exception leaves here because of them.
    """
    format_, start = identify(data)
    data = data[start:]
    with refusals(format_, data):
        _ignore_pillow_warnings()
        whole, remark = completed(format_, data)
        opened = open_picture(format_, whole)
        size = opened.size
        check_size(*size, max_pixels)
        extent = opened.reduce_to(_LEAST_DRAFT * short_side // 2) if short_side else None
        if reserve is not None:
            flattening = _FLATTENING_BYTES * min(opened.loaded_pixels, _LARGE)
            reserve(opened.decoding_bytes + flattening, short_side is not None and short_side < min(size))
        image = opened.load()
        flat, extent = _flat(image, extent, short_side)
        turn = _TURNS.get(opened.orientation)
        rgb = to_srgb(_reduced(flat, size, extent, short_side), opened.icc_profile)
        width, height = size[::-1] if turn in _SIDEWAYS else size
        upright = rgb if turn is None else np.array(Image.fromarray(rgb).transpose(turn))
        return Picture(upright, format_, width, height, opened.remark or remark)


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


def _flat(
    image: Image.Image | Pixels, extent: Extent | None, short_side: int | None
) -> tuple[Image.Image | Pixels, Extent | None]:
    """The picture on white, and where it lies within that; a large one made smaller, some rows at a time."""
    if isinstance(image, np.ndarray):
        return image, extent
    factor = min(image.size) // (_LEAST_BOXED * short_side) if short_side else 1
    if factor < 2 or image.width * image.height <= _LARGE:
        return on_white(image), extent
    whole = extent or (0, 0, *image.size)
    rows = factor * max(1, _BAND_PIXELS // (image.width * factor))
    bands = [_boxed(image, top, rows, factor) for top in range(0, image.height, rows)]
    canvas = Image.new(bands[0].mode, (bands[0].width, sum(band.height for band in bands)))
    below = 0
    for band in bands:
        canvas.paste(band, (0, below))
        below += band.height
    small = tuple(side / factor for side in whole)
    return (np.array(canvas) if canvas.mode == "RGB" else canvas), (small[0], small[1], small[2], small[3])


def _boxed(image: Image.Image, top: int, rows: int, factor: int) -> Image.Image:
    flat = on_white(image.crop((0, top, image.width, min(image.height, top + rows))))
    return (Image.fromarray(flat) if isinstance(flat, np.ndarray) else flat).reduce(factor)


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
