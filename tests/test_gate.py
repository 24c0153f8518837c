"""Which candidates are promoted."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.evaluation import Evaluation
from model.gate import Decision, GatePolicy, decide

GOOD = Evaluation(
    pictures=100,
    positives=55,
    accuracy=0.90,
    accuracy_low=0.84,
    accuracy_high=0.95,
    balanced_accuracy=0.89,
    majority_share=0.55,
    auroc=0.95,
    brier=0.08,
    ece=0.04,
    confusion=((40, 5), (5, 50)),
)
POLICY = GatePolicy()
shares = st.floats(0, 1)


def test_a_good_first_model_is_promoted_with_every_check_named() -> None:
    assert decide(GOOD, None, POLICY) == Decision(
        True,
        (
            "accuracy: expected at least 0.550 (the majority's share), found 0.900",
            "balanced accuracy: expected at least 0.600 (the floor), found 0.890",
        ),
    )


def test_a_model_that_always_says_positive_is_refused() -> None:
    constant = replace(GOOD, accuracy=0.55, balanced_accuracy=0.5)
    assert decide(constant, None, POLICY) == Decision(
        False, ("balanced accuracy: expected at least 0.600 (the floor), found 0.500",)
    )


@pytest.mark.parametrize(
    ("accuracy", "balanced", "promoted"),
    [(0.95, 0.95, True), (0.89, 0.88, True), (0.889, 0.89, False), (0.90, 0.87, False)],
)
def test_an_incumbent_may_be_better_by_the_tolerated_loss_only(
    accuracy: float, balanced: float, promoted: bool
) -> None:
    candidate = replace(GOOD, accuracy=accuracy, balanced_accuracy=balanced)
    decision = decide(candidate, GOOD, POLICY)
    assert decision.promote is promoted
    assert promoted or all("(the incumbent)" in reason for reason in decision.reasons)


def test_an_incumbent_measured_on_other_pictures_is_no_comparison() -> None:
    decision = decide(GOOD, replace(GOOD, pictures=90), POLICY)
    assert not decision.promote
    assert decision.reasons == ("incumbent: expected measured on the same 100 pictures (55 positive), found 90 (55)",)


def test_a_measure_that_is_no_number_is_refused() -> None:
    assert not decide(replace(GOOD, balanced_accuracy=float("nan")), None, POLICY).promote


@given(accuracy=shares, balanced=shares, before=shares, before_balanced=shares)
def test_the_gate_is_monotonic_and_agrees_with_its_words(
    accuracy: float, balanced: float, before: float, before_balanced: float
) -> None:
    candidate = replace(GOOD, accuracy=accuracy, balanced_accuracy=balanced)
    incumbent = replace(GOOD, accuracy=before, balanced_accuracy=before_balanced)
    decision = decide(candidate, incumbent, POLICY)
    wanted = accuracy >= max(0.55, before - 0.01) - 1e-9 and balanced >= max(0.6, before_balanced - 0.01) - 1e-9
    assert decision.promote == wanted
    assert decision.reasons and all("expected" in r and "found" in r for r in decision.reasons)
    if decision.promote:
        assert decide(replace(candidate, accuracy=1.0, balanced_accuracy=1.0), incumbent, POLICY).promote


def test_deciding_changes_nothing_and_repeats() -> None:
    assert decide(GOOD, GOOD, POLICY) == decide(GOOD, GOOD, POLICY)
