"""Whether a candidate may become the current model. Pure: measures and a policy in, a decision out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bootstrap import balanced_gain, group_means
from model.calibration import calibration_error
from model.evaluation import Evaluation, HeldOut
from model.gate_policy import GatePolicy


@dataclass(frozen=True)
class Check:
    """One comparison: `reason` says what was expected and what was found."""

    passed: bool
    reason: str


@dataclass(frozen=True)
class Decision:
    """Whether a candidate becomes the current model: where every check passed, or a person says so."""

    checks: tuple[Check, ...]
    forced: str | None = None
    """Why a person promotes a candidate that failed a check."""

    @property
    def promote(self) -> bool:
        """A candidate that nothing was checked of is refused."""
        return self.forced is not None or (bool(self.checks) and all(check.passed for check in self.checks))

    @property
    def reasons(self) -> tuple[str, ...]:
        """What the failed checks say; where none failed, what all say."""
        failed = tuple(check.reason for check in self.checks if not check.passed)
        return failed or tuple(check.reason for check in self.checks)

    @property
    def words(self) -> tuple[str, ...]:
        """The reasons as a person reads them: why it was forced, where it was, stands in front."""
        return self.reasons if self.forced is None else (f"forced: {self.forced}", *self.reasons)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, for a manifest."""
        return {"promote": self.promote, "forced": self.forced, "reasons": list(self.reasons)}


@dataclass(frozen=True)
class Judged:
    """A model's measures and the answers that they were taken of."""

    evaluation: Evaluation
    answers: HeldOut


def decide(candidate: Judged, incumbent: Judged | None, policy: GatePolicy) -> Decision:
    """Promotes a candidate that clears the floors and is no worse than the incumbent. An equal one is promoted.

    Args:
        candidate: judged on held-out pictures.
        incumbent: judged on the same pictures in the same order; None for a first model.
        policy: the thresholds.
    """
    measured = candidate.evaluation
    above_majority = measured.majority_share + policy.minimum_accuracy_above_majority
    checks = [
        _at_least("accuracy", above_majority, measured.accuracy, "the majority's share"),
        _at_least("balanced accuracy", policy.minimum_balanced_accuracy, measured.balanced_accuracy, "the floor"),
        _soundness(measured, candidate.answers, policy),
    ]
    return Decision((*checks, *(() if incumbent is None else _comparisons(candidate, incumbent, policy))))


def _soundness(candidate: Evaluation, answers: HeldOut, policy: GatePolicy) -> Check:
    polarity = answers.polarity
    strange = int((~((polarity >= 0) & (polarity <= 1))).sum())
    if strange or len(polarity) != candidate.pictures:
        return Check(
            False,
            f"answers: expected {candidate.pictures} in [0, 1] (the evaluation's pictures), "
            f"found {len(polarity)}, of them {strange} outside",
        )
    most, error = policy.largest_ece + _chance_ece(polarity, policy), candidate.ece
    return Check(
        error <= most, f"calibration error: expected at most {most:.3f} (the limit beyond chance), found {error:.3f}"
    )


def _chance_ece(polarity: NDArray[np.floating], policy: GatePolicy) -> float:
    """The mean error over labels drawn as the polarity says: what is left when nothing is wrong."""
    rng = np.random.default_rng(policy.bootstrap_seed)
    draws = (rng.random(len(polarity)) < polarity for _ in range(100))
    return float(np.mean([calibration_error(drawn.astype(np.int64), polarity) for drawn in draws]))


def _comparisons(candidate: Judged, incumbent: Judged, policy: GatePolicy) -> Iterator[Check]:
    measured, before = candidate.evaluation, incumbent.evaluation
    ours, theirs = candidate.answers, incumbent.answers
    same = np.array_equal(ours.labels, theirs.labels) and np.array_equal(ours.groups, theirs.groups)
    if (before.pictures, before.positives) != (measured.pictures, measured.positives):
        yield Check(
            False,
            f"incumbent: expected measured on the same {measured.pictures} pictures ({measured.positives} positive), "
            f"found {before.pictures} ({before.positives})",
        )
        return
    if not (same and np.isfinite(theirs.polarity).all()):
        yield Check(
            False,
            "incumbent: expected answers to the same pictures in the same order, "
            "found other labels or groups, or answers that are no numbers",
        )
    else:
        yield from _paired(ours, theirs, policy)


def _paired(held_out: HeldOut, incumbent: HeldOut, policy: GatePolicy) -> Iterator[Check]:
    # −1, 0 or 1 a picture: which of the two models alone is right.
    gain = held_out.correct.astype(np.int64) - incumbent.correct
    mean_gain, bounds = balanced_gain(
        gain, held_out.labels, held_out.groups, policy.bootstrap_samples, policy.bootstrap_seed
    )
    yield _at_least("balanced accuracy's gain", 0, mean_gain, "over the incumbent")
    yield _at_least(
        "balanced accuracy's gain, lower 95% bound",
        -policy.credible_loss,
        float("nan") if bounds is None else bounds[0],
        "over the incumbent",
    )
    if held_out.categories is not None:
        yield _slices(gain, held_out, policy)


def _slices(gain: NDArray[np.int64], held_out: HeldOut, policy: GatePolicy) -> Check:
    """One check for all categories: a decision has to be readable."""
    categories = held_out.categories
    assert categories is not None  # noqa: S101 (the caller asked)
    names = sorted({name for name in categories.tolist() if name is not None})
    large = [name for name in names if (categories == name).sum() >= policy.slice_pictures]
    worse = []
    for name in large:
        inside = categories == name
        samples = group_means(gain[inside], held_out.groups[inside], policy.bootstrap_samples, policy.bootstrap_seed)
        upper = float(np.quantile(samples, 0.975)) if len(samples) else float("inf")
        if not upper >= -policy.slice_loss - 1e-9:
            worse.append(f"{name} (gain {gain[inside].mean():+.3f}, at most {upper:+.3f})")
    return Check(
        not worse,
        f"categories: expected none of the {len(large)} with {policy.slice_pictures} pictures or more worse than the "
        f"incumbent by more than {policy.slice_loss:.3f} with 95% confidence, found {', '.join(worse) or 'none'}",
    )


def _at_least(measure: str, expected: float, found: float, origin: str) -> Check:
    # Rounding must not refuse 0.9 against 0.91 − 0.01. A comparison with NaN is False: refused.
    passed = found >= expected - 1e-9
    return Check(passed, f"{measure}: expected at least {expected:.3f} ({origin}), found {found:.3f}")
