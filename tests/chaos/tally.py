"""What happened in a run of the harness, counted from its own two logs: of the runs, and of the proxy's requests."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.proxy import FAULTS


@dataclass(frozen=True)
class Tally:
    """Counts of one run of the harness."""

    nights: int
    kills: Counter[str]  # by what was done: processes that ended by SIGKILL
    faults: Counter[str]  # by kind
    events: Counter[str]  # by what was done
    requests: int
    comparisons: int
    rows: int
    hangs: int
    failed: int  # runs that should have completed
    differences: tuple[str, ...]

    @classmethod
    def read(cls, runs: Path, requests: Path | None = None) -> Tally:
        """From the logs."""
        lines, passed = list(_lines(runs)), list(_lines(requests))
        events = [line["event"] for line in lines if "event" in line]
        compared = [line for line in lines if "after" in line]
        return cls(
            nights=len(events),
            kills=Counter(event["what"] for event in events if event["outcome"] == "killed"),
            faults=Counter(line["fault"] for line in passed if line["fault"]),
            events=Counter(event["what"] for event in events),
            requests=len(passed),
            comparisons=len(compared),
            rows=sum(line["rows"] for line in compared),
            hangs=sum(event["outcome"] == "hung" for event in events),
            failed=sum(len(line["differences"]) for line in compared if not line["rows"]),
            differences=tuple(f"{line['after']}: {each}" for line in compared for each in line["differences"]),
        )

    @property
    def spoiled(self) -> int:
        """Faults but for signs of life, of which a run has many."""
        return self.faults.total() - self.faults["renewal"]

    def table(self) -> str:
        """As Markdown."""
        kills = ((f"`kill -9`, {what}", count) for what, count in sorted(self.kills.items()))
        faults = ((FAULTS[kind], self.faults[kind]) for kind in FAULTS)
        return "\n".join(["| | |", "|---|---:|", *_rows(self._heads()), *_rows(kills), *_rows(faults), *self._ends()])

    def _heads(self) -> Iterator[tuple[str, int]]:
        yield "runs begun", self.nights
        yield "of these in a race", self.events["raced"]
        yield "taken over from while stopped, or without signs of life", self.events["took over"]
        yield "pictures changed while the night ran", self.events["on changing pictures"]
        yield "`kill -9`", self.kills.total()

    def _ends(self) -> Iterator[str]:
        yield from _rows(
            [
                ("faults but for signs of life", self.spoiled),
                ("requests that passed the proxy", self.requests),
                ("comparisons with the dictionary", self.comparisons),
                ("rows compared", self.rows),
                ("rows lost, doubled or wrong, or else not as they should be", len(self.differences) - self.failed),
                ("runs that failed and should not", self.failed),
                ("hangs", self.hangs),
            ]
        )


def _rows(counted: Iterable[tuple[str, int]]) -> Iterator[str]:
    return (f"| {what} | {count} |" for what, count in counted)


def _lines(path: Path | None) -> Iterator[dict[str, Any]]:
    if path is not None and path.exists():
        with path.open() as file:
            yield from map(json.loads, file)
