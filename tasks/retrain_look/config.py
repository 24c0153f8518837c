"""Over which trunk a look's projection is trained, on how many pictures, and where."""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass

from model.choices import LOOK_DIMENSIONS
from tasks.config import DeviceConfig, ModelChoice


@dataclass(frozen=True, kw_only=True)
class RetrainLookConfig(ModelChoice, DeviceConfig):
    """Over which trunk a projection is trained, on how many pictures, and where."""

    dimensions: int = Field(
        default=LOOK_DIMENSIONS, ge=2, description="Numbers of an embedding, at most as many as describe a picture."
    )
    sample_pictures: int = Field(
        default=20_000, ge=20, description="Pictures to learn from and to judge by, of whole products."
    )
    held_out_products: float = Field(
        default=0.25, gt=0, lt=1, description="Share of the products that judge the candidate."
    )
