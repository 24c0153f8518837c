"""The lake's own small JPEGs as a network's input, on the CPU or on an NVIDIA device. Knows bytes and arrays.

Shapes: B pictures; S the side of `Preprocessing.image_size`.

Not scaled down while it is decoded (libjpeg's DCT scaling): from 256 to 64 pixels that would save an eighth of the
time, and the picture would differ from the one that the network was trained on by up to 17 of 255.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from model.pictures.decode import decode
from model.preprocessing import Preprocessing


def prepare(jpeg: bytes, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """3×S×S, not normalised.

    Raises:
        Undecodable: the bytes are no picture.
    """
    return preprocessing.resize(_rgb(jpeg))


def prepare_into(batch: Tensor, jpegs: Sequence[bytes], preprocessing: Preprocessing) -> None:
    """Fills B×3×S×S of uint8, best with channels last; other threads run meanwhile.

    Raises:
        Undecodable: some bytes are no picture.
    """
    with torch.inference_mode():
        for row, jpeg in zip(batch, jpegs, strict=True):
            row.copy_(preprocessing.resized(_rgb(jpeg)))


def empty_batch(pictures: int, side: int, *, pinned: bool = False) -> Tensor:
    """B×3×S×S of uint8, channels last; pinned memory is what a GPU fetches by itself."""
    whole = torch.empty(pictures, side, side, 3, dtype=torch.uint8, pin_memory=pinned)
    return whole.permute(0, 3, 1, 2)


def prepare_on_gpu(jpegs: Sequence[bytes], preprocessing: Preprocessing, device: torch.device) -> Tensor:
    """B×3×S×S of uint8, decoded and resized on the NVIDIA device.

    Its decoder rounds otherwise than libjpeg: pixels differ by a few of 255 from those of `prepare`.

    Raises:
        RuntimeError: nvJPEG can't decode one of them.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    side = preprocessing.image_size
    encoded = [torch.frombuffer(bytearray(jpeg), dtype=torch.uint8) for jpeg in jpegs]
    batch = torch.empty(len(jpegs), 3, side, side, dtype=torch.uint8, device=device)
    with torch.inference_mode():
        for row, picture in zip(batch, decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device), strict=True):
            whole = picture.unsqueeze(0).float()
            small = interpolate(whole, (side, side), mode=preprocessing.interpolation, antialias=True)
            row.copy_(small.squeeze(0).round_().clamp_(0, 255))
    return batch


def _rgb(jpeg: bytes) -> NDArray[np.uint8]:
    """H×W×3. Whatever libjpeg does not like is Pillow's to judge."""
    try:
        rgb: NDArray[np.uint8] = simplejpeg.decode_jpeg(jpeg)
    except ValueError:
        return decode(jpeg).rgb
    return rgb
