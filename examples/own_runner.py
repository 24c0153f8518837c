"""A runner of one's own: `Inline`, which prints how long each unit of work took.

    python examples/own_runner.py PICTURES LAKE

Any class with the methods of `vitrine.Runner` carries out a stage: it may send the units of `map` to other machines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

import vitrine

P = ParamSpec("P")
Result = TypeVar("Result")


class Stopwatch(vitrine.Inline):
    """Runs the units in this process and prints the seconds of each."""

    def call(self, unit: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Run one unit; `map` calls this for each of a stage's shards."""
        started = time.perf_counter()
        result = super().call(unit, *args, **kwargs)
        name = unit.func.__name__ if isinstance(unit, partial) else unit.__name__
        print(f"{time.perf_counter() - started:8.3f} s  {name}")
        return result


if __name__ == "__main__":
    pictures, uri = sys.argv[1:]
    lake = vitrine.open_lake(uri, create=True)
    print(vitrine.ingest(lake, pictures, vitrine.IngestConfig(), Stopwatch()))
