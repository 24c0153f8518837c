"""What does each part of the paper's network bring, on pictures whose emotion sits in one small region?

    python benchmarks/ablation.py

Draws product pictures of 128 pixels in which a box of a fifth of the side bears the whole emotion, and trains the full
network, the plain backbone and the network without single parts on them, each from several seeds. A seed deals the
products anew to training and held-out and fixes the first weights; all variants of a seed share both, so that
differences are paired. Prints the mean over seeds with its 95 % interval (Student's t).

The attention's peak is the cell where the gate of equation (8) is highest: how often does its centre lie inside the
region that bears the emotion? Chance is the mean share of cells whose centres do.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import nn
from torchvision.models.resnet import BasicBlock

from model.attention import attention_maps, peak
from model.backbones.registry import BACKBONES
from model.backbones.spec import BackboneSpec
from model.examples import JpegExamples, Subset
from model.losses import LossWeights
from model.network import NetworkConfig, PolarityNetwork, start_attention
from model.predict import Predictor
from model.preprocessing import Preprocessing
from model.recipe import TrainingConfig
from model.training import train
from vitrine.demo.draw_catalogue import DrawnPicture, draw_catalogue

SIDE = 128  # pixels
VIEWS = 2
BATCH = 50
WIDTH = 24  # channels of the first block


@dataclass(frozen=True)
class Variant:
    """A network and a loss, by what they differ in from the paper's."""

    name: str
    network: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    attention_scale: float = 1.0  # of ρ, equation (4), at the start


PAPER_LOSS = {"regression_tolerance": 0.0}
PLAIN_NETWORK = {"spatial_attention": False, "intensities_in_logits": False}
PLAIN_LOSS = {"perception": 0.0, "regression": 0.0, "smoothing": 0.0}
VARIANTS = [
    Variant("full network"),
    Variant("plain backbone", PLAIN_NETWORK, PLAIN_LOSS),
    Variant("without attention in (8)", {"spatial_attention": False}),
    Variant("without channel attention (3)", {"channel_attention": False}),
    Variant("without + y in (9)", {"intensities_in_logits": False}),
    Variant("without K_PM", loss={"perception": 0.0}),
    Variant("without K_RE", loss={"regression": 0.0}),
    Variant("K_RE tolerates 0.4", loss={"regression_tolerance": 0.4}),
    Variant("K_RE scaled by 2, weight 3", loss={"regression_scale": 2.0, "regression": 3.0}),
    Variant("without smoothing, ε = 0", loss={"smoothing": 0.0}),
    Variant("uniform smoothing", loss={"uniform": True}),
    Variant("ρ's scale from 0", attention_scale=0.0),
]


@dataclass(frozen=True)
class Shop:
    """Drawn pictures, decoded once."""

    examples: JpegExamples
    products: NDArray[np.int64]
    regions: NDArray[np.float64]  # n×4: left, top, right, bottom as shares of the side

    def sides(self, seed: int, training_pictures: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices to train on and to hold out; whole products, in pairs of one kind and both labels."""
        pairs = np.random.default_rng(seed).permutation(self.products.max() // 2 + 1)
        trained = np.isin(self.products // 2, pairs[: training_pictures // (2 * VIEWS)])
        return np.flatnonzero(trained), np.flatnonzero(~trained)


@dataclass(frozen=True)
class Found:
    """One variant from one seed, on held-out pictures."""

    accuracy: float
    auroc: float
    peak_inside: float
    """Share of pictures; NaN where the gate is constant."""
    correlation: float
    """Of positive and negative intensity, the paper's Figure 6."""


def draw(folder: Path, products: int) -> Shop:
    """Balanced in kinds and labels."""
    drawn = draw_catalogue(
        folder, products=products, views=VIEWS, size=SIDE, emotion_placement="region", broken=0, seed=1
    )
    numbers = {product: number for number, product in enumerate(dict.fromkeys(p.product_id for p in drawn))}
    jpegs = [Path(folder, picture.image_key).read_bytes() for picture in drawn]
    labels, weights = np.array([picture.label for picture in drawn]), np.ones(len(drawn), np.float32)
    return Shop(
        JpegExamples(jpegs, labels, weights, Preprocessing(image_size=SIDE)),
        np.array([numbers[picture.product_id] for picture in drawn]),
        np.array([_region(picture) for picture in drawn]) / SIDE,
    )


def _region(picture: DrawnPicture) -> tuple[int, int, int, int]:
    if picture.region is None:
        raise AssertionError(f"{picture.image_key} was drawn without a region")
    return picture.region


def small_resnet() -> nn.Sequential:
    """Four residual blocks; a cell of its maps covers 16 pixels, so that a region is larger than a cell."""

    def block(channels: int, out: int, stride: int) -> BasicBlock:
        shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        return BasicBlock(channels, out, stride, None if channels == out else shortcut)

    stem = nn.Conv2d(3, WIDTH, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()
    blocks = block(WIDTH, WIDTH, 1), block(WIDTH, 2 * WIDTH, 2), block(2 * WIDTH, 4 * WIDTH, 2)
    return nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1), *blocks, block(4 * WIDTH, 8 * WIDTH, 1))


