"""Trains a polarity network on labelled pictures. Knows arrays; no storage, no environment.

Shapes: n pictures in all, B in a process's part of a batch; S the side of `Preprocessing.image_size`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.augmentation import augment
from model.averaging import WeightAverage
from model.checkpoints import (
    Checkpoint,
    CheckpointStore,
    Clock,
    RunIdentity,
    optimizer_tensors,
    restore_optimizer,
    usable,
    weights_fingerprint,
)
from model.distributed import ALONE, Distributed
from model.errors import TrainingDiverged
from model.evaluation import POSITIVE_FROM
from model.examples import Examples, check_examples, fingerprint
from model.frozen import FrozenMaps, HeadOnMaps, mirrored
from model.losses import Losses, polarity_loss
from model.network import PolarityNetwork
from model.precision import autocast
from model.recipe import TrainingConfig, parameter_groups, rate_share, steps_an_epoch

logger = logging.getLogger(__name__)

CHECKPOINT_EVERY = timedelta(minutes=5)
CHECKED_TOGETHER = 16  # steps whose losses an accelerator keeps before they are looked at: looking makes it wait
ORDER, AUGMENTATION = range(2)  # streams of random numbers


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
    """Since the epoch began, or was resumed."""
    pictures_per_second: float


def train(
    network: PolarityNetwork,
    examples: Examples,
    config: TrainingConfig,
    *,
    device: str | torch.device = "cpu",
    on_epoch: Callable[[EpochReport], None] | None = None,
    checkpoint: CheckpointStore | None = None,
    checkpoint_every: int | timedelta = CHECKPOINT_EVERY,
    distributed: Distributed = ALONE,
) -> None:
    """Trains the network in place and leaves it on the device in evaluation mode.

    The same network, examples and configuration give the same weights bit for bit on the same CPU with the
    same number of threads, interrupted or not; a GPU's convolutions may round differently from run to run. No
    global random state is read or written.

    Args:
        network: in every process the same architecture; the weights of rank 0 count.
        examples: in every process the same; each decodes its part only.
        config: `batch_size` is that of one process.
        device: where the network goes.
        on_epoch: called on rank 0.
        checkpoint: where rank 0 keeps its progress. A checkpoint of this run is taken up at its step; one of
            another configuration, other pictures or other first weights, or a damaged one, is ignored with a
            warning. It stays there when the run is done.
        checkpoint_every: steps or time between two saves. It changes nothing in the result.
        distributed: this process among several that train together; the caller has opened their process group.

    Raises:
        LabelsUnusable: fewer than two pictures a process, a label outside [0, 1], or a bad weight.
        TrainingDiverged: the loss or the gradient left the finite numbers; the network is then useless, and
            no checkpoint holds what came of that step.
    """
    check_examples(examples, at_least=2 * distributed.world_size)
    run = _Run(network, examples, config, torch.device(device), distributed)
    if checkpoint is not None or distributed.world_size > 1:
        run.take_up(checkpoint if distributed.leads else None, checkpoint_every)
    run.all_epochs(on_epoch if distributed.leads else None)


class _Run:
    """The state of one call of `train`."""

    def __init__(
        self,
        network: PolarityNetwork,
        examples: Examples,
        config: TrainingConfig,
        device: torch.device,
        distributed: Distributed,
    ) -> None:
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.examples, self.config, self.device, self.distributed = examples, config, device, distributed
        # Both wrappers add a prefix to the names of weights: what is saved comes from `network`.
        wrapped = distributed.wrap(self.trained(), device)
        self.forward: Callable[[Tensor], Any] = torch.compile(wrapped) if config.compile else wrapped
        self.optimizer = torch.optim.AdamW(parameter_groups(network, config), fused=True)
        self.average = None if config.ema_decay is None else WeightAverage(network, config.ema_decay)
        self.steps_an_epoch = steps_an_epoch(len(examples), config.batch_size, distributed.world_size)
        self.step = 0  # taken so far
        self.sums = torch.zeros(5, device=device)  # over this epoch's pictures: four losses, the right answers
        self.unchecked: list[tuple[int, Tensor]] = []
        self.maps: FrozenMaps | None = None  # of a frozen backbone, once they are asked for
        self.store: CheckpointStore | None = None

    def trained(self) -> nn.Module:
        """What is trained: the network, or on a frozen backbone the rest of it."""
        self.network.backbone.requires_grad_(not self.config.freeze_backbone)
        return HeadOnMaps(self.network) if self.config.freeze_backbone else self.network

    # Epochs and steps

    def all_epochs(self, on_epoch: Callable[[EpochReport], None] | None) -> None:
        for epoch in range(1 + self.step // self.steps_an_epoch, self.config.epochs + 1):
            started, first_step = time.perf_counter(), self.step
            self.one_epoch(epoch)
            if on_epoch is not None:
                share = (self.step - first_step) / self.steps_an_epoch
                on_epoch(self.report(epoch, share * len(self.examples), time.perf_counter() - started))
        if self.average is not None:
            self.average.copy_to(self.network)
        self.distributed.agree_on_weights(self.network)
        self.network.eval()

    def one_epoch(self, epoch: int) -> None:
        _to_training_mode(self.network, self.config)
        if self.config.freeze_backbone and self.maps is None:
            self.maps = FrozenMaps(self.network.backbone, self.examples, self.device)
        position = self.step % self.steps_an_epoch
        if position == 0:
            self.sums.zero_()
        for inputs, labels, weights in self.batches(epoch, position):
            self.one_step(inputs, labels, weights)
            self.save_if_due()
        self.check_finite()

    def batches(self, epoch: int, position: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The epoch's batches from this one on; the next one's pictures are decoded while this one trains."""
        order = torch.randperm(len(self.examples), generator=self.random(ORDER, epoch)).numpy()
        batches = np.array_split(order, self.steps_an_epoch)[position:]
        parts = [self.distributed.share(batch) for batch in batches]
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self.read, parts[0])
            for following in [*parts[1:], None]:
                batch = coming.result()
                if following is not None:
                    coming = ahead.submit(self.read, following)
                inputs, labels, weights = (part.to(self.device, non_blocking=True) for part in batch)
                yield inputs, labels, weights

    def read(self, indices: NDArray[np.int64]) -> list[Tensor]:
        """Pixels or maps, labels and weights, in memory that a GPU can fetch from by itself."""
        inputs = self.examples.pixels(indices) if self.maps is None else self.maps[indices]
        arrays = inputs, self.examples.labels[indices], self.examples.weights[indices]
        tensors = [torch.from_numpy(array) for array in arrays]
        return [tensor.pin_memory() for tensor in tensors] if self.device.type == "cuda" else tensors

    def augmented(self, inputs: Tensor) -> Tensor:
        """What the network, or its head, is given of these pixels or maps."""
        random = self.random(AUGMENTATION, self.step, self.distributed.rank)
        if self.maps is not None:
            return mirrored(inputs.float(), random) if self.config.flip else inputs.float()
        pictures = augment(inputs, self.config, random)
        return self.examples.preprocessing.normalise(pictures).contiguous(memory_format=torch.channels_last)

    def one_step(self, inputs: Tensor, labels: Tensor, weights: Tensor) -> None:
        self.set_rates()
        batch = self.augmented(inputs)
        with autocast(self.device, self.config.precision):
            output = self.forward(batch)
        losses = polarity_loss(output, labels, self.config.loss, weights)
        right = (output.logits.argmax(dim=1) == (labels >= POSITIVE_FROM)).sum()
        sums = torch.cat([torch.stack(losses).detach() * len(labels), right.unsqueeze(0)])
        sums = self.distributed.total(sums)
        self.sums += sums
        self.descend(losses, sums[0] / (len(labels) * self.distributed.world_size), weights)

    def descend(self, losses: Losses, everyones_loss: Tensor, weights: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        (losses.total * self.share_of_weight(weights)).backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        self.unchecked.append((self.step + 1, torch.stack([everyones_loss, norm])))
        if self.device.type == "cpu" or len(self.unchecked) == CHECKED_TOGETHER:
            self.check_finite()
        self.optimizer.step()
        self.step += 1
        if self.average is not None:
            self.average.update(self.network, self.step)

    def share_of_weight(self, weights: Tensor) -> Tensor | float:
        """What makes the mean of all processes' gradients that of the whole batch's weighted loss."""
        if self.distributed.world_size == 1:
            return 1.0
        mine = weights.sum()
        everyones = self.distributed.total(mine.clone())
        return self.distributed.world_size * mine / everyones.clamp_min(torch.finfo(mine.dtype).tiny)

    def check_finite(self) -> None:
        """Raises TrainingDiverged for the first step, of those not yet looked at, that left the finite numbers."""
        looked_at, self.unchecked = self.unchecked, []
        if not looked_at:
            return
        values = torch.stack([pair for _, pair in looked_at]).tolist()
        for (step, _), (loss, norm) in zip(looked_at, values, strict=True):
            if not np.isfinite([loss, norm]).all():
                raise TrainingDiverged(
                    f"expected a finite loss and gradient, found {loss} and {norm} at epoch "
                    f"{1 + (step - 1) // self.steps_an_epoch}, step {step}: "
                    "a lower head_rate and backbone_rate may help"
                )

    def set_rates(self) -> None:
        total = self.config.epochs * self.steps_an_epoch
        share = rate_share(self.step, total, self.config.warmup_share)
        for group in self.optimizer.param_groups:
            group["lr"] = group["highest_rate"] * share

    def random(self, *stream: int) -> torch.Generator:
        """Random numbers for one purpose at one time, drawn on the CPU, so that every device sees the same.

        A generator that lived as long as the run would have to be kept in checkpoints.
        """
        (seed,) = np.random.SeedSequence([self.config.seed, *stream]).generate_state(1)
        return torch.Generator().manual_seed(int(seed))

    def report(self, epoch: int, pictures: float, seconds: float) -> EpochReport:
        """`pictures` passed in `seconds`."""
        loss, perception, fusion, regression, accuracy = (self.sums / len(self.examples)).tolist()
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
            pictures_per_second=pictures / seconds,
        )

    # Checkpoints

    def take_up(self, store: CheckpointStore | None, every: int | timedelta) -> None:
        """Goes on where the store's checkpoint of this run left off, and keeps further ones there."""
        data = None
        if store is not None:
            self.store, self.clock, self.identity = store, Clock(every), self.identify()
            data = usable(store.load(), self.identity)
        data = self.distributed.agree(data, self.device)
        if data is not None:
            self.restore(Checkpoint.from_bytes(data))

    def identify(self) -> RunIdentity:
        """To be called before the first step."""
        return RunIdentity(
            configuration=fingerprint(json.dumps(self.config.to_dict(), sort_keys=True)),
            pictures=self.examples.fingerprint(),
            network=weights_fingerprint(self.network),
            processes=self.distributed.world_size,
        )

    def save_if_due(self) -> None:
        if self.store is not None and self.clock.due(self.step):
            self.check_finite()
            self.store.save(Checkpoint(self.identity, self.step, self.tensors()).to_bytes())
            self.clock.saved()

    def tensors(self) -> dict[str, Tensor]:
        parts: dict[str, Mapping[str, Tensor]] = {
            "network": self.network.state_dict(),
            "optimizer": optimizer_tensors(self.network, self.optimizer),
            "average": {} if self.average is None else self.average.state,
            "epoch": {"sums": self.sums},
        }
        return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def restore(self, saved: Checkpoint) -> None:
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "optimizer": {}, "average": {}, "epoch": {}}
        for whole_name, tensor in saved.tensors.items():
            part, _, name = whole_name.partition("/")
            parts[part][name] = tensor
        self.network.load_state_dict(parts["network"])
        restore_optimizer(self.network, self.optimizer, parts["optimizer"])
        if self.average is not None:
            self.average.restore(parts["average"])
        self.sums.copy_(parts["epoch"]["sums"])
        self.step = saved.step
        logger.info("training resumed after step %d of %d", saved.step, self.config.epochs * self.steps_an_epoch)


def _to_training_mode(network: PolarityNetwork, config: TrainingConfig) -> None:
    network.train()
    if config.freeze_backbone:
        network.backbone.eval()
    elif config.freeze_batchnorm:
        for module in network.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # its kind that spans processes, too
                module.eval()
