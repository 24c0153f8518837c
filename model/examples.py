"""Labelled pictures that training draws from. Knows JPEG bytes and arrays; no storage, no labels file.

Shapes: n pictures in all; S the side of `Preprocessing.image_size`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model.errors import LabelsUnusable, Undecodable
from model.pictures.decode import decode
from model.preprocessing import Preprocessing

CACHE_BYTES = 2 << 30


def fingerprint(*parts: str | NDArray[np.generic]) -> str:
    """Sha256 over parts that no other list of parts can imitate."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else np.ascontiguousarray(part).tobytes()
        kind = "text" if isinstance(part, str) else f"{part.dtype} {part.shape}"
        digest.update(f"{kind} {len(data)}:".encode() + data)
    return digest.hexdigest()


class Examples(Protocol):
    """Labelled pictures that training may ask for in any order."""

    @property
    def preprocessing(self) -> Preprocessing:
        """What made the pixels."""

    @property
    def labels(self) -> NDArray[Any]:
        """n from 0 (negative) to 1 (positive): whole numbers, or shares of raters."""

    @property
    def weights(self) -> NDArray[np.float32]:
        """n, at least 0: how much each picture counts."""

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """The same for the same pictures, labels, weights and preprocessing in the same order."""

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """len(indices)×3×S×S, resized but not normalised."""


class JpegExamples:
    """Examples that are encoded pictures: decoded and resized in threads, each once where memory allows."""

    def __init__(
        self,
        jpegs: Sequence[bytes],
        labels: NDArray[Any],
        weights: NDArray[np.float32],
        preprocessing: Preprocessing,
        *,
        threads: int = 4,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if not len(jpegs) == len(labels) == len(weights):
            raise ValueError(
                f"expected a label and a weight a picture ({len(jpegs)}), found {len(labels)}, {len(weights)}"
            )
        self.jpegs, self.labels, self.weights = jpegs, labels, weights
        self.preprocessing = preprocessing
        self.threads = threads
        self._shape = (3, preprocessing.image_size, preprocessing.image_size)
        fits = len(jpegs) * math.prod(self._shape) <= cache_bytes
        self._cache = np.empty((len(jpegs) if fits else 0, *self._shape), np.uint8)
        self._cached = np.zeros(len(self._cache), bool)

    def __len__(self) -> int:
        return len(self.jpegs)

    def fingerprint(self) -> str:
        """Sha256 over the bytes of all pictures and what is said of them."""
        pictures = hashlib.sha256()
        for jpeg in self.jpegs:
            pictures.update(hashlib.sha256(jpeg).digest())
        return fingerprint(pictures.hexdigest(), repr(self.preprocessing), self.labels, self.weights)

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """len(indices)×3×S×S.

        Raises:
            Undecodable: a picture cannot be decoded; the reason names its index.
        """
        if not len(self._cache):
            return self._decoded(indices)
        missing = np.unique(indices[~self._cached[indices]])
        if len(missing):
            self._cache[missing] = self._decoded(missing)
            self._cached[missing] = True
        return self._cache[indices]

    def _decoded(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        out = np.empty((len(indices), *self._shape), np.uint8)
        with ThreadPoolExecutor(self.threads) as pool:
            for row, pixels in enumerate(pool.map(self._decode_one, indices.tolist())):
                out[row] = pixels
        return out

    def _decode_one(self, index: int) -> NDArray[np.uint8]:
        try:
            picture = decode(self.jpegs[index])
        except Undecodable as error:
            raise Undecodable(f"example {index}: {error.reason}") from error
        return self.preprocessing.resize(picture.rgb)


@dataclass(frozen=True)
class Subset:
    """Some of the examples, such as one side of a split."""

    examples: Examples
    indices: NDArray[np.int64]

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the whole."""
        return self.examples.preprocessing

    @property
    def labels(self) -> NDArray[Any]:
        """The labels of these pictures."""
        return self.examples.labels[self.indices]

    @property
    def weights(self) -> NDArray[np.float32]:
        """How much each of these pictures counts."""
        return self.examples.weights[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def fingerprint(self) -> str:
        """The same for the same pictures of the same whole."""
        return fingerprint(self.examples.fingerprint(), self.indices)

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Indices count within the subset."""
        return self.examples.pixels(self.indices[indices])


def check_examples(examples: Examples, *, at_least: int = 2) -> None:
    """Raises LabelsUnusable where nothing can be learned."""
    if len(examples) < at_least:
        raise LabelsUnusable(f"expected at least {at_least} pictures to train on, found {len(examples)}")
    strange = examples.labels[~((examples.labels >= 0) & (examples.labels <= 1))]
    if len(strange):
        raise LabelsUnusable(
            f"expected labels from 0 (negative) to 1 (positive), found also {np.unique(strange)[:3].tolist()}"
        )
    if not (examples.weights >= 0).all() or not examples.weights.any():
        raise LabelsUnusable("expected weights of at least 0 and some above, found others")
