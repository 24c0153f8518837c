"""Which candidates are promoted, by their measures and picture by picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.calibration import probability
from model.evaluation import Evaluation, HeldOut, evaluate
from model.gate import Decision, Judged, decide
from model.gate_policy import GatePolicy

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
OF_GOOD = np.arange(100) >= 45
SURE = HeldOut(OF_GOOD.astype(np.int64), np.where(OF_GOOD, 0.95, 0.05), np.arange(100))
shares = st.floats(0, 1)


def alone(candidate: Evaluation, policy: GatePolicy = POLICY) -> Decision:
    """A first model's."""
    return decide(Judged(candidate, SURE), None, policy)


def against(candidate: Evaluation, incumbent: Evaluation) -> Decision:
    """Both give the same answers."""
    return decide(Judged(candidate, SURE), Judged(incumbent, SURE), POLICY)


def test_a_good_first_model_is_promoted_with_every_check_named() -> None:
    decision = alone(GOOD)
    assert decision.promote and decision.reasons == tuple(check.reason for check in decision.checks)
    assert decision.reasons[:2] == (
        "accuracy: expected at least 0.550 (the majority's share), found 0.900",
        "balanced accuracy: expected at least 0.600 (the floor), found 0.890",
    )
    assert len(decision.reasons) == 3 and decision.reasons[2].endswith("(the limit beyond chance), found 0.040")


def test_a_model_that_always_says_positive_is_refused() -> None:
    constant = replace(GOOD, accuracy=0.55, balanced_accuracy=0.5)
    decision = alone(constant)
    assert not decision.promote
    assert decision.reasons == ("balanced accuracy: expected at least 0.600 (the floor), found 0.500",)
    assert [check.passed for check in decision.checks] == [True, False, True]


def test_an_incumbent_measured_on_other_pictures_is_no_comparison() -> None:
    decision = against(GOOD, replace(GOOD, pictures=90))
    assert not decision.promote
    assert decision.reasons == ("incumbent: expected measured on the same 100 pictures (55 positive), found 90 (55)",)


def test_a_measure_that_is_no_number_is_refused() -> None:
    assert not alone(replace(GOOD, balanced_accuracy=float("nan"))).promote


@given(accuracy=shares, balanced=shares)
def test_the_floors_are_monotonic_and_agree_with_their_words(accuracy: float, balanced: float) -> None:
    candidate = replace(GOOD, accuracy=accuracy, balanced_accuracy=balanced)
    decision = alone(candidate)
    assert decision.promote == (accuracy >= 0.55 - 1e-9 and balanced >= 0.6 - 1e-9)
    assert decision.reasons and all("expected" in r and "found" in r for r in decision.reasons)
    if decision.promote:
        assert alone(replace(candidate, accuracy=1.0, balanced_accuracy=1.0)).promote


def test_deciding_changes_nothing_and_repeats() -> None:
    assert against(GOOD, GOOD) == against(GOOD, GOOD) and against(GOOD, GOOD).promote


def test_a_person_may_promote_what_the_gate_refuses_and_the_reason_stays_apart_from_the_gates() -> None:
    refused = alone(replace(GOOD, accuracy=0.5))
    forced = replace(refused, forced="to see it through")
    assert not refused.promote and forced.promote
    assert forced.reasons == refused.reasons and forced.checks == refused.checks
    assert forced.words == ("forced: to see it through", *refused.reasons) and refused.words == refused.reasons
    assert forced.to_dict() == {"promote": True, "forced": "to see it through", "reasons": list(refused.reasons)}
    assert refused.to_dict() == {"promote": False, "forced": None, "reasons": list(refused.reasons)}


def test_a_candidate_that_nothing_was_checked_of_is_refused() -> None:
    assert not Decision(()).promote


# Picture by picture ---------------------------------------------------------------------------------------

