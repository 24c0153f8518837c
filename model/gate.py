"""Whether a candidate may become the current model. Pure: measures and a policy in, a decision out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bootstrap import Interval, group_draws, group_means, middle
from model.calibration import apply_temperature, calibration_error
from model.evaluation import Evaluation, HeldOut, answers_of
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


def decide(
    candidate: Evaluation,
    incumbent: Evaluation | None,
    policy: GatePolicy,
    *,
    held_out: HeldOut | None = None,
    incumbent_held_out: HeldOut | None = None,
) -> Decision:
    """Promotes a candidate that clears the floors and is no worse than the incumbent. An equal one is promoted.

    Args:
        candidate: measured on held-out pictures.
        incumbent: measured on the same pictures; None for a first model or an untrained incumbent,
            whose polarity says nothing.
        policy: the thresholds.
        held_out: the candidate's answers; without them neither its calibration nor pairs are checked.
        incumbent_held_out: the incumbent's answers to the same pictures in the same order. With both, accuracies
            are compared picture by picture; without, by their values.
    """
    checks = [*_floors(candidate, policy)]
    if held_out is not None:
        checks += _soundness(candidate, held_out, policy)
    if incumbent is not None:
        checks += _comparisons(candidate, incumbent, policy, held_out, incumbent_held_out)
    return Decision(tuple(checks))


# The candidate alone --------------------------------------------------------------------------------------


def _floors(candidate: Evaluation, policy: GatePolicy) -> Iterator[Check]:
    above_majority = candidate.majority_share + policy.minimum_accuracy_above_majority
    yield _at_least("accuracy", above_majority, candidate.accuracy, "the majority's share")
    yield _at_least("balanced accuracy", policy.minimum_balanced_accuracy, candidate.balanced_accuracy, "the floor")


def _soundness(candidate: Evaluation, held_out: HeldOut, policy: GatePolicy) -> Iterator[Check]:
    polarity = held_out.polarity
    strange = int((~((polarity >= 0) & (polarity <= 1))).sum())
    if strange or len(held_out.labels) != candidate.pictures:
        yield Check(
            False,
            f"answers: expected {candidate.pictures} in [0, 1] (the evaluation's pictures), "
            f"found {len(held_out.labels)}, of them {strange} outside",
        )
        return
    calibrated = polarity if candidate.temperature is None else apply_temperature(polarity, candidate.temperature)
    most = policy.largest_ece + _chance_ece(calibrated, policy)
    error = candidate.ece if candidate.ece_calibrated is None else candidate.ece_calibrated
    yield Check(
        error <= most, f"calibration error: expected at most {most:.3f} (the limit beyond chance), found {error:.3f}"
    )


def _chance_ece(polarity: NDArray[np.floating], policy: GatePolicy) -> float:
    """The mean error over labels drawn as the polarity says: what is left when nothing is wrong."""
    rng = np.random.default_rng(policy.bootstrap_seed)
    draws = (rng.random(len(polarity)) < polarity for _ in range(100))
    return float(np.mean([calibration_error(drawn.astype(np.int64), polarity) for drawn in draws]))


# Against the incumbent ------------------------------------------------------------------------------------


def _comparisons(
    candidate: Evaluation,
    incumbent: Evaluation,
    policy: GatePolicy,
    held_out: HeldOut | None,
    incumbent_held_out: HeldOut | None,
) -> Iterator[Check]:
    if (incumbent.pictures, incumbent.positives) != (candidate.pictures, candidate.positives):
        yield Check(False, _other_pictures(candidate, incumbent))
        return
    if held_out is None or incumbent_held_out is None:
        yield from _by_value(candidate, incumbent, policy)
    elif not _same_pictures(held_out, incumbent_held_out):
        yield Check(
            False,
            "incumbent: expected answers to the same pictures in the same order, "
            "found other labels or groups, or answers that are no numbers",
        )
    else:
        yield from _paired(held_out, incumbent_held_out, policy)
    yield from _recalls(candidate, incumbent, policy)


def _by_value(candidate: Evaluation, incumbent: Evaluation, policy: GatePolicy) -> Iterator[Check]:
    loss = policy.tolerated_loss
    yield _at_least("accuracy", incumbent.accuracy - loss, candidate.accuracy, "the incumbent")
    yield _at_least(
        "balanced accuracy", incumbent.balanced_accuracy - loss, candidate.balanced_accuracy, "the incumbent"
    )


def _paired(held_out: HeldOut, incumbent: HeldOut, policy: GatePolicy) -> Iterator[Check]:
    # −1, 0 or 1 a picture: which of the two models alone is right.
    gain = _correct(held_out).astype(np.int64) - _correct(incumbent)
    balanced_gain, bounds = _balanced_gain(gain, held_out, policy)
    yield _at_least("balanced accuracy's gain", 0, balanced_gain, "over the incumbent")
    yield _at_least(
        "balanced accuracy's gain, lower 95% bound",
        -policy.credible_loss,
        float("nan") if bounds is None else bounds[0],
        "over the incumbent",
    )
    if held_out.categories is not None:
        yield _slices(gain, held_out, policy)


def _balanced_gain(gain: NDArray[np.int64], held_out: HeldOut, policy: GatePolicy) -> tuple[float, Interval | None]:
    """The difference of balanced accuracies, and its interval over samples of whole groups."""
    _, group = np.unique(held_out.groups, return_inverse=True)
    of_class = [held_out.labels == value for value in (0, 1)]
    gains = np.stack([np.bincount(group, weights=gain * inside) for inside in of_class])
    counts = np.stack([np.bincount(group, weights=inside) for inside in of_class])

    def mean_gain(drawn: NDArray[np.int64]) -> float:
        pictures = counts @ drawn
        return float(np.mean(gains @ drawn / pictures)) if pictures.all() else float("nan")

    samples = [
        mean_gain(drawn) for drawn in group_draws(counts.shape[1], policy.bootstrap_samples, policy.bootstrap_seed)
    ]
    return mean_gain(np.ones(counts.shape[1], dtype=np.int64)), middle(np.array(samples))


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


def _recalls(candidate: Evaluation, incumbent: Evaluation, policy: GatePolicy) -> Iterator[Check]:
    if candidate.retrieval is None or incumbent.retrieval is None:
        return
    for k in sorted(candidate.retrieval.recall.keys() & incumbent.retrieval.recall.keys()):
        before, now = incumbent.retrieval.recall[k].value, candidate.retrieval.recall[k].value
        yield _at_least(f"retrieval recall@{k}", before - policy.recall_loss, now, "the incumbent")


def _correct(held_out: HeldOut) -> NDArray[np.bool_]:
    return np.asarray(answers_of(held_out.polarity) == held_out.labels)


def _same_pictures(one: HeldOut, other: HeldOut) -> bool:
    finite = bool(np.isfinite(other.polarity).all())
    return finite and np.array_equal(one.labels, other.labels) and np.array_equal(one.groups, other.groups)


def _at_least(measure: str, expected: float, found: float, origin: str) -> Check:
    # Rounding must not refuse 0.9 against 0.91 − 0.01. A comparison with NaN is False: refused.
    passed = found >= expected - 1e-9
    return Check(passed, f"{measure}: expected at least {expected:.3f} ({origin}), found {found:.3f}")


def _other_pictures(candidate: Evaluation, incumbent: Evaluation) -> str:
    return (
        f"incumbent: expected measured on the same {candidate.pictures} pictures "
        f"({candidate.positives} positive), found {incumbent.pictures} ({incumbent.positives})"
    )
