"""A training run in a process of its own, which tests may kill or start several of.

python tests/training_run.py OUTPUT --pictures 400 --checkpoint FILE --world-size 2
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import sys
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision.models import resnet

from model.backbones.registry import BACKBONES
from model.backbones.spec import BackboneSpec
from model.distributed import Distributed
from model.examples import fingerprint
from model.network import NetworkConfig, PolarityNetwork
from model.preprocessing import Preprocessing
from model.recipe import TrainingConfig
from model.training import EpochReport, train
from model.weights import dump_weights

PREPROCESSING = Preprocessing(image_size=32)
CONFIG = TrainingConfig(epochs=4, batch_size=8, ema_decay=0.99, precision="float32")


@dataclass(frozen=True)
class Arrays:
    """Examples in memory."""

    stored: NDArray[np.uint8]
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]
    preprocessing: Preprocessing = PREPROCESSING

    def __len__(self) -> int:
        return len(self.stored)

    def fingerprint(self) -> str:
        return fingerprint(self.stored, self.labels, self.weights)

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.stored[indices]


def bright_or_dark(count: int, seed: int = 0) -> Arrays:
    """Positive pictures are a little brighter."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    level = np.where(labels == 1, 150, 105)[:, None, None, None]
    pixels = np.clip(level + rng.normal(0, 30, (count, 3, 32, 32)), 0, 255).astype(np.uint8)
    return Arrays(pixels, labels, np.ones(count, np.float32))


def two_blocks() -> nn.Sequential:
    """A ResNet of two blocks, so that a step takes milliseconds."""
    narrower = nn.Sequential(nn.Conv2d(16, 32, 1, stride=2, bias=False), nn.BatchNorm2d(32))
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 16, 7, stride=4, padding=3, bias=False),
            bn1=nn.BatchNorm2d(16),
            relu=nn.ReLU(),
            layer1=resnet.BasicBlock(16, 16),
            layer4=resnet.BasicBlock(16, 32, stride=2, downsample=narrower),
        )
    )


TWO_BLOCKS = BackboneSpec("two-blocks", two_blocks, channels=32, stages=(("conv1.", "bn1.", "layer1."), ("layer4.",)))


def network(seed: int = 0) -> PolarityNetwork:
    """The polarity network over two blocks."""
    BACKBONES[TWO_BLOCKS.name] = TWO_BLOCKS
    torch.manual_seed(seed)
    return PolarityNetwork(NetworkConfig(TWO_BLOCKS.name, channels=16, reduction=4))


@dataclass(frozen=True)
class FileStore:
    """A checkpoint in a file, replaced atomically."""

    path: Path

    def load(self) -> bytes | None:
        return self.path.read_bytes() if self.path.exists() else None

    def save(self, data: bytes) -> None:
        written = self.path.with_suffix(".new")
        written.write_bytes(data)
        written.rename(self.path)


@dataclass(frozen=True)
class Run:
    """What a process is asked for."""

    output: Path
    pictures: int
    batch_size: int
    checkpoint: Path | None = None
    world_size: int = 1
    freeze_backbone: bool = False


def run_one(asked: Run, rank: int = 0) -> None:
    """One process's training; its weights and losses go beside `output`."""
    torch.set_num_threads(1)
    output = asked.output.with_name(f"{asked.output.name}{rank}")
    if asked.world_size > 1:
        meet = f"file://{asked.output.absolute()}.meet"
        torch.distributed.init_process_group("gloo", meet, rank=rank, world_size=asked.world_size)
    trained, reports = network(seed=rank), list[EpochReport]()
    train(
        trained,
        bright_or_dark(asked.pictures),
        replace(CONFIG, batch_size=asked.batch_size, freeze_backbone=asked.freeze_backbone),
        on_epoch=reports.append,
        checkpoint=None if asked.checkpoint is None else FileStore(asked.checkpoint),
        checkpoint_every=3,
        distributed=Distributed(rank, asked.world_size),
    )
    output.write_bytes(dump_weights(trained))
    output.with_suffix(".json").write_text(json.dumps([report.loss for report in reports]))
    if asked.world_size > 1:
        torch.distributed.destroy_process_group()


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    parser = argparse.ArgumentParser()
    parser.add_argument("outputs", type=Path, nargs="+", help="of one run after the other")
    parser.add_argument("--pictures", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=CONFIG.batch_size)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--world-size", type=int, default=1)
    parser.add_argument("--freeze-backbone", action="store_true")
    options = vars(parser.parse_args())
    for output in options.pop("outputs"):
        run_all(Run(output, **options))


def run_all(asked: Run) -> None:
    if asked.world_size == 1:
        run_one(asked)
        return
    # Forked before any thread starts: importing torch takes seconds, and once is enough.
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=run_one, args=(asked, rank)) for rank in range(asked.world_size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    if any(process.exitcode for process in ranks):
        sys.exit("a process failed")


if __name__ == "__main__":
    main()