SMALL = BackboneSpec("four-blocks", small_resnet, 8 * WIDTH, stages=(("",),))
BACKBONES[SMALL.name] = SMALL


def run(variant: Variant, shop: Shop, seed: int, training_pictures: int, epochs: int) -> Found:
    """Train and measure one."""
    trained_on, held_out = shop.sides(seed, training_pictures)
    torch.manual_seed(seed)
    network = PolarityNetwork(NetworkConfig(SMALL.name, channels=128, reduction=8, **variant.network))
    start_attention(network, variant.attention_scale)
    config = TrainingConfig(
        epochs=epochs, head_rate=2e-3, backbone_rate=2e-3, loss=LossWeights(**(PAPER_LOSS | variant.loss)), seed=seed
    )
    train(network, Subset(shop.examples, trained_on), config)
    model = Predictor(network, shop.examples.preprocessing, torch.device("cpu"))
    return measure(model, shop, held_out)


def measure(model: Predictor, shop: Shop, held_out: NDArray[np.int64]) -> Found:
    """On held-out pictures."""
    predictions = [model.predict(shop.examples.pixels(part)) for part in _batches(held_out)]
    polarity = np.concatenate([p.polarity for p in predictions])
    positive = np.concatenate([p.positive_intensity for p in predictions])
    negative = np.concatenate([p.negative_intensity for p in predictions])
    labels = shop.examples.labels[held_out]
    return Found(
        accuracy=float(np.mean((polarity >= 0.5) == labels)),
        auroc=float(roc_auc_score(labels, polarity)),
        peak_inside=peak_inside(model, shop, held_out),
        correlation=float(np.corrcoef(positive, negative)[0, 1]),
    )


def _batches(indices: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    return (indices[start : start + BATCH] for start in range(0, len(indices), BATCH))


def peak_inside(model: Predictor, shop: Shop, held_out: NDArray[np.int64]) -> float:
    """How often the gate of equation (8) is highest inside the region that bears the emotion."""
    if model.network is None or not model.network.config.spatial_attention:
        return float("nan")
    gates = np.concatenate([attention_maps(model, shop.examples.pixels(part)).sum(1) for part in _batches(held_out)])
    row, column = np.array([peak(gate) for gate in gates]).T
    left, top, right, bottom = shop.regions[held_out].T
    return float(np.mean((left <= column) & (column < right) & (top <= row) & (row < bottom)))


def chance(shop: Shop, cells: int) -> float:
    """The mean share of cells whose centres lie inside the region."""
    centres = (np.arange(cells) + 0.5) / cells
    left, top, right, bottom = shop.regions.T[:, :, None]
    across = ((left <= centres) & (centres < right)).mean(axis=1)
    down = ((top <= centres) & (centres < bottom)).mean(axis=1)
    return float((across * down).mean())


def with_interval(values: Sequence[float], decimals: int = 3, sign: str = "") -> str:
    """The mean and its 95 % interval over seeds."""
    found = np.asarray(values)
    if np.isnan(found).any():
        return "–"
    if len(found) < 2:
        return f"{found.mean():{sign}.{decimals}f}"
    half = stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    return f"{found.mean():{sign}.{decimals}f} ± {half:.{decimals}f}"


def row(name: str, found: Sequence[Found], full: Sequence[Found]) -> str:
    """A line of the table."""
    differences = [one.accuracy - other.accuracy for one, other in zip(found, full, strict=True)]
    cells = [
        name,
        with_interval([one.accuracy for one in found]),
        "" if found is full else with_interval(differences, sign="+"),
        with_interval([one.auroc for one in found]),
        with_interval([one.peak_inside for one in found]),
        with_interval([one.correlation for one in found], decimals=2),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Draw, train and print a table in Markdown, a line as soon as it is known."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--products", type=int, default=600, help="in all, of two pictures each")
    parser.add_argument("--training-pictures", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--verbose", action="store_true", help="print each seed's figures too")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
        shop = draw(Path(folder), asked.products)
    held_out = len(shop.products) - asked.training_pictures
    print(f"{asked.seeds} seeds, {asked.training_pictures} training and {held_out} held-out pictures; ", end="")
    print(f"the peak lies inside by chance in {chance(shop, SIDE // 16):.3f} of them\n")
    print("| Variant | Accuracy | Against full | AUROC | Peak inside | Intensities' correlation |")
    print("|---|---|---|---|---|---|", flush=True)
    full: list[Found] = []
    for variant in VARIANTS:
        found = []
        for seed in range(asked.seeds):
            found.append(run(variant, shop, seed, asked.training_pictures, asked.epochs))
            if asked.verbose:
                print(variant.name, seed, found[-1], file=sys.stderr, flush=True)
        full = full or found
        print(row(variant.name, found, full), flush=True)


if __name__ == "__main__":
    main()
