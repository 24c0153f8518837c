"""Measures as a page shows them: a value with its interval, in words, beside the incumbent's, and on a strip."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pages.html import percent, signed

Measured = float | Sequence[float] | None
"""A value, or a value with the low and the high end of its 95% interval; None is not measured."""

SMALLEST_CHANGE = 0.0005  # what rounds to 0.000 is no change


@dataclass(frozen=True)
class _Known:
    name: str
    says: str
    higher_is_better: bool | None  # None: neither


_KNOWN = {
    "pictures": _Known("Held-out pictures", "", None),
    "positives": _Known("Of these positive", "", None),
    "majority_share": _Known("Majority's share", "the accuracy of always giving the more frequent answer", None),
    "accuracy": _Known("Accuracy", "answers that are right", True),
    "balanced_accuracy": _Known("Balanced accuracy", "both recalls, averaged; a constant answer has 0.5", True),
    "auroc": _Known("AUROC", "the chance that a positive picture scores above a negative one", True),
    "auprc": _Known("AUPRC", "precision, averaged over recall", True),
    "brier": _Known("Brier score", "the mean squared error of P(positive)", False),
    "ece": _Known("Calibration error", "how far P(positive) is from the share that came true (ECE)", False),
    "ece_uncalibrated": _Known("Calibration error before calibration", "that of the network by itself", None),
    "log_loss": _Known("Log loss", "", False),
    "between": _Known("Between 0.05 and 0.95", "the share of pictures whose P(positive) says how strongly", None),
    "strength_overall": _Known("Strength: rank correlation", "with how positive people felt (Spearman)", True),
    "strength_negative": _Known("Strength among negatives", "the same, within that class", True),
    "strength_positive": _Known("Strength among positives", "the same, within that class", True),
}  # fmt: skip

_HEADLINES = ("accuracy", "balanced_accuracy", "auroc", "ece")


def _known(name: str) -> _Known:
    words = name.replace("_", " ").strip()
    return _KNOWN.get(name) or _Known(words[:1].upper() + words[1:], "", None)


def measures_of(evaluation: Mapping[str, Any]) -> dict[str, Measured]:
    """The numbers among an evaluation's plain fields; `x`, `x_low` and `x_high` become one with its interval."""
    numbers = {name: value for name, value in evaluation.items() if _is_measured(value)}
    ends = {name + end for name in numbers for end in ("_low", "_high")}
    measures: dict[str, Measured] = {}
    for name, value in numbers.items():
        low, high = numbers.get(f"{name}_low"), numbers.get(f"{name}_high")
        if name in ends:
            continue
        if isinstance(value, float) and low is not None and high is not None:
            measures[name] = (value, low, high)
        else:
            measures[name] = value
    return measures


def _is_measured(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) == 3 and all(_is_measured(each) and not isinstance(each, list | tuple) for each in value)
    return value is None or (isinstance(value, int | float | np.number) and not isinstance(value, bool))


@dataclass(frozen=True)
class Number:
    """A value as it is shown and as it is, and where its marks stand on a strip from 0 to 100 %."""

    text: str
    exact: str
    interval: str
    at: float | None
    low: float | None
    width: float | None

    @classmethod
    def of(cls, measured: Measured) -> Number:
        """The value in words; on the strip only where it is a share, with the interval's bar where it has one."""
        value, low, high = _parts(measured)
        interval = f"{_text(low)} to {_text(high)}" if math.isfinite(low) and math.isfinite(high) else ""
        on_strip = not isinstance(value, int) and 0 <= value <= 1
        ends = on_strip and interval != ""
        return cls(
            text=_text(value),
            exact=str(value) if math.isfinite(value) else "",
            interval=interval,
            at=percent(value) if on_strip else None,
            low=percent(low) if ends else None,
            width=round(percent(high) - percent(low), 2) if ends else None,
        )


def _parts(measured: Measured) -> tuple[float, float, float]:
    """Value, low, high; NaN for what is not there. Whole numbers stay whole."""
    if measured is None:
        return math.nan, math.nan, math.nan
    if isinstance(measured, Sequence):
        value, low, high = (math.nan if part is None else float(part) for part in measured)
        return value, low, high
    whole = isinstance(measured, int | np.integer)
    return (int(measured) if whole else float(measured)), math.nan, math.nan


def _text(value: float) -> str:
    if not math.isfinite(value):
        return "not measured" if math.isnan(value) else "infinite"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


@dataclass(frozen=True)
class MeasureRow:
    """A row of the table of measures."""

    name: str
    says: str
    direction: str
    candidate: Number
    incumbent: Number | None
    change: str
    change_kind: str


def measure_rows(candidate: Mapping[str, Measured], incumbent: Mapping[str, Measured] | None) -> list[MeasureRow]:
    """A row for each measure that either model has, in the candidate's order."""
    names = [*candidate, *(name for name in incumbent or {} if name not in candidate)]
    return [_measure_row(name, candidate.get(name), (incumbent or {}).get(name)) for name in names]


def _measure_row(name: str, candidate: Measured, incumbent: Measured) -> MeasureRow:
    known = _known(name)
    change, kind = _change(_parts(candidate)[0], _parts(incumbent)[0], known.higher_is_better)
    directions = {True: "higher is better", False: "lower is better", None: ""}
    other = None if incumbent is None else Number.of(incumbent)
    return MeasureRow(
        known.name, known.says, directions[known.higher_is_better], Number.of(candidate), other, change, kind
    )


def _change(candidate: float, incumbent: float, higher_is_better: bool | None) -> tuple[str, str]:
    change = candidate - incumbent
    if not math.isfinite(change) or higher_is_better is None:
        return "", ""
    if abs(change) < SMALLEST_CHANGE:
        return "same", ""
    return signed(change), "better" if (change > 0) == higher_is_better else "worse"


def headlines(
    candidate: Mapping[str, Measured], incumbent: Mapping[str, Measured] | None
) -> list[tuple[str, Number, Number | None]]:
    """The few measures that stand large at the top: name, the candidate's, the incumbent's."""
    others = incumbent or {}
    return [
        (_known(name).name, Number.of(candidate[name]), Number.of(others[name]) if name in others else None)
        for name in _HEADLINES
        if name in candidate
    ]
