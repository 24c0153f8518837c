"""What a candidate must reach to be promoted. Imports nothing heavy, so that the command line's help can show it."""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GatePolicy:
    """The floors, and how much worse than the incumbent is still good enough."""

    minimum_accuracy_above_majority: float = Field(
        default=0.0, ge=0, le=1, description="Least accuracy beyond that of always answering the more frequent class."
    )
    minimum_balanced_accuracy: float = Field(
        default=0.6, ge=0, le=1, description="Least balanced accuracy of a candidate."
    )
    # The balanced accuracy must not be below the incumbent's at all, or weekly losses would add up; and its bound may
    # be below by this. Not by 0.01: two equally good networks that differ on one picture in twenty have a bound of
    # −0.03 on 200 pictures, and none would ever be promoted.
    credible_loss: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Loss of balanced accuracy, its 95 % bound, against the incumbent picture by picture.",
    )
    # Chance gives a perfectly calibrated model an error of 0.1 and more on a hundred pictures.
    largest_ece: float = Field(
        default=0.1, ge=0, le=1, description="Largest calibration error of P(positive), beyond what chance gives."
    )
    # One picture fewer, and a category's accuracy moves by more than 3 points.
    slice_pictures: int = Field(
        default=30, ge=1, description="Held-out pictures of the smallest category that is compared."
    )
    slice_loss: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Loss of a category's accuracy, with 95 % confidence, that refuses a candidate.",
    )
    # Similarity search is a use of its own, which polarity's measures do not see.
    recall_loss: float = Field(
        default=0.05, ge=0, le=1, description="Loss of retrieval recall against the incumbent, by point estimate."
    )
    bootstrap_samples: int = Field(
        default=2000, ge=1, description="Samples that the gate's confidence bounds are made from."
    )
    bootstrap_seed: int = Field(default=0, ge=0, description="Of those samples.")
