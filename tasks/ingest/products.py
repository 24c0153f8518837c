"""Which product a key names: the pattern of the lake, and the rows of known pictures that it says something new of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime

import pyarrow as pa

from lake import documents
from lake.errors import DamagedDocument, ObjectNotFound
from lake.lake import Lake
from lake.schemas import IMAGES, UTC_TIME
from tasks.ingest.comparison import Comparison

PATTERN = "products.json"  # in the lake's root: the pattern that the last ingest went by
KEYS_AT_ONCE = 100_000


@dataclass(frozen=True)
class ProductPattern:
    """The pattern that a run goes by, and whether each known picture's row bears what it finds."""

    pattern: str | None
    is_applied: bool


def choose_pattern(lake: Lake, given: str | None) -> ProductPattern:
    """The pattern of a run that was given this one: where it was given none, the one that the lake has."""
    kept = _kept(lake)
    if given is None:
        return kept
    return ProductPattern(given, kept.is_applied and kept.pattern == given)


def keep_pattern(lake: Lake, pattern: ProductPattern) -> None:
    """Note the pattern for the runs to come."""
    if pattern != _kept(lake):
        lake.store.put(PATTERN, documents.encode(asdict(pattern)))


def _kept(lake: Lake) -> ProductPattern:
    try:
        return documents.read(lake.store, PATTERN, ProductPattern)
    except (ObjectNotFound, DamagedDocument):  # it is applied once more
        return ProductPattern(None, is_applied=False)


def product_id(image_key: str, pattern: str | None) -> str | None:
    """The product that a key names: the pattern's first group, None where it does not match."""
    match = re.search(pattern, image_key) if pattern else None
    return match[1] if match else None


def renamed(comparison: Comparison, pattern: str) -> pa.Table:
    """The known pictures of which the pattern finds another product than their rows say: image_key, product_id."""
    keys, products = list[str](), list[str | None]()
    for batch in comparison.products(KEYS_AT_ONCE):
        for key, product in zip(batch["image_key"].to_pylist(), batch["product_id"].to_pylist(), strict=True):
            if (found := product_id(key, pattern)) != product:
                keys.append(key)
                products.append(found)
    return pa.table({"image_key": pa.array(keys, pa.string()), "product_id": pa.array(products, pa.string())})


def restated(comparison: Comparison, products: pa.Table, ingested_at: datetime) -> Iterator[pa.Table]:
    """Rows of `images` that say the same with these products; the pixels stay where they are."""
    if not products.num_rows:
        return
    for batch in comparison.restated(products, KEYS_AT_ONCE):
        rows = pa.table(batch)
        at = pa.repeat(pa.scalar(ingested_at, UTC_TIME), rows.num_rows)
        rows = rows.set_column(rows.schema.get_field_index("ingested_at"), "ingested_at", at)
        pixels = pa.nulls(rows.num_rows, IMAGES.field("pixels").type)
        yield rows.append_column("pixels", pixels).select(IMAGES.names).cast(IMAGES)
