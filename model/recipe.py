"""Every choice of a training run, and what follows from it: which weights learn how fast, and when."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from torch import nn

from model.backbones.spec import BackboneSpec
from model.choices import Precision
from model.losses import LossWeights
from model.network import PolarityNetwork


@dataclass(frozen=True)
class TrainingConfig:
    """Every choice of a training run. The defaults suit a small network from random weights."""

    epochs: int = 12
    batch_size: int = 32
    head_rate: float = 1e-3
    """Highest learning rate of the branches and the fusion."""
    backbone_rate: float = 1e-3
    """Highest learning rate of the backbone's last stage. For ImageNet weights a tenth of it, or less."""
    layer_decay: float = 1.0
    """Each stage of the backbone learns at this share of the rate of the stage above it; the first layers
    of a pretrained one see edges and colours, which need little change."""
    weight_decay: float = 0.05
    """Pulls matrices and filters towards 0, not biases and normalisation."""
    warmup_share: float = 0.1
    """The share of all steps in which the rate rises from 0; from there it falls as a cosine to 0."""
    ema_decay: float | None = None
    """Keep a running average of the weights, this slow, as the result. None: the last weights."""
    freeze_backbone: bool = False
    """Leave the backbone as it is and train what stands on it, from maps that are computed once."""
    freeze_batchnorm: bool = False
    """Keep the backbone's running statistics: right for pretrained weights, ruinous for random ones."""
    gradient_clip: float = 1.0
    """Largest norm of the whole gradient."""
    flip: bool = True
    """Mirror half of the pictures left to right."""
    crop: float = 0.1
    """Zoom into a window whose sides are at least 1 − crop of the picture's, anywhere in it."""
    colour_jitter: float = 0.03
    """Brightness and contrast by at most this share; never the hue, for colour carries the emotion."""
    precision: Precision = "auto"
    """In which numbers the network computes; the weights and the losses are float32 in any case. `auto` is bfloat16
    where the device computes in it natively, else float32."""
    compile: bool = False
    """Let torch.compile fuse the network: minutes at the start, for long runs on a GPU."""
    loss: LossWeights = field(default_factory=LossWeights)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            found = f"{self.epochs} and {self.batch_size}"
            raise ValueError(f"expected at least 1 epoch and a batch_size of at least 2, found {found}")
        shares = (self.warmup_share, self.crop, self.colour_jitter, self.ema_decay or 0.0)
        if not all(0 <= share < 1 for share in shares):
            raise ValueError(f"expected warmup_share, crop, colour_jitter and ema_decay in [0, 1), found {shares}")
        if min(self.head_rate, self.backbone_rate, self.weight_decay, self.seed) < 0 or self.gradient_clip <= 0:
            raise ValueError(f"expected rates and seed of at least 0 and gradient_clip above 0, found {self}")
        if not 0 < self.layer_decay <= 1 or self.precision not in get_args(Precision):
            found = f"{self.layer_decay} and {self.precision!r}"
            raise ValueError(f"expected layer_decay in (0, 1] and precision in {get_args(Precision)}, found {found}")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, for a manifest."""
        return asdict(self)


def recipe(*, pretrained: bool, frozen: bool = False) -> TrainingConfig:
    """The configuration for a backbone that stays frozen, that starts from pretrained weights, or from random ones.

    Pretrained features are moved gently, the first ones least, and the running statistics of their
    normalisation, gathered over many more pictures than a shop labels, are kept.
    """
    if frozen:
        return TrainingConfig(freeze_backbone=True)
    if pretrained:
        return TrainingConfig(backbone_rate=1e-4, layer_decay=0.7, freeze_batchnorm=True)
    return TrainingConfig()


def parameter_groups(network: PolarityNetwork, config: TrainingConfig) -> list[dict[str, Any]]:
    """For AdamW: each stage that is not frozen and the head, which comes last, at its rate; vectors without decay.

    Raises:
        ValueError: the backbone has a parameter that none of its stages names.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = highest_rate(name, network.backbone_spec, config)
        groups.setdefault((rate, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "highest_rate": rate, "weight_decay": config.weight_decay if decays else 0.0}
        for (rate, decays), parameters in groups.items()
    ]


def highest_rate(name: str, spec: BackboneSpec, config: TrainingConfig) -> float:
    """The highest rate of the parameter with this name; the backbone's rates fall by `layer_decay` a stage down."""
    if not name.startswith("backbone."):
        return config.head_rate
    below = len(spec.stages) - 1 - spec.stage_of(name.removeprefix("backbone."))
    return config.backbone_rate * float(config.layer_decay**below)


def rate_share(step: int, steps: int, warmup_share: float) -> float:
    """The share of its highest rate at which step 0 … steps − 1 runs: a line up, a cosine down, never 0."""
    warmup = min(round(steps * warmup_share), steps - 1)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def steps_an_epoch(pictures: int, batch_size: int, processes: int = 1) -> int:
    """Batches and parts of batches differ by at most one picture, and none is of one: BatchNorm needs two."""
    return max(1, min(math.ceil(pictures / (batch_size * processes)), pictures // (2 * processes)))
