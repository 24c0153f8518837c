"""The candidate beside answers that need no network, as rows of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model.baselines import Baseline
from pages.html import signed
from pages.measures import Measured, Number

MEASURES = {"accuracy": "accuracy", "balanced_accuracy": "balanced", "auroc": "AUROC"}


@dataclass(frozen=True)
class BaselineRow:
    """A line of the table: the candidate's own, or a baseline's with the candidate's gain over it."""

    name: str
    ours: bool
    measures: tuple[tuple[str, Number], ...]
    """What it is called on a narrow screen, and its value."""
    change: str = ""
    change_interval: str = ""
    change_kind: str = ""


def baseline_rows(candidate: Mapping[str, Measured], baselines: Sequence[Baseline]) -> list[BaselineRow]:
    """The candidate's row and one for each baseline; none where there is no baseline."""
    if not baselines:
        return []
    ours = tuple((shown, Number.of(candidate.get(name))) for name, shown in MEASURES.items())
    return [BaselineRow("This network", True, ours), *(_row(baseline) for baseline in baselines)]


def _row(baseline: Baseline) -> BaselineRow:
    measures = []
    for name, shown in MEASURES.items():
        value, low, high = (getattr(baseline.evaluation, name + end) for end in ("", "_low", "_high"))
        # A constant answer has one AUROC whatever is drawn: an interval of no width says nothing.
        sure = low is not None and high is not None and high > low
        measures.append((shown, Number.of((value, low, high) if sure else value)))
    name = baseline.name[:1].upper() + baseline.name[1:]
    if not math.isfinite(baseline.gain):
        return BaselineRow(name, False, tuple(measures))
    kind = "better" if baseline.beaten else "worse" if baseline.gain < 0 else ""
    interval = "" if baseline.gain_interval is None else " to ".join(signed(end) for end in baseline.gain_interval)
    return BaselineRow(name, False, tuple(measures), signed(baseline.gain), interval, kind)
