"""Does what is served say how strongly, and do both intensities say something of their own?

    python benchmarks/strength.py demo --keep FOLDER
    python benchmarks/strength.py bass ../shared/data/bass --keep FOLDER

Maps of the bundled EfficientNet-Lite0 are computed once; on them the paper's head is trained in five folds, each from
another seed, with whole groups (products; silhouettes of one word) on one side: 70 % train, 10 % calibrate, 20 % are
held out. So every picture is held out once. The demo: the 480 pictures of `vitrine demo`, each drawn with a strength in
(0, 1]; labels are 0 or 1, and training sees no strength but in the lines named "shares", where the label is
½ ± strength / 2. BASS: people's `valence_mean`; trained on the 422 pictures that lie beyond 4 and 6, held out all 583.

Prints two tables with a line for each choice in the loss: what all held-out answers say as served, and what the two
intensities say; with the middle 95 % of a bootstrap over groups. `--keep` holds maps and
answers, so that nothing is computed twice.
"""

from __future__ import annotations

import argparse
import csv
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from model.backbones.efficientnet_lite import EFFICIENTNET_LITE0
from model.backbones.registry import BACKBONES
from model.backbones.spec import BackboneSpec
from model.bootstrap import group_draws, group_means, middle
from model.calibration import calibration_error, fit_calibration, probability
from model.evaluation import correlate_intensities, evaluate
from model.folding import fold_batchnorms
from model.losses import LossWeights, polarity_loss
from model.network import NEGATIVE, POSITIVE, NetworkConfig, PolarityNetwork, start_attention
from model.pictures.decode import decode
from model.recipe import TrainingConfig, parameter_groups, rate_share, steps_an_epoch
from model.strength import RankCorrelation, measure_strength, rank_correlation
from model.weights import bundled_weights, load_backbone
from vitrine.demo.draw_catalogue import draw_catalogue

FOLDS, PARTS = 5, 10  # of ten parts a fold holds two out and calibrates on the next
BATCH = 64
SAMPLES = 1000
BACKBONES["maps"] = BackboneSpec("maps", nn.Identity, EFFICIENTNET_LITE0.channels, stages=(("",),), smallest_side=1)


@dataclass(frozen=True)
class Variant:
    """A loss and a network, by what they differ in from the paper's."""

    name: str
    loss: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    shares: bool = False
    """Trained on graded labels."""
    quiet: float = 0.0
    """What is taken from both intensities before their sigmoid at the start."""


VARIANTS = [
    Variant("the paper's"),
    Variant("without K_RE", {"regression": 0.0}),
    Variant("K_RE tolerates 0.4", {"regression_tolerance": 0.4}),
    Variant("K_RE scaled by 2, weight 3", {"regression_scale": 2.0, "regression": 3.0}),
    Variant("K_RE scaled by 3", {"regression_scale": 3.0}),
    Variant("intensities start at 0.12", quiet=2.0),
    Variant("both, tolerates 0.4", {"regression_tolerance": 0.4}, quiet=2.0),
    Variant("the same without + y in (9)", {"regression_tolerance": 0.4}, {"intensities_in_logits": False}, quiet=2.0),
    Variant("shares", shares=True),
    Variant("shares, K_RE scaled by 2", {"regression_scale": 2.0}, shares=True),
]


@dataclass(frozen=True)
class Pictures:
    """What is known of n pictures."""

    name: str
    keys: list[str]
    maps: NDArray[np.float16]  # n×1280×7×7
    labels: NDArray[np.int64]  # 0, 1, or −1 for neither
    felt: NDArray[np.float64]  # higher where more positive
    shares: NDArray[np.float64]  # the same in [0, 1]
    groups: NDArray[Any]

    @property
    def parts(self) -> NDArray[np.int64]:
        """n from 0 to 9, whole groups, each with about the same share of labels."""
        part = np.empty(len(self.labels), np.int64)
        dealt = StratifiedGroupKFold(PARTS, shuffle=True, random_state=0).split(self.labels, self.labels, self.groups)
        for number, (_, chosen) in enumerate(dealt):
            part[chosen] = number
        return part


