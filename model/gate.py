"""Whether a candidate may become the current model. Pure: two evaluations and a policy in, a decision out."""

from dataclasses import dataclass

from model.evaluation import Evaluation


@dataclass(frozen=True)
class GatePolicy:
    """The floors, and how much worse than the incumbent is still good enough."""

    minimum_accuracy_above_majority: float = 0.0
    minimum_balanced_accuracy: float = 0.6
    tolerated_loss: float = 0.01
    """Of accuracy and of balanced accuracy against the incumbent: retraining on newer labels is worth a
    loss that a few hundred held-out pictures could not tell from chance."""


@dataclass(frozen=True)
class Decision:
    """`reasons` are all checks when promoted, the failed ones when refused."""

    promote: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Check:
    passed: bool
    reason: str


def decide(candidate: Evaluation, incumbent: Evaluation | None, policy: GatePolicy) -> Decision:
    """Promotes a candidate that clears the floors and is no worse than the incumbent.

    Args:
        candidate: measured on held-out pictures.
        incumbent: measured on the same pictures; None for a first model or an untrained incumbent,
            whose polarity says nothing.
        policy: the thresholds.
    """
    checks = _floors(candidate, policy)
    if incumbent is not None:
        checks += _comparisons(candidate, incumbent, policy)
    failed = [check for check in checks if not check.passed]
    return Decision(promote=not failed, reasons=tuple(check.reason for check in failed or checks))


def _floors(candidate: Evaluation, policy: GatePolicy) -> list[_Check]:
    above_majority = candidate.majority_share + policy.minimum_accuracy_above_majority
    return [
        _at_least("accuracy", above_majority, candidate.accuracy, "the majority's share"),
        _at_least("balanced accuracy", policy.minimum_balanced_accuracy, candidate.balanced_accuracy, "the floor"),
    ]


def _comparisons(candidate: Evaluation, incumbent: Evaluation, policy: GatePolicy) -> list[_Check]:
    measured = (candidate.pictures, candidate.positives)
    if (incumbent.pictures, incumbent.positives) != measured:
        return [_Check(False, _other_pictures(candidate, incumbent))]
    loss = policy.tolerated_loss
    return [
        _at_least("accuracy", incumbent.accuracy - loss, candidate.accuracy, "the incumbent"),
        _at_least(
            "balanced accuracy",
            incumbent.balanced_accuracy - loss,
            candidate.balanced_accuracy,
            "the incumbent",
        ),
    ]


def _at_least(measure: str, expected: float, found: float, origin: str) -> _Check:
    # Rounding must not refuse 0.9 against 0.91 − 0.01. A comparison with NaN is False: refused.
    passed = found >= expected - 1e-9
    return _Check(passed, f"{measure}: expected at least {expected:.3f} ({origin}), found {found:.3f}")


def _other_pictures(candidate: Evaluation, incumbent: Evaluation) -> str:
    return (
        f"incumbent: expected measured on the same {candidate.pictures} pictures "
        f"({candidate.positives} positive), found {incumbent.pictures} ({incumbent.positives})"
    )
