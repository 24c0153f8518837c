"""From labels to a model that is promoted, or refused with its reasons."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lake.lake import Lake, open_lake
from lake.versions import Action, Entry
from model.evaluation import Evaluation
from model.examples import JpegExamples, Subset
from model.gate import Decision, GatePolicy, decide
from model.network import PolarityNetwork
from model.predict import Predictor, choose_device
from model.preprocessing import Preprocessing
from model.recipe import TrainingConfig, recipe
from model.split import split
from model.training import EpochReport, train
from tasks import progress
from tasks.checkpoint import LakeCheckpoint
from tasks.judging import HELD_OUT, PAGE, Measured, Trial, answers, draw_page, held_out_file, measure
from tasks.labelled import Labelled, read_labelled
from tasks.labels import LabelSnapshot
from tasks.models import ModelCard, ModelChoice, load_network, new_network, read_card, seal_model
from tasks.units import device_slot, unit

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetrainConfig:
    """What is trained, on which share of the labels, and where."""

    start: ModelChoice = field(default_factory=ModelChoice)
    epochs: int | None = None  # None: as the recipe says
    seed: int = 0
    held_out_share: float = 0.25
    validation_share: float = 0.1  # for the temperature of the calibration
    device: str = "auto"
    device_slot: str | None = None
    decode_threads: int = os.cpu_count() or 1


@dataclass(frozen=True)
class Candidate:
    """A trained model, not yet in the log, and how it did on the held-out pictures."""

    version: int
    trained_on: int
    evaluation: Evaluation
    incumbent: Evaluation | None  # on the same pictures; None where there is no trained incumbent
    decision: Decision
    newest: Entry | None  # of the model log, when training began


@unit
def train_candidate(
    lake_uri: str, labels: LabelSnapshot, config: RetrainConfig, policy: GatePolicy, force_reason: str | None
) -> Candidate:
    """Train on one side of the labels, measure on another, decide, write the version with its evaluation.

    A training that was interrupted is taken up where its last checkpoint left it. Raises LabelsUnusable and
    TrainingDiverged; then no version is visible.
    """
    lake = open_lake(lake_uri)
    newest = lake.models.newest()
    incumbent = _incumbent(lake, newest)
    labelled = read_labelled(lake, labels, seed=config.seed)
    sides = split(
        labelled.labels,
        labelled.groups,
        held_out_share=config.held_out_share,
        validation_share=config.validation_share,
        seed=config.seed,
    )
    trial = Trial(labelled, sides)
    network, preprocessing, started_from = _start(lake, incumbent, config.start)
    training = _recipe(lake, started_from, config)
    examples = _examples(labelled, preprocessing, config)
    checkpoint = LakeCheckpoint(lake.store, labels.sha256, started_from, config.start, training, sides.train.tolist())
    device = choose_device(config.device)
    with device_slot(config.device_slot):
        train(
            network,
            Subset(examples, sides.train),
            training,
            device=device,
            on_epoch=lambda report: _tell(report, labels.labelled),
            checkpoint=checkpoint,
        )
        model = Predictor(network, preprocessing, device)
        measured = measure(model, examples, trial)
        against = _measure_incumbent(lake, incumbent, trial, config)
    decision = _decide(trial, measured, against, policy, force_reason)
    draft = lake.models.draft()
    page = draw_page(
        model,
        examples,
        trial,
        version=draft.version,
        candidate=measured,
        incumbent=against,
        decision=decision,
        training=training.to_dict(),
    )
    theirs = None if against is None else against.predictions
    files = {HELD_OUT: held_out_file(trial, measured.predictions, theirs)}
    files |= {} if page is None else {PAGE: page}
    properties = {
        "evaluation": measured.evaluation.to_dict(),
        "incumbent": None if incumbent is None else incumbent.version,
        "decision": {"promote": decision.promote, "reasons": list(decision.reasons)},
        "training": training.to_dict(),
        "labels": {
            "sha256": labels.sha256,
            "labelled": labels.labelled,
            "trained_on": len(sides.train),
            "validation": len(sides.validation),
            "held_out": len(sides.held_out),
        },
        "started_from": started_from,
    }
    seal_model(draft, network.cpu(), preprocessing, trained=True, properties=properties, files=files)
    checkpoint.clear()
    return Candidate(
        version=draft.version,
        trained_on=len(sides.train),
        evaluation=measured.evaluation,
        incumbent=None if against is None else against.evaluation,
        decision=decision,
        newest=newest,
    )


@unit
def record_decision(lake_uri: str, candidate: Candidate) -> None:
    """Promote or refuse the candidate by one log entry. Raises LostRace."""
    action: Action = "promote" if candidate.decision.promote else "refuse"
    open_lake(lake_uri).models.append(
        action, candidate.version, based_on=candidate.newest, reason="; ".join(candidate.decision.reasons)
    )


def _decide(
    trial: Trial,
    candidate: Measured,
    incumbent: Measured | None,
    policy: GatePolicy,
    force_reason: str | None,
) -> Decision:
    """The gate's decision, or a person's against it."""
    decision = decide(
        candidate.evaluation,
        None if incumbent is None else incumbent.evaluation,
        policy,
        held_out=answers(trial, candidate),
        incumbent_held_out=None if incumbent is None else answers(trial, incumbent),
    )
    if force_reason is None or decision.promote:
        return decision
    return replace(decision, promote=True, reasons=(f"forced: {force_reason}", *decision.reasons))


def _examples(labelled: Labelled, preprocessing: Preprocessing, config: RetrainConfig) -> JpegExamples:
    return JpegExamples(labelled.jpegs, labelled.labels, labelled.weights, preprocessing, threads=config.decode_threads)


def _incumbent(lake: Lake, newest: Entry | None) -> ModelCard | None:
    return None if newest is None or newest.current is None else read_card(lake, newest.current)


def _start(lake: Lake, incumbent: ModelCard | None, choice: ModelChoice) -> tuple[PolarityNetwork, Preprocessing, str]:
    """The network to train.

    An untrained incumbent is what `init-model` chose as the start. A trained one lends its sizes but not its
    weights: it has seen pictures that are held out now.
    """
    if incumbent is None or choice.weights is not None:
        sizes = choice if incumbent is None else _sizes(incumbent, choice)
        network, preprocessing = new_network(sizes)
        return network, preprocessing, sizes.weights or "imagenet"
    if not incumbent.trained and choice.backbone in (None, incumbent.network.backbone):
        size = choice.image_size or incumbent.preprocessing.image_size
        preprocessing = Preprocessing.from_dict(incumbent.preprocessing.to_dict() | {"image_size": size})
        return load_network(lake, incumbent), preprocessing, f"model {incumbent.version}"
    return _start_again(lake, incumbent, choice)


def _recipe(lake: Lake, started_from: str, config: RetrainConfig) -> TrainingConfig:
    """The recipe for these first weights. A first model's own start decides whether it is pretrained."""
    origin = started_from
    if origin.startswith("model "):
        origin = str(read_card(lake, int(origin.removeprefix("model "))).properties["started_from"])
    chosen = recipe(pretrained=origin != "random")
    return replace(chosen, seed=config.seed, epochs=config.epochs or chosen.epochs)


