from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.colour_histogram import ColourConfig
from model.errors import LabelsUnusable
from model.gate import Decision
from model.gate_policy import LookGatePolicy
from model.look import LookConfig, LookNetwork
from model.look_gate import LookAnswers, answers_of, decide_look
from model.look_training import MOST_OF_A_PRODUCT, fit_projection, held_out, project
from model.retrieval import Catalogue, exact_search, measure_look

SIZE, SIGNAL = 24, 6


def shop(products: int, pictures: int = 4, seed: int = 0) -> tuple[NDArray[np.float32], list[str]]:
    """Products differ in a few directions a little, pictures of one product in all others much."""
    rng = np.random.default_rng(seed)
    product = np.repeat(np.arange(products), pictures)
    descriptions = rng.normal(size=(products, SIZE))[product] * np.where(np.arange(SIZE) < SIGNAL, 1.0, 0.0)
    descriptions += rng.normal(size=descriptions.shape) * np.where(np.arange(SIZE) < SIGNAL, 0.3, 1.5)
    turn, _ = np.linalg.qr(np.random.default_rng(99).normal(size=(SIZE, SIZE)))
    return (descriptions @ turn + 1.0).astype(np.float32), [f"p{number}" for number in product]


def slow_matrix(descriptions: NDArray[Any], products: list[str], shrinkage: float) -> NDArray[np.float64]:
    """The inverse root of the pooled covariance, product by product."""
    names = sorted(set(products))
    scatter = np.zeros((SIZE, SIZE))
    for name in names:
        own = descriptions[[product == name for product in products]].astype(np.float64)
        scatter += (own - own.mean(0)).T @ (own - own.mean(0))
    covariance = scatter / (len(products) - len(names))
    ball = np.trace(covariance) / SIZE
    values, vectors = np.linalg.eigh((1 - shrinkage) * covariance / ball + shrinkage * np.eye(SIZE))
    return np.asarray(vectors @ np.diag(values**-0.5) @ vectors.T)


@pytest.mark.parametrize("shrinkage", [0.1, 0.6, 1.0])
def test_the_matrix_is_the_inverse_root_of_the_covariance_within_products(shrinkage: float) -> None:
    descriptions, products = shop(20)
    shuffled = np.random.default_rng(1).permutation(len(products))
    fitted = fit_projection(descriptions[shuffled], [products[row] for row in shuffled], shrinkage=shrinkage)
    np.testing.assert_allclose(fitted.matrix, slow_matrix(descriptions, products, shrinkage), atol=1e-3)
    np.testing.assert_allclose(fitted.mean, descriptions.mean(0), atol=1e-4)
    assert (fitted.pictures, fitted.products) == (80, 20)


def first(descriptions: NDArray[Any], products: list[str]) -> float:
    return measure_look(exact_search(descriptions), Catalogue(products), bootstrap=1).same_product.recall[1].value


def test_products_that_it_never_saw_are_found_better() -> None:
    fitted = fit_projection(*shop(60), shrinkage=0.1)
    descriptions, products = shop(40, seed=5)
    assert first((descriptions - fitted.mean) @ fitted.matrix, products) > first(descriptions, products) + 0.3


def test_fewer_dimensions_keep_the_directions_that_vary_most() -> None:
    descriptions, products = shop(60)
    whole, few = (fit_projection(descriptions, products, shrinkage=0.1, dimensions=count) for count in (None, SIGNAL))
    assert few.matrix.shape == (SIZE, SIGNAL)
    projected = (descriptions - few.mean) @ few.matrix
    everything = (descriptions - whole.mean) @ whole.matrix
    largest = np.linalg.eigvalsh(np.cov(everything, rowvar=False))[::-1][:SIGNAL]
    np.testing.assert_allclose(projected.var(axis=0, ddof=1), largest, rtol=1e-3)
    assert first(projected, products) > first(descriptions, products) + 0.3


def test_what_teaches_nothing_changes_nothing() -> None:
    descriptions, products = shop(20)
    strangers = np.full((3, SIZE), 100, np.float32)
    one = fit_projection(descriptions, products)
    other = fit_projection(np.concatenate([descriptions, strangers]), [*products, "alone", None, ""])
    np.testing.assert_array_equal(one.matrix, other.matrix)


def test_memory_is_bounded_by_drawing_whole_products() -> None:
    descriptions, products = shop(100)
    fitted, again = (fit_projection(descriptions, products, most_pictures=80) for _ in range(2))
    assert (fitted.pictures, fitted.products) == (80, 20)
    np.testing.assert_array_equal(fitted.matrix, again.matrix)
    large, names = shop(10, pictures=50)
    assert fit_projection(large, names).pictures == 10 * MOST_OF_A_PRODUCT


def test_pictures_that_do_not_differ_leave_everything_as_it_is() -> None:
    descriptions, products = shop(12, pictures=1)
    fitted = fit_projection(np.repeat(descriptions, 2, axis=0), [name for name in products for _ in range(2)])
    unequal = fitted.matrix - fitted.matrix[0, 0] * np.eye(SIZE)
    np.testing.assert_allclose(unequal, 0, atol=1e-5)
    assert np.isfinite(fitted.matrix).all()