@dataclass(frozen=True)
class Answers:
    """What five models said of the pictures that they had not seen."""

    raw: NDArray[np.float64]  # n log-odds
    served: NDArray[np.float64]  # n, calibrated
    intensities: NDArray[np.float64] | None  # n×2


def read_demo(keep: Path) -> Pictures:
    """The pictures that `vitrine demo` draws, with their strengths."""
    with tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
        drawn = draw_catalogue(Path(folder), products=120, broken=0)
        keys = [picture.image_key for picture in drawn]
        maps = maps_of([Path(folder, key) for key in keys], keep / "demo-maps.npy")
    labels, strengths = (np.array([getattr(picture, name) for picture in drawn]) for name in ("label", "strength"))
    felt = np.where(labels == 1, strengths, -strengths)
    return Pictures("demo", keys, maps, labels, felt, (1 + felt) / 2, np.array([p.product_id for p in drawn]))


def read_bass(folder: Path, keep: Path) -> Pictures:
    """Silhouettes with people's mean valence from 1 to 9; `abuse` and `abuse2` are one group."""
    rows = list(csv.DictReader((folder / "labels.csv").read_text(encoding="utf-8").splitlines()))
    keys = [row["image_key"] for row in rows]
    maps = maps_of([folder / "images" / key for key in keys], keep / "bass-maps.npy")
    labels = np.array([int(row["label"] or -1) for row in rows])
    felt = np.array([float(row["valence_mean"]) for row in rows])
    groups = np.array([re.sub(r"\d*\.png$", "", key) for key in keys])
    return Pictures("bass", keys, maps, labels, felt, (felt - 1) / 8, groups)


def maps_of(paths: list[Path], kept: Path) -> NDArray[np.float16]:
    """n×1280×7×7, computed once."""
    if kept.exists():
        return np.asarray(np.load(kept))
    backbone, preprocessing = EFFICIENTNET_LITE0.build(), EFFICIENTNET_LITE0.preprocessing
    load_backbone(backbone, bundled_weights(EFFICIENTNET_LITE0), EFFICIENTNET_LITE0)
    backbone = fold_batchnorms(backbone.eval())
    maps = []
    for start in range(0, len(paths), BATCH):
        pixels = [preprocessing.resize(decode(path.read_bytes()).rgb) for path in paths[start : start + BATCH]]
        with torch.inference_mode():
            maps.append(backbone(preprocessing.normalise(torch.from_numpy(np.stack(pixels)))).numpy())
    found = np.concatenate(maps).astype(np.float16)
    np.save(kept, found)
    return found


def fit(
    maps: NDArray[np.float16], labels: NDArray[np.floating], variant: Variant, epochs: int, seed: int
) -> PolarityNetwork:
    """The head trained on maps that stay as they are, mirrored by chance, as `model.training` trains it."""
    torch.manual_seed(seed)
    network = PolarityNetwork(NetworkConfig("maps", **variant.network))
    start_attention(network)
    for branch in (network.negative, network.positive):
        list(branch.intensity.parameters())[-1].data -= variant.quiet
    network.train()
    config, loss = TrainingConfig(epochs=epochs), LossWeights(**({"regression_tolerance": 0.0} | variant.loss))
    optimizer = torch.optim.AdamW(parameter_groups(network, config))
    order, step = np.random.default_rng(seed), 0
    batches = steps_an_epoch(len(labels), config.batch_size)
    for _ in range(epochs):
        for batch in np.array_split(order.permutation(len(labels)), batches):
            for group in optimizer.param_groups:
                group["lr"] = group["highest_rate"] * rate_share(step, epochs * batches, config.warmup_share)
            features = torch.from_numpy(maps[batch].astype(np.float32))
            features = features.flip(3) if torch.rand(()) < 0.5 else features
            with torch.autocast("cpu", torch.bfloat16):
                output = network.head(features)
            optimizer.zero_grad()
            polarity_loss(output, torch.from_numpy(labels[batch]), loss).total.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
            optimizer.step()
            step += 1
    return network.eval()


