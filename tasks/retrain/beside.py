"""The simple answers that stand beside a candidate: on the same pictures, learnt from the same side of the labels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lake.lake import Lake
from model.baselines import Baseline, colour_histograms, polarity_baselines
from model.examples import Examples
from model.look import LookConfig, LookNetwork
from model.predict import Predictor
from tasks.looks import load_look, read_look
from tasks.retrain.judging import Measured, predict
from tasks.retrain.preparation import Prepared, TrainingRequest, examples_of

BATCH = 256


def baselines_of(
    lake: Lake, request: TrainingRequest, prepared: Prepared, measured: Measured, device: torch.device
) -> tuple[Baseline, ...]:
    """The majority class, and a logistic regression on the look's frozen trunk and on a colour histogram."""
    labelled, sides = prepared.pictures.labelled, prepared.pictures.sides
    look = read_look(lake, request.look)
    trunk = LookNetwork(LookConfig(backbone=look.config.backbone, pooling="mean", colour=None))
    trunk.backbone = load_look(lake, look).backbone
    examples = examples_of(labelled, look.preprocessing, request.config)
    everything, described = np.arange(len(labelled.labels)), Predictor(None, look.preprocessing, device, look=trunk)
    features = {
        "the trunk's pooled maps": predict(described, examples, everything).embedding,
        "a colour histogram": _histograms(examples, everything),
    }
    polarity = measured.predictions.polarity
    return polarity_baselines(labelled.labels, labelled.groups, sides, polarity, features)


def _histograms(examples: Examples, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    batches = np.array_split(indices, -(-len(indices) // BATCH))
    return np.concatenate([colour_histograms(examples.pixels(batch)) for batch in batches])
