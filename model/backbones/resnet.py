"""A ResNet's feature maps under torchvision's names: its weights load as they are, a seed gives the same first ones.

Not torchvision's own, because importing that takes longer than importing PyTorch (it brings the compiler), and every
process that scores or trains would wait for it. tests/test_resnet.py holds both against each other, bit for bit.

Deep Residual Learning for Image Recognition, He and others, CVPR 2016; the stride is in the 3×3 convolution.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from torch import Tensor, nn

from model.backbones.spec import BackboneSpec, PublishedWeights

Depths = tuple[int, int, int, int]

WIDTHS = (64, 128, 256, 512)  # of the four stages' 3×3 convolutions
CLASSES = 1000


def _convolution(channels: int, out: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, size, stride, padding=size // 2, bias=False)


def _shortcut(channels: int, out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels == out:
        return None
    return nn.Sequential(_convolution(channels, out, 1, stride), nn.BatchNorm2d(out))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    expansion = 1  # channels that come out, for each one within

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(channels, width * self.expansion, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """B×c×h×w → B×width×h/stride×w/stride."""
        beside = maps if self.downsample is None else self.downsample(maps)
        inner = self.relu(self.bn1(self.conv1(maps)))
        inner = self.bn2(self.conv2(inner))
        inner += beside
        out: Tensor = self.relu(inner)
        return out


class Bottleneck(nn.Module):
    """A 3×3 convolution between two of 1×1, beside a shortcut."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _convolution(width, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, width * self.expansion, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """B×c×h×w → B×4·width×h/stride×w/stride."""
        beside = maps if self.downsample is None else self.downsample(maps)
        inner = self.relu(self.bn1(self.conv1(maps)))
        inner = self.relu(self.bn2(self.conv2(inner)))
        inner = self.bn3(self.conv3(inner))
        inner += beside
        out: Tensor = self.relu(inner)
        return out


def resnet(block: type[BasicBlock | Bottleneck], depths: Depths) -> nn.Sequential:
    """Four stages of so many blocks, fully convolutional: B×3×H×W → B×8·64·expansion×H/32×W/32."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, WIDTHS[0], kernel_size=7, stride=2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(WIDTHS[0]),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
    )
    channels = WIDTHS[0]
    for number, (width, depth) in enumerate(zip(WIDTHS, depths, strict=True)):
        strides = [1 if number == 0 else 2, *(1 for _ in range(depth - 1))]
        blocks = []
        for stride in strides:
            blocks.append(block(channels, width, stride))
            channels = width * block.expansion
        parts[f"layer{number + 1}"] = nn.Sequential(*blocks)
    nn.Linear(channels, CLASSES)  # drawn and dropped: torchvision draws its classifier's weights here
    features = nn.Sequential(parts)
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return features


def _imagenet(name: str) -> PublishedWeights:
    """torchvision's first set (IMAGENET1K_V1) and not the second.

    V2 was trained with label smoothing and mixed pictures, which raise ImageNet accuracy but make frozen features
    transfer less well (Kornblith and others, NeurIPS 2021), and similarity search starts from frozen features.
    """
    source = f"{name.replace('resnet', 'ResNet')}_Weights.IMAGENET1K_V1"

    def published() -> PublishedWeights:
        from model.backbones.from_torchvision import published_weights

        return published_weights(source, name)

    return PublishedWeights(source, lambda: published().fetch(), lambda: published().at_hand())


def _spec(name: str, block: type[BasicBlock | Bottleneck], depths: Depths) -> BackboneSpec:
    return BackboneSpec(
        name=name,
        build=partial(resnet, block, depths),
        channels=WIDTHS[-1] * block.expansion,
        stages=(("conv1.", "bn1."), ("layer1.",), ("layer2.",), ("layer3.",), ("layer4.",)),
        imagenet=_imagenet(name),
    )


RESNETS = (
    _spec("resnet18", BasicBlock, (2, 2, 2, 2)),
    _spec("resnet50", Bottleneck, (3, 4, 6, 3)),
    _spec("resnet101", Bottleneck, (3, 4, 23, 3)),
)
