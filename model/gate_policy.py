"""What a candidate must reach to be promoted. Imports nothing heavy, so that the command line's help can show it."""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BootstrapPolicy:
    """What every gate's confidence bounds are made from."""

    bootstrap_samples: int = Field(
        default=2000, ge=1, description="Samples that the gate's confidence bounds are made from."
    )
    bootstrap_seed: int = Field(default=0, ge=0, description="Of those samples.")


@dataclass(frozen=True, kw_only=True)
class GatePolicy(BootstrapPolicy):
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


@dataclass(frozen=True, kw_only=True)
class LookGatePolicy(BootstrapPolicy):
    """What a trained look model must find to be promoted. A promotion computes every embedding anew."""

    least_products: int = Field(
        default=5, ge=2, description="Held-out products with two pictures or more that the comparison needs."
    )
    least_product_gain: float = Field(
        default=0.0,
        ge=-1,
        le=1,
        description="Lower 95 % bound of the gain in finding the same product first over the current look model.",
    )
    kind_loss: float = Field(
        default=0.02, ge=0, le=1, description="Loss in finding the same kind among other products, by point estimate."
    )
