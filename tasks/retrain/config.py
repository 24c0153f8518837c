"""What is trained, on which share of the labels, and where."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, TypeAdapter, model_validator
from pydantic.dataclasses import dataclass

from tasks.config import DecodingConfig, DeviceConfig, ModelChoice

OWN_FIELDS = ("seed", "epochs")  # fields of TrainingConfig that are fields of RetrainConfig too


def _known_and_typed(recipe: dict[str, Any]) -> dict[str, Any]:
    if not recipe:
        return recipe
    from model.recipe import TrainingConfig  # it brings torch, which few who write parameters need

    choices = [field.name for field in fields(TrainingConfig) if field.name not in OWN_FIELDS]
    if unknown := sorted(set(recipe) - set(choices)):
        raise ValueError(f"expected fields among {', '.join(choices)}; found {', '.join(unknown)}")
    checked = TypeAdapter(TrainingConfig).validate_python(recipe)
    return {name: getattr(checked, name) for name in recipe}


Recipe = Annotated[dict[str, Any], AfterValidator(_known_and_typed)]


@dataclass(frozen=True, kw_only=True)
class RetrainConfig(ModelChoice, DecodingConfig, DeviceConfig):
    """What is trained, on which share of the labels, and where."""

    train_backbone: bool | None = Field(
        default=None,
        description="Train a backbone of the model's own instead of standing on the look's, frozen; by default as the "
        "current model, else where the look's weights are random, or where backbone, image_size or weights are given.",
    )
    epochs: int | None = Field(
        default=None, ge=1, description="Passes over the labelled pictures; by default as many as the recipe has."
    )
    recipe: Recipe = Field(
        default_factory=dict, description="Fields of TrainingConfig to choose, such as head_rate=0.0003."
    )
    held_out_share: float = Field(
        default=0.25, gt=0, lt=1, description="Share of the labelled pictures that judge the candidate."
    )
    validation_share: float = Field(
        default=0.1, ge=0, lt=1, description="Share of the labelled pictures that calibrate the candidate."
    )

    @model_validator(mode="after")
    def _trains_what_it_chooses(self) -> Self:
        if self.train_backbone is False and self.chooses_backbone:
            raise ValueError(
                "expected no backbone, image_size or weights without train_backbone: a frozen trunk is the look's"
            )
        return self

    @property
    def chooses_backbone(self) -> bool:
        """Whether anything is said of the backbone to train."""
        return (self.backbone, self.image_size, self.weights) != (None, None, None)

    @model_validator(mode="after")
    def _leaves_a_share_to_train_on(self) -> Self:
        if self.held_out_share + self.validation_share >= 1:
            shares = f"{self.held_out_share} and {self.validation_share}"
            raise ValueError(f"expected held_out_share and validation_share below 1 together, found {shares}")
        return self
