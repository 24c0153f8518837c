"""The backbones that a network's configuration may name. An entry that a program adds is one of them."""

from __future__ import annotations

from model.backbones.efficientnet_lite import EFFICIENTNET_LITE0
from model.backbones.names import TIMM, TORCHVISION, check_backbone, unknown_backbone
from model.backbones.resnet import RESNETS
from model.backbones.spec import BackboneSpec
from model.errors import ModelError

BACKBONES: dict[str, BackboneSpec] = {spec.name: spec for spec in (EFFICIENTNET_LITE0, *RESNETS)}


def find_backbone(name: str) -> BackboneSpec:
    """The entry of this name, or torchvision's or timm's model; neither package is imported for another's sake.

    Raises:
        ModelError: there is none (near names are in the message), timm is not installed, or its model gives no maps.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    try:
        if name.startswith(TORCHVISION):
            check_backbone(name)
            from model.backbones.from_torchvision import torchvision_backbone

            return torchvision_backbone(name)
        if name.startswith(TIMM):
            from model.backbones.from_timm import timm_backbone

            return timm_backbone(name)
    except ValueError as error:
        raise ModelError(str(error)) from error
    raise ModelError(unknown_backbone(name, BACKBONES))
