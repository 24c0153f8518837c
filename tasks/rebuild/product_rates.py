"""How often search by look finds another picture of the query's own product: what a shop person would see of a look."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from index.filtering import Groups
from index.searching import Searcher
from index.truth import Truth

FEWEST_QUERIES = 50  # of which a rate is compared with an earlier one


@dataclass(frozen=True)
class ProductRates:
    """Of held-out queries whose product shows several pictures, by exact search."""

    queries: int
    at_1: float  # the share whose nearest neighbour shows the query's product
    at_5: float  # the share with such a picture among the five nearest

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, for a manifest."""
        return asdict(self)


def product_rates(searcher: Searcher, truth: Truth) -> ProductRates | None:
    """The rates of an index; None where no query's product shows several pictures."""
    products = Groups.of(searcher, "product_id")
    own = products.of_row[truth.queries]
    asked = np.flatnonzero(products.sizes[own] > 1)
    if not len(asked):
        return None
    near = truth.nearest(5).rows[asked]
    hits = (near >= 0) & (products.of_row[near] == own[asked, None])
    return ProductRates(len(asked), float(hits[:, 0].mean()), float(hits.any(axis=1).mean()))


def drift(now: ProductRates | None, before: ProductRates | None, most: float) -> str:
    """What to warn of where the own product is found less often than in the index before; empty where nothing is."""
    if now is None or before is None or min(now.queries, before.queries) < FEWEST_QUERIES:
        return ""
    if now.at_1 >= before.at_1 - most:
        return ""
    return (
        f"search finds the own product first for {now.at_1:.3f} of the queries, {before.at_1:.3f} in the index before: "
        "look at what is new, or fit the look to it with `vitrine retrain-look`"
    )
