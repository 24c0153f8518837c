"""Samples of any depth as eight bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

EightBit = Callable[[NDArray[Any]], NDArray[np.uint8]]

_HIGHLIGHTS = 0.01  # so large a share of a float picture may be brighter than white


def of_integers(bits: int) -> EightBit:
    """What makes eight bits of unsigned samples of 1 to 32 bits, all of which the format uses."""
    if bits == 8:
        return lambda samples: samples.astype(np.uint8, copy=False)
    most = 2**bits - 1
    if bits <= 16:
        table = ((np.arange(most + 1) * 510 + most) // (2 * most)).astype(np.uint8)
        return lambda samples: table[samples.astype(np.uint16, copy=False)]
    return lambda samples: np.rint(samples / most * 255).astype(np.uint8)


def of_floats(samples: NDArray[Any]) -> EightBit:
    """What makes eight bits of samples like these, whose format does not say what is white.

    White is 1 for floats of which at most a hundredth are brighter, else 255, 65535, or the largest value.
    """
    finite = samples[np.isfinite(samples)] if samples.dtype.kind == "f" else samples
    top = float(finite.max(initial=0))
    usual = (1.0, 255.0, 65535.0) if samples.dtype.kind == "f" else (255.0, 65535.0)
    full = next((white for white in usual if top <= white), top)
    if full > 1 and usual[0] == 1 and np.count_nonzero(finite > 1) <= _HIGHLIGHTS * finite.size:
        full = 1.0

    def eight_bit(values: NDArray[Any]) -> NDArray[np.uint8]:
        unit = np.clip(np.nan_to_num(values, nan=0.0, posinf=full, neginf=0.0), 0, full) / np.float32(full)
        eight: NDArray[np.uint8] = np.rint(unit * 255).astype(np.uint8)
        return eight

    return eight_bit
