"""What a training starts from: the first weights, the labelled pictures dealt to their sides, the recipe.

Every process of a training prepares the same from the same request.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from lake.lake import Lake
from model.backbones.names import BackboneName
from model.examples import JpegExamples, Subset
from model.network import PolarityNetwork, start_attention
from model.preprocessing import Preprocessing
from model.recipe import TrainingConfig, recipe
from model.split import split
from tasks.config import ModelChoice
from tasks.models import ModelCard, Origin, load_network, new_network, read_card
from tasks.retrain.config import RetrainConfig
from tasks.retrain.judging import LabelledSplit
from tasks.retrain.labelled import Labelled, read_labelled
from tasks.retrain.labels import LabelSnapshot


@dataclass(frozen=True)
class TrainingRequest:
    """All that a training is made of, by reference."""

    lake: Lake
    labels: LabelSnapshot
    config: RetrainConfig
    incumbent: int | None


@dataclass(frozen=True)
class Prepared:
    """A training about to begin."""

    network: PolarityNetwork
    started_from: Origin
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
    lake, config = request.lake, request.config
    incumbent = None if request.incumbent is None else read_card(lake, request.incumbent)
    labelled = read_labelled(lake, request.labels, seed=config.seed)
    sides = split(
        labelled.labels,
        labelled.groups,
        held_out_share=config.held_out_share,
        validation_share=config.validation_share,
        seed=config.seed,
    )
    network, preprocessing, started_from = _start(lake, incumbent, config)
    start_attention(network)
    return Prepared(
        network=network,
        started_from=started_from,
        training=_recipe(lake, started_from, config),
        pictures=LabelledSplit(labelled, sides),
        examples=examples_of(labelled, preprocessing, config),
        incumbent=incumbent,
    )


def examples_of(labelled: Labelled, preprocessing: Preprocessing, config: RetrainConfig) -> JpegExamples:
    """The labelled pictures as a network with this preprocessing sees them."""
    return JpegExamples(labelled.jpegs, labelled.labels, labelled.weights, preprocessing, threads=config.decode_threads)


def _start(
    lake: Lake, incumbent: ModelCard | None, choice: ModelChoice
) -> tuple[PolarityNetwork, Preprocessing, Origin]:
    """The network to train.

    An untrained incumbent is what `init-model` chose as the start. A trained one lends its sizes but not its
    weights: it has seen pictures that are held out now.
    """
    if incumbent is None or choice.weights is not None:
        sizes = choice if incumbent is None else _sizes(incumbent, choice)
        network, preprocessing = new_network(sizes)
        return network, preprocessing, Origin(sizes.start)
    if not incumbent.trained and choice.backbone in (None, incumbent.network.backbone):
        size = choice.image_size or incumbent.preprocessing.image_size
        preprocessing = Preprocessing.from_dict(incumbent.preprocessing.to_dict() | {"image_size": size})
        return load_network(lake, incumbent), preprocessing, Origin(model_version=incumbent.version)
    return _start_again(lake, incumbent, choice)


def _recipe(lake: Lake, origin: Origin, config: RetrainConfig) -> TrainingConfig:
    """The recipe for these first weights. A first model's own start decides whether it is pretrained."""
    if origin.model_version is not None:
        origin = read_card(lake, origin.model_version).started_from
    chosen = recipe(pretrained=origin.weights != "random")
    epochs = chosen.epochs if config.epochs is None else config.epochs
    return replace(chosen, seed=config.seed, epochs=epochs, **config.recipe)


def _start_again(
    lake: Lake, incumbent: ModelCard, choice: ModelChoice
) -> tuple[PolarityNetwork, Preprocessing, Origin]:
    """The network that the incumbent started from; another backbone starts from its own weights."""
    origin = incumbent.started_from
    if origin.model_version is not None and choice.backbone in (None, incumbent.network.backbone):
        sized = replace(choice, image_size=_sizes(incumbent, choice).image_size)
        return _start(lake, read_card(lake, origin.model_version), sized)
    weights = origin.weights or choice.default_weights
    sizes = _sizes(incumbent, replace(choice, weights=weights))
    network, preprocessing = new_network(sizes)
    return network, preprocessing, Origin(weights)


def _sizes(incumbent: ModelCard, choice: ModelChoice) -> ModelChoice:
    return replace(
        choice,
        backbone=choice.backbone or cast(BackboneName, incumbent.network.backbone),
        image_size=choice.image_size or incumbent.preprocessing.image_size,
    )
