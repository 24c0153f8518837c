from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from index.recall import HeldOutQueries
from index.searching import Searcher
from index.shards import write_index
from index.spec import IndexSpec
from tasks.rebuild.product_rates import ProductRates, drift, product_rates

PRODUCTS, ALONE = 40, 7  # products of three pictures; pictures of no product, or of one by itself


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.normal(size=(PRODUCTS, 8)), 3, axis=0)
    vectors = np.concatenate([centres + 0.8 * rng.normal(size=centres.shape), rng.normal(size=(ALONE, 8))])
    products = [f"p{number // 3}" for number in range(3 * PRODUCTS)] + ["alone", *[None] * (ALONE - 1)]
    keys = {"image_key": [f"{row:03d}.jpg" for row in range(len(vectors))], "product_id": products}
    directory = tmp_path_factory.mktemp("rates")
    write_index(directory, vectors.astype(np.float32), pa.table(keys), IndexSpec(dimension=8, kind="flat"))
    return Searcher.open(directory)


def test_rates_are_those_of_a_plain_comparison_with_every_picture(searcher: Searcher) -> None:
    truth = HeldOutQueries.draw(searcher, len(searcher), seed=0).truth
    vectors = searcher.vectors(np.arange(len(searcher))).astype(np.float64)
    products = searcher.table["product_id"].to_pylist()
    hits = []
    for row in range(3 * PRODUCTS):
        others = [int(other) for other in np.argsort(-vectors @ vectors[row]) if other != row]
        hits.append([products[other] == products[row] for other in others[:5]])
    expected = np.array(hits)
    rates = product_rates(searcher, truth)
    assert rates == ProductRates(3 * PRODUCTS, expected[:, 0].mean(), expected.any(axis=1).mean())
    assert 0.2 < rates.at_1 < rates.at_5 < 1


def test_products_that_show_one_picture_each_have_no_rate(tmp_path: Path) -> None:
    keys = pa.table({"image_key": ["a", "b", "c"], "product_id": ["1", "2", None]})
    write_index(tmp_path, np.eye(3, dtype=np.float32), keys, IndexSpec(dimension=3, kind="flat"))
    searcher = Searcher.open(tmp_path)
    assert product_rates(searcher, HeldOutQueries.draw(searcher, 3, seed=0).truth) is None


@pytest.mark.parametrize(
    ("now", "before", "warns"),
    [
        (ProductRates(100, 0.80, 0.9), ProductRates(100, 0.90, 0.95), True),
        (ProductRates(100, 0.86, 0.9), ProductRates(100, 0.90, 0.95), False),
        (ProductRates(100, 0.95, 0.9), ProductRates(100, 0.90, 0.95), False),
        (ProductRates(10, 0.10, 0.9), ProductRates(100, 0.90, 0.95), False),  # too few to tell
        (None, ProductRates(100, 0.90, 0.95), False),
        (ProductRates(100, 0.10, 0.2), None, False),
    ],
)
def test_a_look_that_finds_products_less_often_than_before_is_warned_of(
    now: ProductRates | None, before: ProductRates | None, warns: bool
) -> None:
    warning = drift(now, before, 0.05)
    assert bool(warning) == warns
    if warns:
        assert "0.800 of the queries, 0.900 in the index before" in warning and "vitrine retrain-look" in warning
