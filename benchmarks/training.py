"""How fast does `train` go from JPEGs to weights, against the same network in a bare loop over resident tensors?

    python benchmarks/training.py --backbone resnet18 --image-size 64 --batch-size 32

The bare loop has no decoding, no augmentation, no other batch than one, no checks: the network, its loss, AdamW.
`train` decodes in its first epoch and then finds the pictures in memory. Rounds take turns, so that a busy
machine is unfair to neither; the fastest of each counts.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from model.devices import choose_device
from model.examples import JpegExamples
from model.losses import LossWeights, polarity_loss
from model.network import NetworkConfig, PolarityNetwork
from model.precision import autocast, native_bfloat16
from model.preprocessing import Preprocessing
from model.recipe import TrainingConfig
from model.training import EpochReport, train
from vitrine.demo.draw_catalogue import draw_catalogue

VIEWS = 4


def bare(network: PolarityNetwork, batch: torch.Tensor, labels: torch.Tensor, steps: int) -> float:
    """Pictures a second."""
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=True)
    started = time.perf_counter()
    for _ in range(steps):
        with autocast(batch.device, "auto"):
            output = network(batch)
        polarity_loss(output, labels, LossWeights()).total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    if batch.device.type == "cuda":
        torch.cuda.synchronize()
    return steps * len(batch) / (time.perf_counter() - started)


def draw(folder: Path, pictures: int, preprocessing: Preprocessing) -> JpegExamples:
    """Freshly drawn, nothing decoded yet."""
    drawn = draw_catalogue(folder, products=pictures // VIEWS, views=VIEWS, size=128, broken=0)
    jpegs = [Path(folder, picture.image_key).read_bytes() for picture in drawn]
    labels = np.array([picture.label for picture in drawn])
    weights = np.ones(len(drawn), np.float32)
    return JpegExamples(jpegs, labels, weights, preprocessing, threads=os.cpu_count() or 1)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=320)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    device = choose_device(asked.device)
    torch.manual_seed(0)
    preprocessing = Preprocessing(image_size=asked.image_size)
    network = PolarityNetwork(NetworkConfig(backbone=asked.backbone))
    resident = torch.randn(asked.batch_size, 3, asked.image_size, asked.image_size, device=device)
    labels = torch.arange(asked.batch_size, device=device) % 2
    rates: dict[str, list[float]] = {"bare loop": [], "train, first epoch (decodes)": [], "train, later epochs": []}
    with tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
        examples = draw(Path(folder), asked.pictures, preprocessing)
        config = TrainingConfig(epochs=2, batch_size=asked.batch_size)
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        resident = resident.contiguous(memory_format=torch.channels_last)
        bare(network.train(), resident, labels, 2)  # warm
        for _ in range(asked.rounds):
            fresh = JpegExamples(
                examples.jpegs, examples.labels, examples.weights, preprocessing, threads=examples.threads
            )
            rates["bare loop"].append(bare(network.train(), resident, labels, len(fresh) // asked.batch_size))
            reports: list[EpochReport] = []
            train(network, fresh, config, device=device, on_epoch=reports.append)
            rates["train, first epoch (decodes)"].append(reports[0].pictures_per_second)
            rates["train, later epochs"].append(reports[1].pictures_per_second)
    precision = "bfloat16" if native_bfloat16(device) else "float32"
    print(f"{asked.backbone} at {asked.image_size}, batches of {asked.batch_size}, {precision} on {device}")
    print(f"{'':<32}{'pictures/s':>12}{'of bare':>10}")
    fastest = max(rates["bare loop"])
    for name, found in rates.items():
        print(f"{name:<32}{max(found):>12.1f}{max(found) / fastest:>10.2f}")


if __name__ == "__main__":
    main()