def _start_again(lake: Lake, incumbent: ModelCard, choice: ModelChoice) -> tuple[PolarityNetwork, Preprocessing, str]:
    """From what the incumbent started from."""
    origin = str(incumbent.properties["started_from"])
    if origin.startswith("model ") and choice.backbone in (None, incumbent.network.backbone):
        sized = replace(choice, image_size=_sizes(incumbent, choice).image_size)
        return _start(lake, read_card(lake, int(origin.removeprefix("model "))), sized)
    weights = "imagenet" if origin.startswith("model ") else origin
    sizes = _sizes(incumbent, ModelChoice(choice.backbone, choice.image_size, weights, choice.seed))
    network, preprocessing = new_network(sizes)
    return network, preprocessing, weights


def _sizes(incumbent: ModelCard, choice: ModelChoice) -> ModelChoice:
    return ModelChoice(
        backbone=choice.backbone or incumbent.network.backbone,
        image_size=choice.image_size or incumbent.preprocessing.image_size,
        weights=choice.weights,
        seed=choice.seed,
    )


def _tell(report: EpochReport, pictures: int) -> None:
    """Progress in labelled pictures, so that the last epoch completes them."""
    logger.info("epoch %d of %d: loss %.4f", report.epoch, report.epochs, report.loss)
    progress.advance(pictures * report.epoch // report.epochs - pictures * (report.epoch - 1) // report.epochs)


def _measure_incumbent(lake: Lake, incumbent: ModelCard | None, trial: Trial, config: RetrainConfig) -> Measured | None:
    """The incumbent on the same pictures; None where there is none that was trained."""
    if incumbent is None or not incumbent.trained:
        return None
    examples = _examples(trial.labelled, incumbent.preprocessing, config)
    model = Predictor(load_network(lake, incumbent), incumbent.preprocessing, choose_device(config.device))
    return measure(model, examples, trial)


def describe(candidate: Candidate) -> Mapping[str, Any]:
    """The candidate's evaluation, and the incumbent's on the same pictures where there is one."""
    incumbent = None if candidate.incumbent is None else candidate.incumbent.to_dict()
    return candidate.evaluation.to_dict() | {"incumbent": incumbent}