def say(network: PolarityNetwork, maps: NDArray[np.float16]) -> NDArray[np.float32]:
    """B×3: log-odds and both intensities."""
    said = []
    for start in range(0, len(maps), BATCH):
        with torch.inference_mode():
            output = network.head(torch.from_numpy(maps[start : start + BATCH].astype(np.float32)))
        logit = output.logits[:, POSITIVE] - output.logits[:, NEGATIVE]
        said.append(torch.cat([logit[:, None], output.intensities], dim=1).numpy())
    return np.concatenate(said)


Train = Callable[[NDArray[np.bool_], int], Callable[[NDArray[np.bool_]], NDArray[np.floating]]]


def cross_fit(pictures: Pictures, train: Train, columns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Held-out answers, n×columns, and the calibrated first column; `train` takes the training side and a seed."""
    parts, labelled = pictures.parts, pictures.labels >= 0
    said, served = np.empty((len(parts), columns)), np.empty(len(parts))
    for fold in range(FOLDS):
        held_out, validation = np.isin(parts, (2 * fold, 2 * fold + 1)), parts == (2 * fold + 2) % PARTS
        answer = train(~held_out & ~validation, fold)
        said[held_out], judged = answer(held_out), validation & labelled
        calibration = fit_calibration(
            answer(judged)[:, 0], pictures.labels[judged].astype(float), pictures.groups[judged], seed=0
        )
        served[held_out] = calibration.apply(said[held_out, 0])
    return said, served


def answers_of_head(pictures: Pictures, variant: Variant, epochs: int, keep: Path) -> Answers:
    """Trained here, or kept from an earlier run."""
    kept = keep / f"{pictures.name}-{epochs}-{re.sub(r'[^a-z0-9.]+', '-', variant.name.lower())}.npz"
    if not kept.exists():
        target = (pictures.shares if variant.shares else pictures.labels).astype(np.float32)

        def train(side: NDArray[np.bool_], seed: int) -> Callable[[NDArray[np.bool_]], NDArray[np.floating]]:
            chosen = side & ((pictures.labels >= 0) | variant.shares)
            network = fit(pictures.maps[chosen], target[chosen], variant, epochs, seed)
            return lambda asked: say(network, pictures.maps[asked])

        said, served = cross_fit(pictures, train, 3)
        np.savez(kept, said=said, served=served)
    found = np.load(kept)
    return Answers(found["said"][:, 0], found["served"], found["said"][:, 1:])


def answers_of_regression(pictures: Pictures, penalty: float) -> Answers:
    """Logistic regression on the pooled maps, standardised."""
    pooled = pictures.maps.astype(np.float32).mean(axis=(2, 3))

    def train(side: NDArray[np.bool_], seed: int) -> Callable[[NDArray[np.bool_]], NDArray[np.floating]]:
        chosen = side & (pictures.labels >= 0)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=3000))
        model.fit(pooled[chosen], pictures.labels[chosen])
        return lambda asked: np.asarray(model.decision_function(pooled[asked]))[:, None]

    said, served = cross_fit(pictures, train, 1)
    return Answers(said[:, 0], served, None)


STRENGTH = ("Accuracy", "AUROC", "Strength: overall", "among negatives", "among positives", "Between .05 and .95",
            "Calibration error: own → served")  # fmt: skip
INTENSITIES = ("Accuracy against the paper's", "Correlation: all", "among negatives", "among positives",
               "Own intensity ranks strength: negatives", "positives", "beyond polarity: negatives", "positives",
               "Below .02 or above .98")  # fmt: skip


def strength_row(pictures: Pictures, found: Answers) -> list[str]:
    """What is served, beside what people felt."""
    labelled = pictures.labels >= 0
    labels, served = pictures.labels[labelled], probability(found.served[labelled])
    measured = evaluate(labels, served, pictures.groups[labelled], seed=0)
    strength = measure_strength(found.served, pictures.felt, pictures.labels, pictures.groups, seed=0)
    before = calibration_error(labels, probability(found.raw[labelled]))
    return [
        f"{measured.accuracy:.3f} ({measured.accuracy_low:.3f} to {measured.accuracy_high:.3f})",
        f"{measured.auroc:.3f}",
        *(shown(each) for each in (strength.overall, strength.negative, strength.positive)),
        f"{measured.between:.2f}",
        f"{before:.3f} → {measured.ece:.3f}",
    ]


def intensities_row(pictures: Pictures, found: Answers, paper: Answers) -> list[str]:
    """What the two intensities say: of each other, of strength in their own class, and of it beyond the polarity."""
    assert found.intensities is not None  # noqa: S101 (a head has them)
    labelled = pictures.labels >= 0
    wrong = [(one.served[labelled] >= 0) != pictures.labels[labelled] for one in (paper, found)]
    gain = wrong[0].astype(int) - wrong[1]
    low, high = middle(group_means(gain, pictures.groups[labelled], SAMPLES, 0)) or (0.0, 0.0)
    correlations = correlate_intensities(found.intensities, pictures.labels)
    own, beyond = [], []
    for label, sign in ((NEGATIVE, -1), (POSITIVE, 1)):
        inside = pictures.labels == label
        felt, groups, said = sign * pictures.felt[inside], pictures.groups[inside], found.intensities[inside, label]
        own.append(shown(rank_correlation(said, felt, groups, seed=0)))
        beyond.append(shown(partial(said, felt, sign * found.served[inside], groups)))
    return [
        f"{gain.mean():+.3f} ({low:+.3f} to {high:+.3f})",
        *(f"{value or 0:.2f}" for value in vars(correlations).values()),
        *own,
        *beyond,
        f"{np.mean((found.intensities < 0.02) | (found.intensities > 0.98)):.2f}",
    ]


def partial(
    one: NDArray[np.float64], other: NDArray[np.float64], given: NDArray[np.float64], groups: NDArray[Any]
) -> RankCorrelation:
    """Spearman's partial correlation: what two rankings share that a third does not explain."""

    def measured(rows: NDArray[np.int64]) -> float:
        r = np.corrcoef([rankdata(values[rows]) for values in (one, other, given)])
        return float((r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)))

    _, group = np.unique(groups, return_inverse=True)
    every = np.arange(len(one))
    drawn = [measured(every.repeat(times[group])) for times in group_draws(int(group.max()) + 1, SAMPLES, 0)]
    return RankCorrelation(len(one), measured(every), *(middle(np.array(drawn)) or (None, None)))


