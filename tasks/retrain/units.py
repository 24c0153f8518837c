"""From labels to a model that is promoted, or refused with its reasons."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lake.lake import Lake
from lake.log import Action, Entry
from model.baselines import Baseline
from model.devices import choose_device
from model.distributed import Distributed
from model.evaluation import Evaluation
from model.gate import Decision, decide
from model.gate_policy import GatePolicy
from model.precision import resolved_precision
from model.predict import Predictor
from model.training import EpochReport, train
from tasks import progress
from tasks.device_lock import device_lock
from tasks.models import HELD_OUT, load_network, seal_model
from tasks.retrain.beside import baselines_of
from tasks.retrain.checkpoint import LakeCheckpoint
from tasks.retrain.config import RetrainConfig
from tasks.retrain.judging import PAGE, LabelledSplit, Measured, calibrate, draw_page, held_out_file, judged, measure
from tasks.retrain.labels import LabelSnapshot
from tasks.retrain.preparation import Prepared, TrainingRequest, examples_of, prepare
from tasks.retrain.torchrun import call_helpers, training_device

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A trained model, not yet in the log, and how it did on the held-out pictures."""

    version: int
    trained_on: int
    evaluation: Evaluation
    baselines: tuple[Baseline, ...]  # simple answers on the same pictures
    incumbent: Evaluation | None  # on the same pictures; None where there is no incumbent
    decision: Decision
    newest: Entry | None  # of the model log, when training began
    checkpoint: str  # kept until the decision is recorded: a run that can't record it loses no training


def train_candidate(
    lake: Lake, look: int, labels: LabelSnapshot, config: RetrainConfig, policy: GatePolicy, force_reason: str | None
) -> Candidate:
    """Train on one side of the labels, measure on another, decide, write the version with its evaluation.

    The model stands on the look's trunk or on a backbone of its own. A training that was interrupted is taken up where
    its last checkpoint left it. Raises LabelsUnusable and TrainingDiverged; then no version is visible.
    """
    newest = lake.models.newest()
    request = TrainingRequest(lake, labels, config, look, None if newest is None else newest.current)
    prepared = prepare(request)
    checkpoint = _checkpoint(lake, request, prepared)
    with device_lock(config.device_lock):
        distributed = call_helpers(request)
        model = _train(prepared, request, checkpoint, distributed)
        calibration = calibrate(model, prepared.examples, prepared.pictures)
        measured = measure(model, prepared.examples, prepared.pictures, calibration)
        against = _measure_incumbent(lake, prepared, config)
        beside = baselines_of(lake, request, prepared, measured, training_device(config.device))
        measured = replace(measured, baselines=beside)
    decision = _decide(prepared.pictures, measured, against, policy, force_reason)
    properties = _properties(prepared, request, measured, decision) | {"processes": distributed.world_size}
    version = _write(lake, model, prepared, measured, against, decision, properties)
    return Candidate(
        version=version,
        trained_on=len(prepared.training_side),
        evaluation=measured.evaluation,
        baselines=beside,
        incumbent=None if against is None else against.evaluation,
        decision=decision,
        newest=newest,
        checkpoint=checkpoint.path,
    )


def _checkpoint(lake: Lake, request: TrainingRequest, prepared: Prepared) -> LakeCheckpoint:
    """The same request finds the same checkpoint again."""
    side = prepared.pictures.sides.train.tolist()
    config = request.config
    chosen = config.backbone, config.image_size, config.weights, config.seed
    asked_for = request.labels.sha256, prepared.start, chosen, prepared.training, side
    return LakeCheckpoint(lake.store, *asked_for)


def _train(
    prepared: Prepared, request: TrainingRequest, checkpoint: LakeCheckpoint, distributed: Distributed
) -> Predictor:
    device = training_device(request.config.device)
    train(
        prepared.network,
        prepared.training_side,
        prepared.training,
        device=device,
        on_epoch=lambda report: _tell(report, request.labels.labelled),
        checkpoint=checkpoint,
        distributed=distributed,
    )
    return Predictor(prepared.network, prepared.examples.preprocessing, device)


