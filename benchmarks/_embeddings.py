"""Vectors like a network's pooled embeddings, as many as wanted, the same for one seed, a chunk at a time.

A picture belongs to one of many kinds. Its latent is the kind's centre plus a deviation of its own, both Gaussian in
LATENT dimensions of falling variance. A fixed random map takes it to D dimensions, noise of full rank is added, the
ReLU sets about half of the values to zero, and the vector is scaled to length 1. So vectors are non-negative,
clustered and of low intrinsic dimension, and a query's neighbours are other members of its kind, nearly equally far
from it: harder than photographs of products, of which several show the same thing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Kinds = NDArray[np.int64]

LATENT = 128
DECAY = 0.98  # of the standard deviation, from one latent dimension to the next
ROWS_A_KIND = 100
WITHIN = 1.2  # the deviation inside a kind, against that between kinds; at 0.4 kinds lie well apart
NOISE = 0.4  # peak to peak; the mapped latents have standard deviation 1
CHUNK = 50_000


@dataclass(frozen=True)
class Embeddings:
    """`count` vectors of `dimension`; any chunk can be drawn by itself."""

    count: int
    dimension: int = 2048
    seed: int = 0
    within: float = WITHIN

    def chunks(self) -> Iterator[Floats]:
        """Unit vectors, float32, CHUNK×D; the last may be shorter."""
        for number, start in enumerate(range(0, self.count, CHUNK)):
            yield self._draw(min(CHUNK, self.count - start), [self.seed, 1, number])[0]

    def kinds(self) -> Kinds:
        """The kind of every row."""
        starts = enumerate(range(0, self.count, CHUNK))
        return np.concatenate(
            [self._kinds(min(CHUNK, self.count - start), [self.seed, 1, number]) for number, start in starts]
        )

    def queries(self, count: int) -> tuple[Floats, Kinds]:
        """More of the same, in no chunk: count×D, and their kinds."""
        return self._draw(count, [self.seed, 2])

    def _kinds(self, rows: int, seed: list[int]) -> Kinds:
        return np.random.default_rng(seed).integers(max(1, self.count // ROWS_A_KIND), size=rows)

    def _draw(self, rows: int, seed: list[int]) -> tuple[Floats, Kinds]:
        shared, own = np.random.default_rng([self.seed, 0]), np.random.default_rng([*seed, 0])
        scale = (DECAY ** np.arange(LATENT)).astype(np.float32)
        centres = shared.standard_normal((max(1, self.count // ROWS_A_KIND), LATENT), np.float32)
        spread = shared.standard_normal((LATENT, self.dimension), np.float32)
        spread /= np.linalg.norm(scale) * np.sqrt(1 + self.within**2)
        kinds = self._kinds(rows, seed)
        latent = (centres[kinds] + self.within * own.standard_normal((rows, LATENT), np.float32)) * scale
        vectors = own.random((rows, self.dimension), np.float32)
        vectors -= 0.5
        vectors *= NOISE
        vectors += latent @ spread
        np.maximum(vectors, 0, out=vectors)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors, kinds
