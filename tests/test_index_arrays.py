from __future__ import annotations

import numpy as np

from index.arrays import widen


def test_every_finite_half_is_widened_exactly() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    np.testing.assert_array_equal(widen(finite).view(np.int32), finite.astype(np.float32).view(np.int32))


def test_a_part_of_a_matrix_keeps_its_shape() -> None:
    halves = np.linspace(-2, 2, 600, dtype=np.float16).reshape(20, 30)
    for part in (halves[3:7], halves[::2], halves[:, 5:9], halves[:0]):
        np.testing.assert_array_equal(widen(part), part.astype(np.float32))
