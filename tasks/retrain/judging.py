"""How a model does on the held-out pictures, kept beside its weights so that anybody can judge again."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.attention import attention_maps
from model.calibration import UNCALIBRATED, Calibration, fit_calibration, probability
from model.evaluation import Evaluation, HeldOut, evaluate
from model.examples import Examples
from model.gate import Decision, Judged
from model.predict import Predictions, Predictor
from model.split import Split
from model.strength import measure_strength
from tasks.retrain.labelled import Labelled

if TYPE_CHECKING:
    from model.baselines import Baseline
    from pages.evaluation_data import WrongPicture

PAGE = "evaluation.html"
BATCH = 64

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """A model's measures and what it said of each held-out picture."""

    evaluation: Evaluation
    predictions: Predictions  # as served
    calibration: Calibration
    baselines: tuple[Baseline, ...] = ()  # simple answers on the same pictures


@dataclass(frozen=True)
class LabelledSplit:
    """The labelled pictures and their sides: the same for every model that is measured."""

    labelled: Labelled
    sides: Split

    @property
    def categories(self) -> NDArray[Any] | None:
        """The categories of the held-out pictures; None where the labels name none."""
        listed = [self.labelled.categories[index] for index in self.sides.held_out]
        return np.array(listed, dtype=object) if any(listed) else None


def calibrate(model: Predictor, examples: Examples, pictures: LabelledSplit) -> Calibration:
    """Of an uncalibrated model, by the validation side."""
    labelled, side = pictures.labelled, pictures.sides.validation
    if not len(side):
        return UNCALIBRATED
    return fit_calibration(predict(model, examples, side).logit, labelled.shares[side], labelled.groups[side], seed=0)


def measure(model: Predictor, examples: Examples, pictures: LabelledSplit, calibration: Calibration) -> Measured:
    """An uncalibrated model as it serves with this calibration: what it says of the held-out side."""
    labelled, held_out = pictures.labelled, pictures.sides.held_out
    raw = predict(model, examples, held_out)
    predictions = raw.calibrated(calibration)
    groups = labelled.groups[held_out]
    evaluation = evaluate(
        labelled.shares[held_out],
        probability(predictions.logit),
        groups,
        seed=0,
        uncalibrated=None if calibration == UNCALIBRATED else raw.polarity,
        categories=pictures.categories,
        intensities=np.stack([predictions.negative_intensity, predictions.positive_intensity], axis=1),
    )
    strength = None
    if labelled.felt is not None:
        felt, labels = labelled.felt[held_out], labelled.labels[held_out]
        strength = measure_strength(predictions.logit, felt, labels, groups, seed=0)
    return Measured(replace(evaluation, strength=strength), predictions, calibration)


def held_out_file(pictures: LabelledSplit, candidate: Predictions, incumbent: Predictions | None) -> bytes:
    """The held-out pictures with both models' answers, as Parquet."""
    labelled, chosen = pictures.labelled, pictures.sides.held_out
    rows = {
        "image_key": [labelled.keys[index] for index in chosen],
        "label": labelled.labels[chosen],
        "share": labelled.shares[chosen],
        "strength": pa.array(labelled.strengths[chosen], mask=np.isnan(labelled.strengths[chosen])),
        "group": labelled.groups[chosen].tolist(),
        "category": pa.array([labelled.categories[index] for index in chosen], pa.string()),
        "polarity": candidate.polarity,
        "logit": candidate.logit,
        "positive_intensity": candidate.positive_intensity,
        "negative_intensity": candidate.negative_intensity,
        "incumbent_polarity": pa.nulls(len(chosen), pa.float32()) if incumbent is None else incumbent.polarity,
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(rows), sink, compression="zstd")
    return sink.getvalue()


def judged(pictures: LabelledSplit, measured: Measured) -> Judged:
    """A model's measures and answers on the held-out pictures, for pairing it with another's."""
    labelled, chosen = pictures.labelled, pictures.sides.held_out
    polarity = measured.predictions.polarity
    answers = HeldOut(labelled.labels[chosen], polarity, labelled.groups[chosen], pictures.categories)
    return Judged(measured.evaluation, answers)


def draw_page(
    model: Predictor,
    examples: Examples,
    pictures: LabelledSplit,
    *,
    version: int,
    candidate: Measured,
    incumbent: Measured | None,
    decision: Decision,
    training: Mapping[str, Any],
) -> bytes | None:
    """The evaluation as one HTML document; None where it could not be drawn, which must not cost the training."""
    from pages.evaluation import render_page
    from pages.evaluation_data import PageData
    from pages.measures import measures_of

    labelled, chosen, predictions = pictures.labelled, pictures.sides.held_out, candidate.predictions
    try:
        data = PageData(
            title=f"Model {version}",
            model_version=version,
            decision=decision,
            candidate=measures_of(_shown(candidate.evaluation)),
            incumbent=None if incumbent is None else measures_of(_shown(incumbent.evaluation)),
            labels=labelled.labels[chosen],
            polarity=predictions.polarity,
            positive_intensity=predictions.positive_intensity,
            negative_intensity=predictions.negative_intensity,
            incumbent_polarity=None if incumbent is None else incumbent.predictions.polarity,
            categories=None if pictures.categories is None else pictures.categories.tolist(),
            baselines=candidate.baselines,
            worst=_worst(model, examples, pictures, predictions),
            training=dict(training),
            label_facts={
                "trained on": len(pictures.sides.train),
                "validation": len(pictures.sides.validation),
                "held out": len(chosen),
            },
        )
        return render_page(data).encode()
    except Exception:
        logger.warning("the evaluation page could not be drawn", exc_info=True)
        return None


def _worst(
    model: Predictor, examples: Examples, pictures: LabelledSplit, predictions: Predictions
) -> tuple[WrongPicture, ...]:
    """The held-out pictures that the model got most wrong, and where it looked."""
    from pages.evaluation_data import WrongPicture, most_wrong

    labelled, chosen = pictures.labelled, pictures.sides.held_out
    rows = most_wrong(labelled.labels[chosen], predictions.polarity)
    maps = attention_maps(model, examples.pixels(chosen[rows])) if len(rows) else ()
    return tuple(
        WrongPicture(
            labelled.keys[chosen[row]],
            int(labelled.labels[chosen[row]]),
            float(predictions.polarity[row]),
            labelled.jpegs[chosen[row]],
            negative,
            positive,
        )
        for row, (negative, positive) in zip(rows, maps, strict=True)
    )


def _shown(evaluation: Evaluation) -> dict[str, Any]:
    """The measures that the page lists, under the names that it explains."""
    apart = ("categories", "intensities", "strength")
    measures = {name: value for name, value in evaluation.to_dict().items() if name not in apart}
    for where, found in ({} if evaluation.strength is None else vars(evaluation.strength)).items():
        measures[f"strength_{where}"] = None if found is None else [found.value, found.low, found.high]
    return measures


def predict(model: Predictor, examples: Examples, indices: NDArray[np.int64]) -> Predictions:
    """What a predictor says of some of the examples."""
    batches = np.array_split(indices, -(-len(indices) // BATCH))
    return Predictions.concatenate([model.predict(examples.pixels(batch)) for batch in batches])
