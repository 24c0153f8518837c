"""Where a network scores, in which numbers, and how much is in flight."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from model.choices import ScoringPrecision
from tasks.config import DecodingConfig, DeviceConfig, ShardConfig

Compile = Literal["auto", "always", "never"]


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(ShardConfig, DecodingConfig, DeviceConfig):
    """Where the network runs and how much is in flight. None and "auto" leave it to the device."""

    precision: ScoringPrecision = Field(
        default="auto",
        description="In which numbers the network computes; auto: the fastest that the device is made for.",
    )
    compile: Compile = Field(
        default="auto", description="Compile the network first; auto: where the run is long enough to gain by it."
    )
    batch_size: int | None = Field(
        default=None, ge=1, description="Pictures in a forward pass; by default what suits the device."
    )
    gpu_decode: bool = Field(default=False, description="Let nvJPEG decode the stored pictures on an NVIDIA device.")
