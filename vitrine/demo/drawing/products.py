"""The shop's plan: which products there are, and which of them feel positive."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vitrine.demo.drawing.kinds import KINDS


@dataclass(frozen=True)
class Product:
    """A listing to draw; `seed` and `number` fix everything about it but the label's cues."""

    seed: int
    number: int
    category: str
    product_id: str
    label: int

    def rng(self, purpose: str, view: int = 0) -> np.random.Generator:
        """Independent streams, so that the emotion's draws never move the camera's."""
        return np.random.default_rng([self.seed, self.number, view, *purpose.encode()])


def list_products(count: int, seed: int) -> list[Product]:
    """In pairs of one kind, one of them positive: kinds and emotions are balanced and independent."""
    return [_product(number, seed) for number in range(count)]


def _product(number: int, seed: int) -> Product:
    pair, member = divmod(number, 2)
    first = int(np.random.default_rng([seed, pair]).integers(2))
    category = list(KINDS)[pair % len(KINDS)]
    within_kind = 2 * (pair // len(KINDS)) + member + 1
    return Product(seed, number, category, f"{category}-{within_kind:03d}", first ^ member)
