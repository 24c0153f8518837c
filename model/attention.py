"""Where the network looks: its two attention maps, for people to see and for experiments to measure.

Shapes: B pictures; S the side of `Preprocessing.image_size`; h×w the backbone's positions (S/32, rounded up).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from model.predict import Predictor
from model.preprocessing import to_tensor


@torch.inference_mode()
def attention_maps(model: Predictor, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    """B×3×S×S → B×2×h×w: N_m and N_t of equation (4), the negative branch's first. In float32 always.

    The values have no unit: equation (4) normalises them over the training pictures, so that 0 is an
    average place and 1 lies one standard deviation (times the learnt scale) above it.

    Raises:
        ValueError: another shape or type than this network's preprocessing makes, or a look without a network.
    """
    if model.network is None:
        raise ValueError("expected a polarity network, found a look alone, which has no attention")
    pixels = to_tensor(batch)
    model.check(pixels)
    output = model.network(model.preprocessing.normalise(pixels.to(model.device)))
    maps: NDArray[np.float32] = output.attention.float().cpu().numpy()
    return maps


def peak(attention: NDArray[np.floating]) -> tuple[float, float]:
    """Row and column of the highest cell's centre, each in (0, 1) of what the network saw; h×w goes in.

    A map that is the same everywhere, or not finite, has no peak: (NaN, NaN), which lies in no region.
    """
    if not np.isfinite(attention).all() or attention.min() == attention.max():
        return float("nan"), float("nan")
    row, column = np.unravel_index(int(attention.argmax()), attention.shape)
    height, width = attention.shape
    return (float(row) + 0.5) / height, (float(column) + 0.5) / width
