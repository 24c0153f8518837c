"""What a collection keeps. Imports nothing heavy, so that the command line's help can be drawn from it."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CollectionPolicy:
    """What is kept. A version goes when it is neither among the newest ones nor young."""

    keep_versions: int = Field(default=5, ge=1, description="Newest accepted versions of each kind to keep.")
    keep_days: float = Field(
        default=30, ge=0, le=36_500, description="Collect only versions that the log has not named for so many days."
    )
    longest_run_hours: float = Field(
        default=72,
        ge=0,
        le=876_000,
        description="What belongs to no version and is younger may be a run's at work, and is kept.",
    )

    @property
    def oldest(self) -> timedelta:
        """The age up to which a version is young."""
        return timedelta(days=self.keep_days)

    @property
    def longest_run(self) -> timedelta:
        """The age up to which what no log names may be in use."""
        return timedelta(hours=self.longest_run_hours)
