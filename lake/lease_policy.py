"""How a run takes its turn at a lake. Imports nothing heavy, so that settings and help can be drawn from it."""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass

LEASE_SECONDS = 75.0  # with the wait to make sure, a dead run holds for 105 s


@dataclass(frozen=True, kw_only=True)
class LeasePolicy:
    """How long a run waits for its turn, and when the one whose turn it is counts as dead."""

    wait_hours: float = Field(
        default=6,
        ge=0,
        le=8_760,
        description="How long a deployed run, or a trained candidate, waits for a run that is writing to the lake.",
    )
    lease_seconds: float = Field(
        default=LEASE_SECONDS,
        ge=10,
        description="Without a sign of life for so long a run counts as dead, and the next takes over.",
    )