def _properties(prepared: Prepared, request: TrainingRequest, measured: Measured, decision: Decision) -> dict[str, Any]:
    """What the manifest says of a training, beside the network itself."""
    labels, sides = request.labels, prepared.pictures.sides
    precision = resolved_precision(training_device(request.config.device), prepared.training.precision)
    return {
        "evaluation": measured.evaluation.to_dict(),
        "baselines": [baseline.to_dict() for baseline in measured.baselines],
        "calibration": measured.calibration.to_dict(),
        "incumbent": request.incumbent,
        "decision": decision.to_dict(),
        "training": prepared.training.to_dict() | {"precision": precision},
        "labels": {
            "sha256": labels.sha256,
            "labelled": labels.labelled,
            "trained_on": len(sides.train),
            "validation": len(sides.validation),
            "held_out": len(sides.held_out),
        },
        "started_from": prepared.start.to_dict(),
    }


def _write(
    lake: Lake,
    model: Predictor,
    prepared: Prepared,
    measured: Measured,
    against: Measured | None,
    decision: Decision,
    properties: Mapping[str, Any],
) -> int:
    """The candidate as a sealed version, not yet in the log; its number."""
    draft, pictures = lake.models.draft(), prepared.pictures
    page = draw_page(
        model,
        prepared.examples,
        pictures,
        version=draft.version,
        candidate=measured,
        incumbent=against,
        decision=decision,
        training=properties["training"],
    )
    theirs = None if against is None else against.predictions
    files = {HELD_OUT: held_out_file(pictures, measured.predictions, theirs)}
    files |= {} if page is None else {PAGE: page}
    seal_model(draft, prepared.network.cpu(), model.preprocessing, properties=properties, files=files)
    return draft.version


def record_decision(lake: Lake, candidate: Candidate) -> None:
    """Promote or refuse the candidate by one log entry. Raises LostRace."""
    action: Action = "promote" if candidate.decision.promote else "refuse"
    lake.models.append(action, candidate.version, based_on=candidate.newest, reason="; ".join(candidate.decision.words))
    lake.store.delete([candidate.checkpoint])


def _decide(
    pictures: LabelledSplit,
    candidate: Measured,
    incumbent: Measured | None,
    policy: GatePolicy,
    force_reason: str | None,
) -> Decision:
    """The gate's decision, or a person's against it."""
    before = None if incumbent is None else judged(pictures, incumbent)
    decision = decide(judged(pictures, candidate), before, policy)
    if force_reason is None or decision.promote:
        return decision
    return replace(decision, forced=force_reason)


def _tell(report: EpochReport, pictures: int) -> None:
    """Progress in labelled pictures, so that the last epoch completes them."""
    logger.info("epoch %d of %d: loss %.4f", report.epoch, report.epochs, report.loss)
    progress.advance(pictures * report.epoch // report.epochs - pictures * (report.epoch - 1) // report.epochs)


def _measure_incumbent(lake: Lake, prepared: Prepared, config: RetrainConfig) -> Measured | None:
    """The incumbent on the same pictures; None where there is none."""
    incumbent = prepared.incumbent
    if incumbent is None:
        return None
    examples = examples_of(prepared.pictures.labelled, incumbent.preprocessing, config)
    model = Predictor(load_network(lake, incumbent), incumbent.preprocessing, choose_device(config.device))
    return measure(model, examples, prepared.pictures, incumbent.calibration)


def describe(candidate: Candidate) -> Mapping[str, Any]:
    """The candidate's evaluation, the simple answers beside it, and the incumbent's on the same pictures."""
    incumbent = None if candidate.incumbent is None else candidate.incumbent.to_dict()
    beside = [baseline.to_dict() | {"words": baseline.words} for baseline in candidate.baselines]
    return candidate.evaluation.to_dict() | {"incumbent": incumbent, "baselines": beside}
