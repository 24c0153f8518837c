"""What a training starts from: the first weights, the labelled pictures dealt to their sides, the recipe.

Every process of a training prepares the same from the same request.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from lake.lake import Lake
from model.examples import JpegExamples, Subset
from model.network import NetworkConfig, PolarityNetwork, start_attention
from model.preprocessing import Preprocessing
from model.recipe import TrainingConfig, recipe
from model.split import split
from tasks.looks import RANDOM, LookCard, load_look, new_backbone, read_look
from tasks.models import ModelCard, read_card
from tasks.retrain.config import RetrainConfig
from tasks.retrain.judging import LabelledSplit
from tasks.retrain.labelled import Labelled, read_labelled
from tasks.retrain.labels import LabelSnapshot

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TrainingRequest:
    """All that a training is made of, by reference."""

    lake: Lake
    labels: LabelSnapshot
    config: RetrainConfig
    look: int
    incumbent: int | None


@dataclass(frozen=True)
class Start:
    """What a model's backbone was before the training, and whether it is trained too."""

    trains_backbone: bool
    weights: str
    """By name, path or URI."""
    look_version: int | None = None
    """The look whose trunk it was."""

    @classmethod
    def of(cls, card: ModelCard) -> Start:
        """That of a model in the lake."""
        return cls(**card.properties["started_from"])

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, for a manifest."""
        return asdict(self)


@dataclass(frozen=True)
class Prepared:
    """A training about to begin."""

    network: PolarityNetwork
    start: Start
    training: TrainingConfig
    pictures: LabelledSplit
    examples: JpegExamples
    incumbent: ModelCard | None

    @property
    def training_side(self) -> Subset:
        """What it learns from."""
        return Subset(self.examples, self.pictures.sides.train)


def prepare(request: TrainingRequest) -> Prepared:
    """Reads the labelled pictures and the first weights. Raises LabelsUnusable, LakeError and ModelError."""
    lake = request.lake
    look = read_look(lake, request.look)
    incumbent = None if request.incumbent is None else read_card(lake, request.incumbent)
    config = _followed(request.config, look, incumbent)
    labelled = read_labelled(lake, request.labels, seed=config.seed)
    sides = split(
        labelled.labels,
        labelled.groups,
        held_out_share=config.held_out_share,
        validation_share=config.validation_share,
        seed=config.seed,
    )
    network, preprocessing, start = _first_network(lake, look, config)
    return Prepared(
        network=network,
        start=start,
        training=_recipe(start, config),
        pictures=LabelledSplit(labelled, sides),
        examples=examples_of(labelled, preprocessing, config),
        incumbent=incumbent,
    )


def examples_of(labelled: Labelled, preprocessing: Preprocessing, config: RetrainConfig) -> JpegExamples:
    """The labelled pictures as a network with this preprocessing sees them."""
    return JpegExamples(labelled.jpegs, labelled.shares, labelled.weights, preprocessing, threads=config.decode_threads)


def _followed(config: RetrainConfig, look: LookCard, incumbent: ModelCard | None) -> RetrainConfig:
    """The configuration with what it leaves open: as the incumbent, or as fits the look.

    An incumbent lends the weights that it started from, not its own: it has seen pictures that are held out now.
    """
    before = None if incumbent is None else Start.of(incumbent)
    trains = config.train_backbone
    if trains is None:
        by_default = look.weights == RANDOM if before is None else before.trains_backbone
        trains = config.chooses_backbone or by_default
    if not trains or incumbent is None or before is None or not before.trains_backbone:
        return replace(config, train_backbone=trains)
    same = config.backbone in (None, incumbent.network.backbone)
    return replace(
        config,
        train_backbone=True,
        backbone=config.backbone or incumbent.network.backbone,
        image_size=config.image_size or incumbent.preprocessing.image_size,
        weights=config.weights or (before.weights if same and before.look_version is None else None),
    )


def _first_network(lake: Lake, look: LookCard, config: RetrainConfig) -> tuple[PolarityNetwork, Preprocessing, Start]:
    """The network to train: on the look's trunk, or on a backbone of its own."""
    if config.weights is None and config.backbone in (None, look.config.backbone):
        start = Start(bool(config.train_backbone), look.weights, look.version)
        preprocessing = replace(look.preprocessing, image_size=config.image_size or look.preprocessing.image_size)
        return _network_over(load_look(lake, look).backbone, look.config.backbone, config.seed), preprocessing, start
    name = config.backbone or look.config.backbone
    side = look.preprocessing.image_size if name == look.config.backbone else None
    config = replace(config, backbone=name, image_size=config.image_size or side)
    backbone, spec, preprocessing, _ = new_backbone(config)
    return _network_over(backbone, spec.name, config.seed), preprocessing, Start(True, config.start)


def _network_over(backbone: nn.Module, name: str, seed: int) -> PolarityNetwork:
    """A network on this backbone with a random, seeded head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PolarityNetwork(NetworkConfig(backbone=name))
    network.backbone = backbone
    start_attention(network)
    return network


def _recipe(start: Start, config: RetrainConfig) -> TrainingConfig:
    """The recipe for these first weights, with what the run chooses."""
    chosen = recipe(pretrained=start.weights != RANDOM, frozen=not start.trains_backbone)
    epochs = chosen.epochs if config.epochs is None else config.epochs
    return replace(chosen, seed=config.seed, epochs=epochs, **config.recipe)
