"""torchvision's classifiers as feature extractors: their own layers up to the pooling, under their own names."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache, partial
from math import isqrt
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torch.nn.functional as F
import torchvision.models as library
from torch import Tensor, nn

from model.backbones.names import TORCHVISION
from model.backbones.shapes import maps_without_memory, without_memory
from model.backbones.spec import BackboneSpec, PublishedWeights
from model.backbones.stages import stages_of
from model.preprocessing import Preprocessing

LEFT_OUT = frozenset({"avgpool", "classifier", "fc", "head", "flatten", "dropout", "aux1", "aux2", "AuxLogits"})
REMAP_INPUT = frozenset({"googlenet", "inception_v3"})  # trained with a mean and spread of one half
FLEXIBLE = ("swin",)  # their published smallest side is merely that of the training
OLD_DENSE_NAME = re.compile(r"(\.(?:norm|conv))\.([12])\.")


def names() -> list[str]:
    """Every classifier, as `torchvision/NAME`."""
    return [TORCHVISION + name for name in library.list_models(module=library)]


@cache
def torchvision_backbone(name: str) -> BackboneSpec:
    """The entry of `torchvision/NAME`, of which there is one."""
    model = name.removeprefix(TORCHVISION)
    build, published = partial(_build, model), weights_enum(model)
    preprocessing = preprocessing_of(model)
    extractor = without_memory(build)
    maps = maps_without_memory(extractor, preprocessing.image_size)
    patch = int(extractor.patch) if isinstance(extractor, TokenMaps) else 1
    smallest = patch if patch > 1 or model.startswith(FLEXIBLE) else int(published.meta["min_size"][0])
    return BackboneSpec(
        name=name,
        build=build,
        channels=maps.shape[1],
        stages=stages_of(extractor),
        preprocessing=preprocessing,
        imagenet=published_weights(str(published), model),
        smallest_side=max(32, smallest),
        largest_side=224 if model == "maxvit_t" else None,
        divisor=patch,
    )


def weights_enum(model: str) -> Any:
    """torchvision's first set of weights (mostly IMAGENET1K_V1) and not the newest.

    V2 was trained with label smoothing and mixed pictures, which raise ImageNet accuracy but make frozen features
    transfer less well (Kornblith and others, NeurIPS 2021), and similarity search starts from frozen features.
    """
    return next(iter(library.get_model_weights(model)))


def preprocessing_of(model: str) -> Preprocessing:
    """What its first weights were trained with."""
    trained = weights_enum(model).transforms()
    half = (0.5, 0.5, 0.5)
    return Preprocessing(
        image_size=int(trained.crop_size[0]),
        mean=half if model in REMAP_INPUT else tuple(trained.mean),
        std=half if model in REMAP_INPUT else tuple(trained.std),
        interpolation=trained.interpolation.value,
    )


def published_weights(source: str, model: str) -> PublishedWeights:
    """The set of this name, such as ResNet18_Weights.IMAGENET1K_V1, from torch's cache or torchvision's server."""

    def fetch() -> Mapping[str, Tensor]:
        state: dict[str, Tensor] = library.get_weight(source).get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
        if not model.startswith("densenet"):
            return state
        return {OLD_DENSE_NAME.sub(r"\1\2.", name): tensor for name, tensor in state.items()}

    def at_hand() -> bool:
        file = Path(urlparse(library.get_weight(source).url).path).name
        return Path(torch.hub.get_dir(), "checkpoints", file).exists()

    return PublishedWeights(source, fetch, at_hand)


def _build(model: str) -> nn.Module:
    options: dict[str, Any] = {"aux_logits": False, "init_weights": True} if model in REMAP_INPUT else {}
    whole = library.get_model(model, weights=None, **options)
    if isinstance(whole, library.VisionTransformer):
        return TokenMaps(whole)
    parts = OrderedDict((name, child) for name, child in whole.named_children() if name not in LEFT_OUT)
    for name, child in parts.items():
        if isinstance(child, nn.ModuleList):
            parts[name] = nn.Sequential(*child)
    if isinstance(whole, library.DenseNet):
        parts["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(parts)


class TokenMaps(nn.Module):
    """A vision transformer's last tokens as maps, without the class token; for any number of patches."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.patch: int = whole.patch_size
        self.class_token, self.conv_proj, self.encoder = whole.class_token, whole.conv_proj, whole.encoder

    def forward(self, pictures: Tensor) -> Tensor:
        """B×3×H×W → B×C×H/patch×W/patch."""
        patches = self.conv_proj(pictures)
        batch, channels, height, width = patches.shape
        tokens = torch.cat([self.class_token.expand(batch, -1, -1), patches.flatten(2).mT], dim=1)
        tokens = self.encoder.dropout(tokens + self._positions(height, width))
        tokens = self.encoder.ln(self.encoder.layers(tokens))
        maps: Tensor = tokens[:, 1:].mT.reshape(batch, channels, height, width)
        return maps

    def _positions(self, height: int, width: int) -> Tensor:
        learnt: Tensor = self.encoder.pos_embedding
        side = isqrt(learnt.shape[1] - 1)
        if (height, width) == (side, side):
            return learnt
        grid = learnt[:, 1:].mT.reshape(1, -1, side, side)
        resized = F.interpolate(grid, (height, width), mode="bicubic", align_corners=False, antialias=True)
        return torch.cat([learnt[:, :1], resized.flatten(2).mT], dim=1)
