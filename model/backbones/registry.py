"""The backbones that a network's configuration may name. An entry that a program adds is one of them."""

from __future__ import annotations

from model.backbones.efficientnet_lite import EFFICIENTNET_LITE0
from model.backbones.resnet import RESNETS
from model.backbones.spec import BackboneSpec

BACKBONES: dict[str, BackboneSpec] = {spec.name: spec for spec in (EFFICIENTNET_LITE0, *RESNETS)}
