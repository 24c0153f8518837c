"""Names that a person chooses from, for those who must not wait for torch to be imported."""

from __future__ import annotations

from typing import Literal

Precision = Literal["auto", "float32", "bfloat16"]
ScoringPrecision = Literal["auto", "float32", "bfloat16", "float16"]

LOOK_DIMENSIONS = 512  # of a trained look's embedding; measured: docs/model.md, "The trained projection"