def line(cells: Sequence[str]) -> str:
    """A line of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def shown(found: RankCorrelation | None) -> str:
    """A value with its interval."""
    if found is None or found.low is None or found.high is None:
        return ""
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def main() -> None:
    """Compute, train and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pictures", choices=("demo", "bass"))
    parser.add_argument("folder", type=Path, nargs="?", help="of BASS: labels.csv and images/")
    parser.add_argument("--keep", type=Path, required=True, help="a folder for maps and answers")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--variants", type=int, nargs="*", help="numbers of lines, from 0; all by default")
    asked = parser.parse_args()
    asked.keep.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if asked.pictures == "bass" and asked.folder is None:
        parser.error("bass needs its folder")
    pictures = read_demo(asked.keep) if asked.pictures == "demo" else read_bass(asked.folder, asked.keep)
    chosen = [VARIANTS[number] for number in asked.variants or range(len(VARIANTS))]
    heads = {variant.name: answers_of_head(pictures, variant, asked.epochs, asked.keep) for variant in chosen}
    print(line(["Served", *STRENGTH]), line(["---"] * (1 + len(STRENGTH))), sep="\n")
    for name, found in heads.items():
        print(line([name, *strength_row(pictures, found)]), flush=True)
    for penalty in (1, 100):
        found = answers_of_regression(pictures, penalty)
        print(line([f"logistic regression, penalty {penalty}", *strength_row(pictures, found)]), flush=True)
    print("\n" + line(["Intensities", *INTENSITIES]), line(["---"] * (1 + len(INTENSITIES))), sep="\n")
    paper = answers_of_head(pictures, VARIANTS[0], asked.epochs, asked.keep)
    for name, found in heads.items():
        print(line([name, *intensities_row(pictures, found, paper)]), flush=True)


if __name__ == "__main__":
    main()
