"""Calibrations: found again where they are known, kept only where they help other pictures, never a lost rank."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from model.bootstrap import group_draws
from model.calibration import (
    ISOTONIC_FROM,
    MOST,
    UNCALIBRATED,
    Calibration,
    calibration_bins,
    calibration_error,
    cross_entropy,
    fit_calibration,
    fit_isotonic,
    fit_temperature,
    probability,
)
from model.evaluation import answers_of

Numbers = NDArray[np.float64]


def expit(x: Numbers) -> Numbers:
    return 1 / (1 + np.exp(-x))


def overconfident(temperature: float, count: int, seed: int = 0) -> tuple[Numbers, Numbers]:
    """Log-odds that are `temperature` times too large, and labels drawn from the true probabilities."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0.3, 1.5, count)
    return truth * temperature, (rng.random(count) < expit(truth)).astype(np.float64)


def warped(count: int, seed: int = 0) -> tuple[Numbers, Numbers]:
    """Log-odds that no temperature mends: far too sure of positives, not of negatives."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 1.5, count)
    return np.where(truth > 0, 5 * truth, truth) + 1, (rng.random(count) < expit(truth)).astype(np.float64)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 5.0])
def test_a_known_temperature_is_found_again(temperature: float) -> None:
    assert fit_temperature(*overconfident(temperature, 40_000)).temperature == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_temperature_is_the_inverse_slope_of_a_logistic_regression(seed: int, graded: bool) -> None:
    logits, labels = overconfident(2.0, 200, seed)
    if graded:
        labels = expit(logits / 2).round(1)
    high, low = (labels.sum() + 1) / (labels.sum() + 2), 1 / (200 - labels.sum() + 2)
    targets = labels * high + (1 - labels) * low
    # A soft target is a positive and a negative example, weighted.
    regression = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10)
    both = np.concatenate([logits, logits])[:, None]
    regression.fit(both, np.repeat([1, 0], 200), sample_weight=np.append(targets, 1 - targets))
    assert fit_temperature(logits, labels).temperature == pytest.approx(1 / regression.coef_[0, 0], rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_an_overconfident_model_is_better_calibrated_on_other_pictures(seed: int) -> None:
    logits, labels = overconfident(3.0, 1500, seed)
    calibration = fit_calibration(logits[:300], labels[:300], np.arange(300), seed=0)
    before = calibration_error(labels[300:], probability(logits[300:]))
    after = calibration_error(labels[300:], probability(calibration.apply(logits[300:])))
    assert after < before / 2


def test_where_a_temperature_cannot_help_isotonic_does_given_enough_pictures() -> None:
    logits, labels = warped(4000)
    fitted, other = slice(0, 2000), slice(2000, None)
    isotonic = fit_calibration(logits[fitted], labels[fitted], np.arange(2000), seed=0)
    assert isotonic.knots
    few = fit_calibration(
        logits[: ISOTONIC_FROM - 1], labels[: ISOTONIC_FROM - 1], np.arange(ISOTONIC_FROM - 1), seed=0
    )
    assert not few.knots
    error = {
        calibration: calibration_error(labels[other], probability(calibration.apply(logits[other])))
        for calibration in (UNCALIBRATED, few, isotonic)
    }
    assert error[isotonic] < 0.03 < error[few] < error[UNCALIBRATED]


@pytest.mark.parametrize("seed", range(10))
def test_what_does_not_help_pictures_that_it_was_not_fitted_on_is_not_kept(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = overconfident(1.0, 40, seed)
    found = fit_calibration(logits, labels, np.arange(40), seed=0)
    fold = np.random.default_rng(0).permutation(40) % 5
    served = np.empty(40)
    for k in range(5):
        served[fold == k] = fit_temperature(logits[fold != k], labels[fold != k]).apply(logits[fold == k])
    gains = [
        cross_entropy(logits[row : row + 1], labels[row : row + 1])
        - cross_entropy(served[row : row + 1], labels[row : row + 1])
        for row in range(40)
    ]
    helps = np.mean([np.average(gains, weights=drawn) > 0 for drawn in group_draws(40, 1000, 0)]) > 0.95
    helps &= calibration_error(labels, probability(served)) <= calibration_error(labels, probability(logits))
    assert found == (fit_temperature(logits, labels) if helps else UNCALIBRATED)
    order = rng.permutation(40)  # nor does the order of pictures matter
    shuffled = fit_calibration(logits[order], labels[order], np.arange(40)[order], seed=0)
    assert shuffled.temperature == pytest.approx(found.temperature)


def test_a_group_is_never_on_both_sides() -> None:
    # Within a product the answers are all right or all wrong, so that its own pictures would vouch for it.
    rng = np.random.default_rng(0)
    wrong = rng.random(8) < 0.5
    labels = np.repeat(np.arange(8) % 2, 25).astype(np.float64)
    logits = np.where(labels == 1, 3.0, -3.0) * np.where(np.repeat(wrong, 25), -1, 1) + rng.normal(0, 0.1, 200)
    grouped = fit_calibration(logits, labels, np.repeat(np.arange(8), 25), seed=0)
    assert grouped in (UNCALIBRATED, fit_temperature(logits, labels))
    assert fit_calibration(logits, labels, np.zeros(200), seed=0) == UNCALIBRATED  # one product


log_odds = st.integers(-80_000, 80_000).map(lambda thousandths: thousandths / 1000)


@given(
    raw=st.lists(log_odds, min_size=2, max_size=40, unique=True).map(sorted),
    labels=st.lists(st.booleans(), min_size=40, max_size=40),
    temperature=st.floats(0.1, 10),
)
def test_calibrated_log_odds_rise_at_least_a_tenth_as_fast(
    raw: list[float], labels: list[bool], temperature: float
) -> None:
    logits = np.array(raw)
    seen = np.linspace(-20, 20, 400)
    isotonic = fit_isotonic(seen, np.tile(np.array(labels, np.float64), 10))
    for calibration in (Calibration(temperature), isotonic):
        served = calibration.apply(logits)
        assert (np.diff(served) >= 0.999 / MOST * np.diff(logits) - 1e-12).all()
        assert (np.diff(served) > 0).all()


@given(logits=st.lists(log_odds, min_size=1, max_size=30), temperature=st.floats(0.1, 10))
def test_a_temperature_divides_and_keeps_every_answer(logits: list[float], temperature: float) -> None:
    raw = np.array(logits, np.float32)
    served = Calibration(temperature).apply(raw)
    np.testing.assert_allclose(served * temperature, raw, rtol=1e-12)
    np.testing.assert_array_equal(answers_of(probability(served)), answers_of(probability(raw)))


def test_isotonic_passes_through_the_shares_of_its_bins() -> None:
    # 8 bins of 25: no positive, then 5, 15, 10 (which are pooled with it), 20, 25 …
    positives = [0, 5, 15, 10, 20, 25, 25, 25]
    labels = np.concatenate([np.arange(25) < count for count in positives]).astype(np.float64)
    logits = np.linspace(-4, 4, 200)
    found = fit_isotonic(logits, labels)
    x, y = np.array(found.knots).T
    shares = np.array([1, 6, 13.5, 21, 26]) / 27
    assert len(x) == 5
    np.testing.assert_allclose(probability(y)[:4], shares[:4])
    middle = logits.reshape(8, 25).mean(axis=1)
    np.testing.assert_allclose(x, [middle[0], middle[1], middle[2:4].mean(), middle[4], middle[5:].mean()])
    np.testing.assert_allclose(found.apply(x), y)
    beyond = found.apply(np.array([x[0] - 1, x[-1] + 1]))
    np.testing.assert_allclose(beyond, [y[0] - 1 / found.temperature, y[-1] + 1 / found.temperature])


def test_a_calibration_is_json_and_back() -> None:
    for calibration in (UNCALIBRATED, Calibration(2.5), fit_isotonic(*warped(600))):
        assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration


def test_a_few_pictures_all_right_do_not_make_the_model_certain() -> None:
    labels = np.arange(10) % 2.0
    logits = np.where(labels == 1, 1.79, -1.79)  # P(positive) 0.857; Platt's target is 6/7
    assert fit_temperature(logits, labels).temperature == pytest.approx(1.0, abs=0.05)


def test_answers_that_are_wrong_half_the_time_are_as_soft_as_can_be() -> None:
    logits, labels = np.array([-200.0, 200.0, -200.0, 200.0]), np.array([0.0, 1.0, 1.0, 0.0])
    assert fit_temperature(logits, labels).temperature == pytest.approx(10.0)


@pytest.mark.parametrize("labels", [[], [1, 1, 1], [0]])
def test_without_both_classes_there_is_nothing_to_fit(labels: list[int]) -> None:
    logits, groups = np.full(len(labels), 0.7), np.arange(len(labels))
    assert fit_temperature(logits, np.array(labels, np.float64)) == UNCALIBRATED
    assert fit_calibration(logits, np.array(labels, np.float64), groups, seed=0) == UNCALIBRATED


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature: expected above 0"):
        Calibration(temperature)


@pytest.mark.parametrize("knots", [((0, 1), (1, 1)), ((1, 0), (0, 1)), ((0, float("nan")), (1, 2))])
def test_knots_that_do_not_rise_are_refused(knots: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match="knots: expected both columns to rise"):
        Calibration(1.0, knots)


@pytest.mark.parametrize(
    ("logits", "labels"), [([0.5, np.nan], [0, 1]), ([0.5, np.inf], [0, 1]), ([0.5], [0, 1]), ([0.5, 1], [0, 1.5])]
)
def test_logits_and_labels_that_are_none_are_refused(logits: list[float], labels: list[float]) -> None:
    for fit in (fit_temperature, fit_isotonic):
        with pytest.raises(ValueError, match="expected"):
            fit(np.array(logits), np.array(labels))
    with pytest.raises(ValueError, match="one group a picture"):
        fit_calibration(np.zeros(2), np.zeros(2), np.arange(3), seed=0)


def test_bins_hold_every_picture_once_the_ends_too() -> None:
    pictures, positives, promised = calibration_bins(np.array([1, 0, 1]), np.array([1.0, 0.0, 0.55]))
    assert pictures.tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert positives.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert promised.tolist() == [0, 0, 0, 0, 0, 0.55, 0, 0, 0, 1]


def test_a_network_that_is_calibrated_is_left_alone() -> None:
    kept = 0
    for seed in range(40):
        logits, labels = overconfident(1.0, 40, seed)
        kept += fit_calibration(logits, labels, np.arange(40), seed=0) != UNCALIBRATED
    assert kept <= 4  # by chance alone one in twenty
