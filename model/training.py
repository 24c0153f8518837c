"""Trains a polarity network on labelled pictures. Knows arrays and JPEG bytes; no storage, no labels file.

Shapes: n pictures in all, B in a batch; S the side of `Preprocessing.image_size`.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.errors import LabelsUnusable, TrainingDiverged, Undecodable
from model.images import decode
from model.losses import Losses, LossWeights, polarity_loss
from model.network import PolarityNetwork
from model.preprocessing import Preprocessing

CACHE_BYTES = 2 << 30
COLD_STEPS = 10  # how slowly the average of the weights forgets where it began


@dataclass(frozen=True)
class TrainingConfig:
    """Every choice of a training run. The defaults suit a small network from random weights."""

    epochs: int = 12
    batch_size: int = 32
    head_rate: float = 1e-3
    """Highest learning rate of the branches and the fusion."""
    backbone_rate: float = 1e-3
    """Highest learning rate of the backbone. For ImageNet weights a tenth of it, or less."""
    weight_decay: float = 0.05
    """Of matrices and filters only, not of biases and normalisation."""
    warmup_share: float = 0.1
    """Of all steps, in which the rate rises from 0; from there it falls as a cosine to 0."""
    ema_decay: float | None = None
    """Keep a running average of the weights, this slow, as the result. None: the last weights."""
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
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the network's arithmetic; the weights and the losses are float32 in either case."""
    loss: LossWeights = field(default_factory=LossWeights)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            found = f"{self.epochs} and {self.batch_size}"
            raise ValueError(f"expected at least 1 epoch and a batch_size of at least 2, found {found}")
        shares = (self.warmup_share, self.crop, self.colour_jitter, self.ema_decay or 0.0)
        if not all(0 <= share < 1 for share in shares):
            raise ValueError(f"expected warmup_share, crop, colour_jitter and ema_decay in [0, 1), found {shares}")
        if min(self.head_rate, self.backbone_rate, self.weight_decay) < 0 or self.gradient_clip <= 0:
            raise ValueError(f"expected rates of at least 0 and gradient_clip above 0, found {self}")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, for a manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingConfig":
        """The inverse of `to_dict`.

        Raises:
            TypeError: a key is unknown.
        """
        loss = {"loss": LossWeights.from_dict(values["loss"])} if "loss" in values else {}
        return cls(**{**values, **loss})


def recipe(*, pretrained: bool) -> TrainingConfig:
    """The configuration for a backbone that starts from pretrained weights, or from random ones.

    Pretrained features are moved gently, and the running statistics of their normalisation, gathered over
    many more pictures than a shop labels, are kept.
    """
    return TrainingConfig(backbone_rate=1e-4, freeze_batchnorm=True) if pretrained else TrainingConfig()


class Examples(Protocol):
    """Labelled pictures that training may ask for in any order."""

    @property
    def preprocessing(self) -> Preprocessing:
        """What made the pixels."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """n of 0 (negative) and 1 (positive)."""

    @property
    def weights(self) -> NDArray[np.float32]:
        """n, at least 0: how much each picture counts."""

    def __len__(self) -> int: ...

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """len(indices)×3×S×S, resized but not normalised."""


class JpegExamples:
    """Examples that are encoded pictures: decoded and resized in threads, each once where memory allows."""

    def __init__(
        self,
        jpegs: Sequence[bytes],
        labels: NDArray[np.int64],
        weights: NDArray[np.float32],
        preprocessing: Preprocessing,
        *,
        threads: int = 4,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if not len(jpegs) == len(labels) == len(weights):
            raise ValueError(
                f"expected a label and a weight a picture ({len(jpegs)}), found {len(labels)}, {len(weights)}"
            )
        self.jpegs, self.labels, self.weights = jpegs, labels, weights
        self.preprocessing = preprocessing
        self.threads = threads
        self._shape = (3, preprocessing.image_size, preprocessing.image_size)
        fits = len(jpegs) * math.prod(self._shape) <= cache_bytes
        self._cache = np.empty((len(jpegs) if fits else 0, *self._shape), np.uint8)
        self._cached = np.zeros(len(self._cache), bool)

    def __len__(self) -> int:
        return len(self.jpegs)

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """len(indices)×3×S×S.

        Raises:
            Undecodable: a picture cannot be decoded; the reason names its index.
        """
        if not len(self._cache):
            return self._decoded(indices)
        missing = np.unique(indices[~self._cached[indices]])
        if len(missing):
            self._cache[missing] = self._decoded(missing)
            self._cached[missing] = True
        return self._cache[indices]

    def _decoded(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        out = np.empty((len(indices), *self._shape), np.uint8)
        with ThreadPoolExecutor(self.threads) as pool:
            for row, pixels in enumerate(pool.map(self._decode_one, indices.tolist())):
                out[row] = pixels
        return out

    def _decode_one(self, index: int) -> NDArray[np.uint8]:
        try:
            picture = decode(self.jpegs[index])
        except Undecodable as error:
            raise Undecodable(f"example {index}: {error.reason}") from error
        return self.preprocessing.resize(picture.rgb)


@dataclass(frozen=True)
class Subset:
    """Some of the examples, such as one side of a split."""

    examples: Examples
    indices: NDArray[np.int64]

    @property
    def preprocessing(self) -> Preprocessing:
        """That of the whole."""
        return self.examples.preprocessing

    @property
    def labels(self) -> NDArray[np.int64]:
        """Those at `indices`."""
        return self.examples.labels[self.indices]

    @property
    def weights(self) -> NDArray[np.float32]:
        """Those at `indices`."""
        return self.examples.weights[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Indices count within the subset."""
        return self.examples.pixels(self.indices[indices])


