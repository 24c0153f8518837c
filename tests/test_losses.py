"""The losses against a slow loop transcribed from equations (10) to (16), and their gradients."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.losses import Losses, LossWeights, polarity_loss
from model.network import PolarityOutput

LABELS = torch.tensor([0, 1, 1, 0, 1, 0])
PAPER = LossWeights(regression_tolerance=0.0)


def output(seed: int = 0, dtype: torch.dtype = torch.float64, count: int = 6) -> PolarityOutput:
    random = torch.Generator().manual_seed(seed)
    logits, raw, scores = (3 * torch.randn(count, 2, generator=random, dtype=torch.float64) for _ in range(3))
    parts = (logits.to(dtype), raw.sigmoid().to(dtype), scores.to(dtype))
    for part in parts:
        part.requires_grad_()
    return PolarityOutput(*parts, embedding=torch.zeros(count, 4), attention=torch.zeros(count, 2, 1, 1))


def backward(losses: Losses) -> None:
    losses.total.backward()  # type: ignore[no-untyped-call]


def softmax(pair: list[float]) -> list[float]:
    exponentials = [math.exp(value - max(pair)) for value in pair]
    return [value / sum(exponentials) for value in exponentials]


def slow(output: PolarityOutput, labels: Tensor, weights: LossWeights, sample: list[float]) -> list[float]:
    """Equations (10), (11), (16), (15), picture by picture, as printed: for labels of 0 and 1."""
    perception = fusion = regression = 0.0
    for i, label in enumerate(labels.tolist()):
        u = softmax(output.branch_scores[i].tolist())
        b = softmax(output.logits[i].tolist())
        y_m, y_t = output.intensities[i].tolist()
        share = sample[i] / sum(sample)
        perception += share * -math.log(u[label])
        for j in (0, 1):
            target = (1 - weights.smoothing) * (1.0 if j == label else 0.0) + weights.smoothing * u[j]
            fusion += share * -target * math.log(b[j])
        s = 1 if label == 1 else -1
        regression += share * abs(math.tanh(s) - math.tanh(y_t - y_m))
    total = perception + weights.fusion * fusion + weights.regression * regression
    return [total, perception, fusion, regression]


def slow_of_shares(output: PolarityOutput, shares: Tensor, weights: LossWeights) -> list[float]:
    """The same for shares of raters: the mean over what each of them would have said; (15) takes the mean of s."""
    perception = fusion = regression = 0.0
    for i, share in enumerate(shares.tolist()):
        one = PolarityOutput(*(part[i : i + 1] for part in output))
        for label, of_raters in ((0, 1 - share), (1, share)):
            _, of_branches, of_fusion, _ = slow(one, torch.tensor([label]), weights, [1.0])
            perception, fusion = perception + of_raters * of_branches, fusion + of_raters * of_fusion
        y_m, y_t = output.intensities[i].tolist()
        error = abs(math.tanh(2 * share - 1) - math.tanh(weights.regression_scale * (y_t - y_m)))
        regression += max(0.0, error - weights.regression_tolerance)
    perception, fusion, regression = (loss / len(shares) for loss in (perception, fusion, regression))
    return [perception + weights.fusion * fusion + weights.regression * regression, perception, fusion, regression]


@pytest.mark.parametrize(
    "weights",
    [LossWeights(), LossWeights(0.7, 0.3, 2.0, 0.25), LossWeights(regression_scale=2.5, regression_tolerance=0.3)],
)
@pytest.mark.parametrize("shares", [[0.0, 1.0, 0.5, 0.25, 0.9, 0.01], LABELS.tolist()])
def test_shares_are_soft_targets(weights: LossWeights, shares: list[float]) -> None:
    for seed in range(5):
        found = polarity_loss(output(seed), torch.tensor(shares), weights)
        expected = slow_of_shares(output(seed), torch.tensor(shares), replace(weights, perception=1.0))
        expected[0] += (weights.perception - 1) * expected[1]
        assert [float(loss.detach()) for loss in found] == pytest.approx(expected, rel=1e-6)


def test_equation_15_costs_nothing_within_its_tolerance() -> None:
    intensities = torch.tensor([[0.1, 0.9], [0.3, 0.7], [0.7, 0.2]], requires_grad=True)
    made = output(count=3)._replace(intensities=intensities)
    found = polarity_loss(made, torch.ones(3), LossWeights(regression_tolerance=0.2)).regression
    beyond = [math.tanh(1) - math.tanh(difference) - 0.2 for difference in (0.4, -0.5)]  # tanh 0.8 lies within
    assert float(found.detach()) == pytest.approx(sum(beyond) / 3)
    (gradient,) = torch.autograd.grad(found, [intensities])
    assert gradient.any(dim=1).tolist() == [False, True, True]


def test_equation_15_scaled_asks_for_a_difference_that_intensities_can_have() -> None:
    made = output(count=2)._replace(intensities=torch.tensor([[0.1, 0.6], [0.9, 0.4]]))
    assert float(polarity_loss(made, torch.tensor([1, 0]), replace(PAPER, regression_scale=2.0)).regression) < 1e-6


@pytest.mark.parametrize("wrong", [{"regression_scale": 0.0}, {"regression_tolerance": -0.1}, {"smoothing": 1.0}])
def test_a_scale_of_0_and_a_negative_tolerance_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        LossWeights(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("sample", [[1.0] * 6, [0.5, 2.0, 1.0, 0.0, 3.0, 1.5]])
@pytest.mark.parametrize("weights", [PAPER, replace(PAPER, regression=0.3, fusion=2.0, smoothing=0.25)])
def test_the_losses_are_those_of_the_paper(weights: LossWeights, sample: list[float]) -> None:
    for seed in range(5):
        found = polarity_loss(output(seed), LABELS, weights, torch.tensor(sample))
        expected = slow(output(seed), LABELS, weights, sample)
        assert [float(loss.detach()) for loss in found] == pytest.approx(expected, rel=1e-6)


def test_the_gradient_is_the_derivative() -> None:
    fixed = output().branch_scores.detach()  # T stops the gradient, so that finite differences hold u still
    rest = output()

    def through_fusion(logits: Tensor, intensities: Tensor) -> Losses:
        return polarity_loss(
            rest._replace(logits=logits, intensities=intensities, branch_scores=fixed), LABELS, LossWeights()
        )

    def through_branches(scores: Tensor) -> Tensor:
        return polarity_loss(rest._replace(branch_scores=scores), LABELS, LossWeights()).perception

    assert torch.autograd.gradcheck(through_fusion, (rest.logits, rest.intensities))
    assert torch.autograd.gradcheck(through_branches, (rest.branch_scores,))


def test_equation_16_sends_no_gradient_through_its_target() -> None:
    made = output()
    fusion = polarity_loss(made, LABELS, LossWeights(smoothing=0.5)).fusion
    (gradient,) = torch.autograd.grad(fusion, [made.branch_scores], allow_unused=True)
    assert gradient is None


def test_equation_16_without_smoothing_is_cross_entropy() -> None:
    made = output()
    found = polarity_loss(made, LABELS, LossWeights(smoothing=0.0)).fusion
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(made.logits, LABELS))


def test_equation_16_with_undecided_branches_is_ordinary_label_smoothing() -> None:
    made = output()
    undecided = made._replace(branch_scores=torch.zeros_like(made.branch_scores))
    found = polarity_loss(undecided, LABELS, LossWeights(smoothing=0.2)).fusion
    expected = torch.nn.functional.cross_entropy(made.logits, LABELS, label_smoothing=0.2)
    torch.testing.assert_close(found, expected)


def test_equation_11_is_cross_entropy_on_the_pooled_scores() -> None:
    made = output()
    expected = torch.nn.functional.cross_entropy(made.branch_scores, LABELS)
    torch.testing.assert_close(polarity_loss(made, LABELS, LossWeights()).perception, expected)


def test_equation_14_is_finite_on_very_negative_scores() -> None:
    made = output()._replace(branch_scores=torch.full((6, 2), -1e4, dtype=torch.float64))
    assert all(bool(torch.isfinite(loss)) for loss in polarity_loss(made, LABELS, LossWeights()))


def test_equation_15_is_0_only_where_the_difference_is_the_label() -> None:
    exact = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    near = torch.tensor([[0.0, 0.99], [1.0, 0.01]])
    labels = torch.tensor([1, 0])

    def regression(intensities: Tensor) -> float:
        made = output(count=2)._replace(intensities=intensities)
        return float(polarity_loss(made, labels, PAPER).regression)

    assert regression(exact) == 0.0
    assert 0.0 < regression(near) < regression(exact.flip(1))


def test_relabelling_and_swapping_the_branches_changes_nothing() -> None:
    made = output()
    swapped = made._replace(
        logits=made.logits.flip(1),
        intensities=made.intensities.flip(1),
        branch_scores=made.branch_scores.flip(1),
    )
    for one, other in zip(
        polarity_loss(made, LABELS, LossWeights()),
        polarity_loss(swapped, 1 - LABELS, LossWeights()),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_equation_10_a_zero_weight_removes_that_gradient() -> None:
    made = output()
    backward(polarity_loss(made, LABELS, LossWeights(fusion=0.0)))
    assert made.logits.grad is not None and not made.logits.grad.any()
    assert made.intensities.grad is not None and bool(made.intensities.grad.any())
    made = output()
    backward(polarity_loss(made, LABELS, LossWeights(regression=0.0)))
    assert made.intensities.grad is not None and not made.intensities.grad.any()


def test_a_picture_of_weight_2_counts_like_two_pictures() -> None:
    made = output(count=3)
    labels = torch.tensor([0, 1, 1])
    doubled = PolarityOutput(*(torch.cat([part, part[:1]]) for part in made))
    weighted = polarity_loss(made, labels, LossWeights(), torch.tensor([2.0, 1.0, 1.0]))
    repeated = polarity_loss(doubled, torch.tensor([0, 1, 1, 0]), LossWeights())
    for one, other in zip(weighted, repeated, strict=True):
        torch.testing.assert_close(one, other)


def test_a_batch_of_no_weight_has_loss_0() -> None:
    assert float(polarity_loss(output(), LABELS, LossWeights(), torch.zeros(6)).total.detach()) == 0.0


def test_losses_of_a_bfloat16_network_are_float32() -> None:
    found = polarity_loss(output(dtype=torch.bfloat16), LABELS, LossWeights())
    assert {loss.dtype for loss in found} == {torch.float32}


def test_uniform_smoothing_is_ordinary_label_smoothing() -> None:
    made = output()
    expected = F.cross_entropy(made.logits, LABELS, label_smoothing=0.3)
    torch.testing.assert_close(polarity_loss(made, LABELS, LossWeights(smoothing=0.3, uniform=True)).fusion, expected)


def test_a_zero_weight_takes_k_pm_out_of_the_total() -> None:
    made = output()
    found = polarity_loss(made, LABELS, LossWeights(perception=0.0))
    torch.testing.assert_close(found.total, found.fusion + found.regression)