def test_odd_requests_are_refused() -> None:
    descriptions, products = shop(9)
    with pytest.raises(LabelsUnusable, match="at least 10 products with two pictures or more to learn from, found 9"):
        fit_projection(descriptions, products)
    with pytest.raises(ValueError, match="found 36 and 35"):
        fit_projection(descriptions, products[1:])
    with pytest.raises(ValueError, match=r"1 dimension or more, found 0\.6 and 0"):
        fit_projection(descriptions, products, dimensions=0)


def test_the_held_out_side_stays_as_the_catalogue_grows() -> None:
    names = [f"p{number}" for number in range(400)]
    side = held_out([*names, None], seed=3)
    assert 60 < side.sum() < 140
    assert not side[-1]
    assert np.array_equal(held_out([*names, "another"], seed=3)[:400], side[:400])


def test_a_projected_look_embeds_by_the_fitted_map() -> None:
    torch.manual_seed(0)
    look = LookNetwork(LookConfig("resnet18", colour=ColourConfig(features=4, lightnesses=2, hues=3)))
    maps = torch.rand(40, 512, 1, 1)
    pixels = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    described = look.describe(maps, pixels).numpy()
    fitted = fit_projection(described, [str(row // 4) for row in range(40)], dimensions=7)
    projected = project(look, fitted)
    expected = (described - fitted.mean) @ fitted.matrix
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(projected.embed(maps, pixels), expected, atol=1e-4)
    assert (look.embedding_size, projected.embedding_size) == (516, 7)
    for name, tensor in look.backbone.state_dict().items():
        assert torch.equal(projected.backbone.state_dict()[name], tensor)
    again = project(projected, fit_projection(described, [str(row // 4) for row in range(40)], dimensions=None))
    assert again.embedding_size == 516


# The gate --------------------------------------------------------------------------------------------------------


def answers(product: float, kind: float = 1.0, products: int = 40, seed: int = 0) -> LookAnswers:
    groups = np.repeat(np.arange(products), 4)
    chances = np.random.default_rng(seed).random(len(groups))
    return LookAnswers(chances < product, chances < kind, np.ones(len(groups), dtype=bool), groups)


def decide(candidate: LookAnswers, incumbent: LookAnswers) -> Decision:
    return decide_look(candidate, incumbent, LookGatePolicy(bootstrap_samples=300))


def test_a_look_that_finds_products_better_is_promoted() -> None:
    decision = decide(answers(0.8), answers(0.6))
    assert decision.promote
    assert decision.reasons[1].startswith("same product first: expected above 0.")


@pytest.mark.parametrize(("ours", "theirs"), [(0.6, 0.6), (0.5, 0.6), (0.0, 0.0)])
def test_a_look_that_is_as_good_or_worse_is_refused(ours: float, theirs: float) -> None:
    decision = decide(answers(ours), answers(theirs))
    assert not decision.promote
    assert "same product first: expected above" in decision.reasons[0]


def test_a_gain_that_may_be_chance_is_refused() -> None:
    decision = decide(answers(0.61, seed=1), answers(0.6, seed=2))
    assert not decision.promote
    assert "lower 95% bound" in decision.reasons[-1]


def test_products_found_at_the_cost_of_kinds_are_refused() -> None:
    assert decide(answers(0.8, kind=0.88), answers(0.6, kind=0.89)).promote
    decision = decide(answers(0.8, kind=0.7), answers(0.6, kind=0.9))
    assert not decision.promote
    assert decision.reasons[0].startswith("same kind first: expected at least")


def test_what_cannot_be_compared_is_refused_in_words() -> None:
    assert decide(answers(0.9), answers(0.6, products=39)).reasons == (
        "incumbent: expected asked with the same pictures, found others",
    )
    few = decide(answers(0.9, products=4), answers(0.1, products=4))
    assert few.reasons == ("held-out products with two pictures: expected at least 5, found 4",)


def test_the_answers_come_from_the_whole_catalogue_and_only_the_held_out_ask() -> None:
    descriptions, products = shop(60)
    catalogue, side = Catalogue(products, ["k"] * len(products)), held_out(products, seed=0)
    asked = answers_of(descriptions, catalogue, side)
    measured = measure_look(exact_search(descriptions), catalogue, bootstrap=1)
    everybody = answers_of(descriptions, catalogue, np.ones(len(products), dtype=bool))
    assert len(asked.groups) == side.sum()
    assert everybody.finds_product.mean() == measured.same_product.recall[1].value
    assert everybody.finds_kind.all()


def test_a_trained_projection_passes_its_own_gate() -> None:
    descriptions, products = shop(120)
    catalogue, side = Catalogue(products), held_out(products, seed=0)
    trains = [None if out else product for out, product in zip(side, products, strict=True)]
    fitted = fit_projection(descriptions, trains, shrinkage=0.1)
    embeddings = (descriptions - fitted.mean) @ fitted.matrix
    assert decide(answers_of(embeddings, catalogue, side), answers_of(descriptions, catalogue, side)).promote