@dataclass(frozen=True)
class EpochReport:
    """How an epoch went, on the pictures as augmented and the weights as they were then."""

    epoch: int
    """From 1."""
    epochs: int
    loss: float
    perception: float
    fusion: float
    regression: float
    accuracy: float
    """Share of the training pictures on the right side; not a measure of the model."""
    rate: float
    """The head's learning rate at the epoch's last step."""
    seconds: float
    pictures_per_second: float


def train(
    network: PolarityNetwork,
    examples: Examples,
    config: TrainingConfig,
    *,
    device: str | torch.device = "cpu",
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> None:
    """Trains the network in place and leaves it on the device in evaluation mode.

    The same network, examples and configuration give the same weights bit for bit on a CPU with the same
    number of threads; a GPU's convolutions may round differently from run to run. No global random state
    is read or written.

    Raises:
        LabelsUnusable: fewer than two pictures, a label that is neither 0 nor 1, or a bad weight.
        TrainingDiverged: the loss or the gradient left the finite numbers; the network is then useless.
    """
    _check(examples)
    _Run(network, examples, config, torch.device(device)).all_epochs(on_epoch)


class _Run:
    """The state of one call of `train`."""

    def __init__(
        self, network: PolarityNetwork, examples: Examples, config: TrainingConfig, device: torch.device
    ) -> None:
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.examples, self.config, self.device = examples, config, device
        self.optimizer = torch.optim.AdamW(parameter_groups(network, config))
        self.average = None if config.ema_decay is None else WeightAverage(network, config.ema_decay)
        # Random numbers come from the CPU, so that every device sees the same augmentations.
        self.random = torch.Generator().manual_seed(config.seed)
        self.steps_an_epoch = _steps(len(examples), config.batch_size)
        self.step = 0

    def all_epochs(self, on_epoch: Callable[[EpochReport], None] | None) -> None:
        for epoch in range(1, self.config.epochs + 1):
            started = time.perf_counter()
            sums = self.one_epoch(epoch)
            if on_epoch is not None:
                on_epoch(self.report(epoch, sums, time.perf_counter() - started))
        if self.average is not None:
            self.average.copy_to(self.network)
        self.network.eval()

    def one_epoch(self, epoch: int) -> Tensor:
        """Sums over pictures, on the device: four losses and the pictures on the right side."""
        _to_training_mode(self.network, self.config.freeze_batchnorm)
        sums = torch.zeros(5, device=self.device)
        for pixels, labels, weights in self.batches():
            sums += self.one_step(epoch, pixels, labels, weights)
        return sums

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """One epoch in a fresh order; the next batch's pictures are decoded while this one trains."""
        order = torch.randperm(len(self.examples), generator=self.random).numpy()
        parts = np.array_split(order, self.steps_an_epoch)
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self.examples.pixels, parts[0])
            for position, indices in enumerate(parts):
                pixels = coming.result()
                if position + 1 < len(parts):
                    coming = ahead.submit(self.examples.pixels, parts[position + 1])
                labels, weights = self.examples.labels[indices], self.examples.weights[indices]
                yield self.on_device(pixels), self.on_device(labels), self.on_device(weights)

    def on_device(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)

    def one_step(self, epoch: int, pixels: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """What `one_epoch` sums, for one batch."""
        self.set_rates()
        augmented = augment(pixels, self.config, self.random)
        batch = self.examples.preprocessing.normalise(augmented).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            output = self.network(batch)
        losses = polarity_loss(output, labels, self.config.loss, weights)
        self.descend(epoch, losses)
        right = (output.logits.argmax(dim=1) == labels).sum()
        return torch.cat([torch.stack(losses).detach() * len(labels), right.unsqueeze(0)])

    def set_rates(self) -> None:
        total = self.config.epochs * self.steps_an_epoch
        share = rate_share(self.step, total, self.config.warmup_share)
        for group in self.optimizer.param_groups:
            group["lr"] = group["highest_rate"] * share

    def descend(self, epoch: int, losses: Losses) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        if not bool(torch.isfinite(losses.total.detach() + norm)):
            found = f"{float(losses.total.detach())} and {float(norm)}"
            raise TrainingDiverged(
                f"expected a finite loss and gradient, found {found} at epoch {epoch}, step {self.step + 1}: "
                "a lower head_rate and backbone_rate may help"
            )
        self.optimizer.step()
        self.step += 1
        if self.average is not None:
            self.average.update(self.network, self.step)

    def report(self, epoch: int, sums: Tensor, seconds: float) -> EpochReport:
        count = len(self.examples)
        loss, perception, fusion, regression, accuracy = (sums / count).tolist()
        return EpochReport(
            epoch=epoch,
            epochs=self.config.epochs,
            loss=loss,
            perception=perception,
            fusion=fusion,
            regression=regression,
            accuracy=accuracy,
            rate=float(self.optimizer.param_groups[-1]["lr"]),
            seconds=seconds,
            pictures_per_second=count / seconds,
        )


def _check(examples: Examples) -> None:
    if len(examples) < 2:
        raise LabelsUnusable(f"expected at least 2 pictures to train on, found {len(examples)}")
    strange = sorted(set(np.unique(examples.labels).tolist()) - {0, 1})
    if strange:
        raise LabelsUnusable(f"expected labels 0 (negative) and 1 (positive), found also {strange[:3]}")
    if not (examples.weights >= 0).all() or not examples.weights.any():
        raise LabelsUnusable("expected weights of at least 0 and some above, found others")


def _steps(pictures: int, batch_size: int) -> int:
    """Steps an epoch. Batches differ by at most one picture, and none is of one: BatchNorm needs two."""
    return max(1, min(math.ceil(pictures / batch_size), pictures // 2))


def parameter_groups(network: PolarityNetwork, config: TrainingConfig) -> list[dict[str, Any]]:
    """For AdamW: backbone and head at their own rates, vectors and scalars without weight decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        key = (name.startswith("backbone."), parameter.ndim > 1)
        groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "highest_rate": config.backbone_rate if in_backbone else config.head_rate,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (in_backbone, decays), parameters in groups.items()
    ]


def rate_share(step: int, steps: int, warmup_share: float) -> float:
    """The share of its highest rate at which step 0 … steps − 1 runs: a line up, a cosine down, never 0."""
    warmup = min(round(steps * warmup_share), steps - 1)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def augment(pixels: Tensor, config: TrainingConfig, random: torch.Generator) -> Tensor:
    """B×3×S×S uint8 → the same in float, still 0 to 255, each picture changed by its own chance."""
    pictures = pixels.float()
    if config.flip or config.crop > 0:
        windows = _windows(len(pixels), config, random).to(pixels.device)
        grid = nn.functional.affine_grid(windows, list(pixels.shape), align_corners=False)
        pictures = nn.functional.grid_sample(
            pictures, grid, mode="bilinear", padding_mode="border", align_corners=False
        )
    if config.colour_jitter > 0:
        pictures = _jittered(pictures, config.colour_jitter, random)
    return pictures


def _windows(count: int, config: TrainingConfig, random: torch.Generator) -> Tensor:
    """B×2×3 affine maps from the output to a window inside the picture, mirrored or not."""
    uniform = torch.rand(count, 4, generator=random)
    side = 1 - config.crop * uniform[:, 0]
    centre = (2 * uniform[:, 1:3] - 1) * (1 - side).unsqueeze(1)  # in [−1, 1], so that no window leaves it
    mirror = torch.where(uniform[:, 3] < 0.5, -1.0, 1.0) if config.flip else torch.ones(count)
    maps = torch.zeros(count, 2, 3)
    maps[:, 0, 0], maps[:, 1, 1] = side * mirror, side
    maps[:, :, 2] = centre
    return maps


def _jittered(pictures: Tensor, share: float, random: torch.Generator) -> Tensor:
    uniform = 2 * torch.rand(2, len(pictures), 1, 1, 1, generator=random) - 1
    brightness, contrast = (1 + share * uniform).to(pictures.device)
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    jittered: Tensor = ((pictures - mean) * contrast + mean) * brightness
    return jittered.clamp(0, 255)


def _to_training_mode(network: PolarityNetwork, freeze_batchnorm: bool) -> None:
    network.train()
    if freeze_batchnorm:
        for module in network.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


class WeightAverage:
    """A running average of parameters and statistics that follows fast at first, slower later.

    With a constant decay of 0.99 a run of 100 steps would keep a third of its random beginning.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """After step 1, 2, …."""
        keep = min(self.decay, step / (step + COLD_STEPS))
        for name, tensor in network.state_dict().items():
            kept = self.state[name]
            if tensor.is_floating_point():
                kept.lerp_(tensor, 1 - keep)
            else:
                kept.copy_(tensor)

    def copy_to(self, network: nn.Module) -> None:
        """Makes the average the network's weights."""
        network.load_state_dict(self.state)