PAIRED = GatePolicy(bootstrap_samples=400)
LABELS = np.arange(300) // 2 % 2
GROUPS = np.arange(300) // 2
CATEGORIES = np.array(["hats", "shoes", "bags"])[np.arange(300) // 100]


def answers(right: float, seed: int, labels: NDArray[np.int64] = LABELS) -> HeldOut:
    """Polarities that are right with this chance, and as sure as they may be."""
    rng = np.random.default_rng(seed)
    towards = np.where(rng.random(300) < right, labels, 1 - labels)
    sure = rng.uniform(right - 0.05, min(right + 0.05, 1), 300)
    return HeldOut(LABELS, np.where(towards == 1, sure, 1 - sure), GROUPS, CATEGORIES)


def measured(held_out: HeldOut) -> Evaluation:
    return evaluate(held_out.labels, held_out.polarity, held_out.groups, bootstrap=10, seed=0)


def judge(candidate: HeldOut, incumbent: HeldOut | None, policy: GatePolicy = PAIRED) -> Decision:
    before = None if incumbent is None else Judged(measured(incumbent), incumbent)
    return decide(Judged(measured(candidate), candidate), before, policy)


def with_wrong(held_out: HeldOut, wrong: NDArray[np.bool_]) -> HeldOut:
    """The same answers, the opposite ones where they are to be wrong."""
    return replace(held_out, polarity=np.where(wrong, np.where(held_out.labels == 1, 0.2, 0.8), held_out.polarity))


GOOD_ANSWERS = answers(0.85, seed=1)


@pytest.mark.parametrize("seed", range(5))
def test_a_candidate_trained_on_shuffled_labels_is_refused(seed: int) -> None:
    shuffled = answers(0.85, seed, np.random.default_rng(seed).permutation(LABELS))
    decision = judge(shuffled, GOOD_ANSWERS)
    assert not decision.promote
    assert any(reason.startswith("balanced accuracy's gain") for reason in decision.reasons)


@pytest.mark.parametrize("seed", range(5))
def test_a_clearly_better_candidate_is_promoted(seed: int) -> None:
    decision = judge(answers(0.93, seed), GOOD_ANSWERS)
    assert decision.promote and all(check.passed for check in decision.checks)
    assert decision.reasons == tuple(check.reason for check in decision.checks)


def test_an_equal_candidate_is_promoted_since_its_labels_are_newer() -> None:
    decision = judge(GOOD_ANSWERS, GOOD_ANSWERS)
    assert decision.promote and decision == judge(GOOD_ANSWERS, GOOD_ANSWERS)


def test_one_more_mistake_is_refused_however_sure_the_interval() -> None:
    first_right = np.arange(300) == np.flatnonzero((GOOD_ANSWERS.polarity >= 0.5) == LABELS)[0]
    decision = judge(with_wrong(GOOD_ANSWERS, first_right), GOOD_ANSWERS)
    assert decision.reasons == ("balanced accuracy's gain: expected at least 0.000 (over the incumbent), found -0.003",)


def test_a_gain_that_may_as_well_be_a_loss_is_refused() -> None:
    even, odd = GROUPS % 10 < 3, GROUPS % 10 >= 7  # the two are wrong on different products, as many of them
    perfect = replace(GOOD_ANSWERS, polarity=np.where(LABELS == 1, 0.8, 0.2))
    decision = judge(with_wrong(perfect, odd), with_wrong(perfect, even))
    assert len(decision.reasons) == 1 and "lower 95% bound: expected at least -0.050" in decision.reasons[0]
    assert judge(with_wrong(perfect, odd), with_wrong(perfect, even), replace(PAIRED, credible_loss=0.3)).promote


def test_the_bound_agrees_with_a_slow_paired_bootstrap_by_group() -> None:
    candidate, incumbent = answers(0.88, 3), answers(0.85, 4)
    rng = np.random.default_rng(PAIRED.bootstrap_seed)
    gains = []
    for _ in range(PAIRED.bootstrap_samples):
        drawn = np.concatenate([np.flatnonzero(g == GROUPS) for g in rng.integers(150, size=150)])
        one, other = (
            evaluate(LABELS[drawn], h.polarity[drawn], GROUPS[drawn], bootstrap=1, seed=0).balanced_accuracy
            for h in (candidate, incumbent)
        )
        gains.append(one - other)
    found = next(c for c in judge(candidate, incumbent).checks if "lower 95% bound" in c.reason)
    assert found.reason.endswith(f"found {np.quantile(gains, 0.025):.3f}")


def test_a_category_that_got_worse_is_refused_by_name() -> None:
    incumbent = with_wrong(GOOD_ANSWERS, (CATEGORIES != "bags") & (GROUPS % 3 == 0))
    candidate = with_wrong(GOOD_ANSWERS, (CATEGORIES == "bags") & (GROUPS % 3 == 0))
    decision = judge(candidate, incumbent)
    assert len(decision.reasons) == 1
    assert "expected none of the 3 with 30 pictures or more" in decision.reasons[0]
    assert "found bags (gain -0." in decision.reasons[0]
    assert judge(candidate, incumbent, replace(PAIRED, slice_pictures=101)).promote
    nameless = replace(candidate, categories=None)
    assert judge(nameless, incumbent).promote


def test_an_overconfident_candidate_is_refused_until_it_is_calibrated() -> None:
    sure = replace(GOOD_ANSWERS, polarity=np.where(GOOD_ANSWERS.polarity >= 0.5, 0.999, 0.001))
    decision = judge(sure, None)
    assert len(decision.reasons) == 1 and decision.reasons[0].startswith("calibration error: expected at most 0.1")
    softer = probability(np.log(sure.polarity / (1 - sure.polarity)) / 4)
    assert judge(replace(sure, polarity=softer), None).promote


def test_a_small_held_out_side_may_be_as_uncalibrated_as_chance_makes_it() -> None:
    few = slice(0, 20)
    found = [
        judge(HeldOut(LABELS[few], answers(0.85, seed).polarity[few], GROUPS[few]), None).checks[2].passed
        for seed in range(40)
    ]
    assert sum(found) >= 36


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1])
def test_answers_that_are_no_probabilities_are_refused(bad: float) -> None:
    strange = replace(GOOD_ANSWERS, polarity=np.append(GOOD_ANSWERS.polarity[1:], bad))
    for incumbent in (None, GOOD_ANSWERS):
        before = None if incumbent is None else Judged(measured(incumbent), incumbent)
        decision = decide(Judged(measured(GOOD_ANSWERS), strange), before, PAIRED)
        assert not decision.promote
        assert decision.reasons[0].startswith("answers: expected 300 in [0, 1]")
        assert decision.reasons[0].endswith("found 300, of them 1 outside")


def test_answers_to_other_pictures_are_no_comparison() -> None:
    swapped = HeldOut(LABELS[::-1], GOOD_ANSWERS.polarity[::-1], GROUPS[::-1])
    decision = judge(GOOD_ANSWERS, swapped)
    [reason] = decision.reasons
    assert reason == (
        "incumbent: expected answers to the same pictures in the same order, "
        "found other labels or groups, or answers that are no numbers"
    )
