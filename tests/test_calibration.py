"""The temperature: found again where it is known, never a different answer, less calibration error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from model.calibration import apply_temperature, calibration_bins, calibration_error, fit_temperature
from model.evaluation import answers_of

Numbers = NDArray[np.float64]
polarities = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30).map(lambda p: np.array(p, dtype=np.float32))


def expit(x: Numbers) -> Numbers:
    return 1 / (1 + np.exp(-x))


def logit(p: Numbers) -> Numbers:
    return np.log(p / (1 - p))


def overconfident(temperature: float, count: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Labels drawn from true probabilities, and polarities whose logits are `temperature` times too large."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0.3, 1.5, count)
    labels = (rng.random(count) < expit(truth)).astype(np.int64)
    return expit(truth * temperature), labels


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 5.0])
def test_a_known_temperature_is_found_again(temperature: float) -> None:
    polarity, labels = overconfident(temperature, 40_000)
    assert fit_temperature(polarity, labels) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_the_temperature_is_the_inverse_slope_of_a_logistic_regression(seed: int) -> None:
    polarity, labels = overconfident(2.0, 200, seed)
    positives = int(labels.sum())
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (200 - positives + 2))
    # A soft target is a positive and a negative example, weighted.
    regression = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10)
    both = np.concatenate([logit(polarity), logit(polarity)])[:, None]
    regression.fit(both, np.repeat([1, 0], 200), sample_weight=np.append(targets, 1 - targets))
    assert fit_temperature(polarity, labels) == pytest.approx(1 / regression.coef_[0, 0], rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_an_overconfident_model_is_better_calibrated_on_other_pictures(seed: int) -> None:
    polarity, labels = overconfident(3.0, 1500, seed)
    temperature = fit_temperature(polarity[:500], labels[:500])
    before = calibration_error(labels[500:], polarity[500:])
    after = calibration_error(labels[500:], apply_temperature(polarity[500:], temperature))
    assert after < before / 2


@given(polarity=polarities, temperature=st.floats(0.1, 10))
def test_scaling_keeps_the_order_and_every_answer(polarity: NDArray[np.float32], temperature: float) -> None:
    scaled = apply_temperature(polarity, temperature)
    assert ((scaled >= 0) & (scaled <= 1)).all()
    assert (np.diff(scaled[np.argsort(polarity)]) >= 0).all()
    np.testing.assert_array_equal(answers_of(scaled), answers_of(polarity))


def test_scaling_divides_the_logits_and_one_changes_nothing() -> None:
    polarity = np.array([0.01, 0.3, 0.5, 0.9])
    np.testing.assert_allclose(logit(apply_temperature(polarity, 2.5)), logit(polarity) / 2.5, atol=1e-12)
    np.testing.assert_array_equal(apply_temperature(polarity, 1.0), polarity)
    np.testing.assert_allclose(apply_temperature(apply_temperature(polarity, 4.0), 0.25), polarity)


def test_sure_answers_stay_finite() -> None:
    polarity, labels = np.array([0, 1, 0, 1], dtype=np.float32), np.array([0, 1, 1, 0])
    assert fit_temperature(polarity, labels) == pytest.approx(10.0)  # as sure as can be, and wrong half the time
    assert np.isfinite(apply_temperature(polarity, 0.1)).all()


def test_a_few_pictures_all_right_do_not_make_the_model_certain() -> None:
    labels = np.arange(10) % 2
    polarity = np.where(labels == 1, 0.85, 0.15)
    assert fit_temperature(polarity, labels) == pytest.approx(1.0, abs=0.05)  # Platt's target is 6/7


@pytest.mark.parametrize("labels", [[], [1, 1, 1], [0]])
def test_without_both_classes_there_is_nothing_to_fit(labels: list[int]) -> None:
    assert fit_temperature(np.full(len(labels), 0.7), np.array(labels, dtype=np.int64)) == 1.0


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature: expected above 0"):
        apply_temperature(np.array([0.5]), temperature)


@pytest.mark.parametrize("polarity", [[0.5, np.nan], [0.5, 1.5], [0.5]])
def test_polarities_that_are_no_probabilities_are_refused(polarity: list[float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        fit_temperature(np.array(polarity), np.array([0, 1]))


def test_bins_hold_every_picture_once_the_ends_too() -> None:
    pictures, positives, promised = calibration_bins(np.array([1, 0, 1]), np.array([1.0, 0.0, 0.55]))
    assert pictures.tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert positives.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert promised.tolist() == [0, 0, 0, 0, 0, 0.55, 0, 0, 0, 1]
