"""Learns from a shop's products which differences between pictures matter. Knows arrays and look models, no storage.

Pictures of one product differ by light, angle and backdrop: what a shopper looks past. The projection shortens the
directions in which such pictures differ (within-class covariance normalisation, Hatch and others, Interspeech 2006),
so that what tells products apart stands out.

Shapes: N pictures, or augmented views of pictures; R numbers a description; E of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from model.choices import LOOK_DIMENSIONS
from model.errors import LabelsUnusable
from model.look import LookNetwork
from model.split import position

Floats = NDArray[np.float32]

SHRINKAGE = 0.6
MOST_PICTURES = 20_000  # 120 MB of descriptions
MOST_OF_A_PRODUCT = 20  # pictures: more of one product say little more of the others
FEWEST_PRODUCTS = 10  # with two pictures or more, on each side of the split
HELD_OUT_SHARE = 0.25


@dataclass(frozen=True)
class FittedProjection:
    """An affine map: an embedding is (description − mean) · matrix, of unit norm."""

    mean: Floats
    """R."""
    matrix: Floats
    """R×E."""
    pictures: int
    """What it was fitted to."""
    products: int


def held_out(groups: Sequence[str | None], *, share: float = HELD_OUT_SHARE, seed: int) -> NDArray[np.bool_]:
    """N: which pictures measure and do not train. A group's side is a hash of its name, the same next week.

    Pictures without a group are on neither side: nothing tells what they are like.
    """
    places = {group: position(group, seed) for group in set(groups) if group}
    return np.array([places[group] < share if group else False for group in groups], dtype=np.bool_)


def fit_projection(
    descriptions: NDArray[np.floating],
    products: Sequence[str | None],
    *,
    dimensions: int | None = LOOK_DIMENSIONS,
    shrinkage: float = SHRINKAGE,
    most_pictures: int = MOST_PICTURES,
    seed: int = 0,
) -> FittedProjection:
    """Fits to the descriptions that `LookNetwork.describe` makes of pictures whose products are known.

    Args:
        descriptions: N×R.
        products: N; pictures without one, and those that are their product's only one, teach nothing.
        dimensions: E at most; None keeps all of R.
        shrinkage: how far the covariance within products is drawn towards that of a ball, in [0, 1]; 1 learns nothing.
        most_pictures: of more, whole products are drawn.
        seed: of that draw.

    Raises:
        LabelsUnusable: fewer than 10 products have two pictures.
        ValueError: lengths differ, or a number is outside its bounds.
    """
    if len(descriptions) != len(products):
        raise ValueError(f"expected a product a description, found {len(descriptions)} and {len(products)}")
    size = descriptions.shape[1]
    if not 0 <= shrinkage <= 1 or (dimensions is not None and dimensions < 1):
        raise ValueError(f"expected a shrinkage in [0, 1] and 1 dimension or more, found {shrinkage} and {dimensions}")
    rows, product = _teaching(products, most_pictures, seed)
    sample = descriptions[rows].astype(np.float32)
    mean = sample.mean(axis=0)
    matrix = _whitening(_within(sample, product), shrinkage)
    if dimensions is not None and dimensions < size:
        matrix = matrix @ _principal((sample - mean) @ matrix, dimensions)
    return FittedProjection(mean, matrix.astype(np.float32), len(rows), int(product.max()) + 1)


def project(look: LookNetwork, fitted: FittedProjection) -> LookNetwork:
    """A look model with the same trunk and colours, and this projection. The given one stays as it is."""
    config = replace(look.config, dimensions=fitted.matrix.shape[1])
    projected = LookNetwork(config)
    kept = {name: tensor for name, tensor in look.state_dict().items() if not name.startswith("projection.")}
    projected.load_state_dict(kept, strict=False)
    assert projected.projection is not None  # noqa: S101 (the configuration says how many dimensions)
    projected.projection.set(torch.from_numpy(fitted.mean), torch.from_numpy(fitted.matrix))
    return projected


def _teaching(
    products: Sequence[str | None], most_pictures: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of products with two pictures or more, and the number of each one's product."""
    rows_of: dict[str, list[int]] = {}
    for row, product in enumerate(products):
        if product and len(rows_of.setdefault(product, [])) < MOST_OF_A_PRODUCT:
            rows_of[product].append(row)
    several = sorted((name for name, rows in rows_of.items() if len(rows) > 1), key=lambda name: position(name, seed))
    if len(several) < FEWEST_PRODUCTS:
        raise LabelsUnusable(
            f"expected at least {FEWEST_PRODUCTS} products with two pictures or more to learn from, "
            f"found {len(several)}: check the pattern that reads product_id from a picture's key"
        )
    counts = np.cumsum([len(rows_of[name]) for name in several])
    chosen = several[: max(FEWEST_PRODUCTS, int(np.searchsorted(counts, most_pictures, side="right")))]
    rows = np.concatenate([rows_of[name] for name in chosen])
    return rows, np.repeat(np.arange(len(chosen)), [len(rows_of[name]) for name in chosen])


def _within(sample: Floats, product: NDArray[np.int64]) -> NDArray[np.float64]:
    """R×R: the covariance of pictures around their product's mean. Rows of one product lie together."""
    firsts = np.flatnonzero(np.diff(product, prepend=-1))
    means = np.add.reduceat(sample, firsts, axis=0) / np.diff(np.append(firsts, len(product)))[:, None]
    apart = sample - means[product]
    covariance: NDArray[np.float64] = (apart.T @ apart).astype(np.float64) / (len(product) - len(firsts))
    return covariance


def _whitening(covariance: NDArray[np.float64], shrinkage: float) -> NDArray[np.float64]:
    """R×R: the inverse root of the shrunken covariance, with a mean eigenvalue of 1."""
    values, vectors = np.linalg.eigh(covariance)
    # Where pictures do not differ at all, rounding must not become the largest direction.
    ball = max(float(values.mean()), np.finfo(np.float64).tiny)
    shrunken = (1 - shrinkage) * np.maximum(values, 0) / ball + shrinkage
    return np.asarray((vectors / np.sqrt(np.maximum(shrunken, 1e-6))) @ vectors.T)


def _principal(projected: NDArray[np.float64], dimensions: int) -> NDArray[np.float64]:
    """R×E: the directions in which the pictures differ most."""
    _, vectors = np.linalg.eigh(np.cov(projected, rowvar=False))
    return np.asarray(vectors[:, ::-1][:, :dimensions])
