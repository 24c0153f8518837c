"""How a model does on the held-out pictures, kept beside its weights so that anybody can judge again."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lake.lake import Lake
from model.calibration import fit_temperature
from model.evaluation import Evaluation, HeldOut, evaluate, retrieval_recall
from model.examples import Examples
from model.predict import Predictions, Predictor
from model.split import Split
from tasks.labelled import Labelled

HELD_OUT = "held-out.parquet"  # in a model version: what it, and the incumbent, said of the held-out pictures
BATCH = 64


@dataclass(frozen=True)
class Measured:
    """A model's measures and what it said of each held-out picture."""

    evaluation: Evaluation
    predictions: Predictions


def measure(model: Predictor, examples: Examples, labelled: Labelled, sides: Split) -> Measured:
    """Calibrate on the validation side, then measure on the held-out side: polarity, intensities, retrieval."""
    held_out = sides.held_out
    found = _predict(model, examples, held_out)
    temperature = None
    if len(sides.validation):
        validation = _predict(model, examples, sides.validation)
        temperature = fit_temperature(validation.polarity, labelled.labels[sides.validation])
    categories = [labelled.categories[index] for index in held_out]
    evaluation = evaluate(
        labelled.labels[held_out],
        found.polarity,
        labelled.groups[held_out],
        seed=0,
        temperature=temperature,
        categories=np.array(categories, dtype=object) if any(categories) else None,
        intensities=np.stack([found.negative_intensity, found.positive_intensity], axis=1),
    )
    # By product, not by joined group: another product's near-copy is no hit.
    retrieval = retrieval_recall(found.embedding, labelled.products[held_out])
    return Measured(replace(evaluation, retrieval=retrieval), found)


def held_out_file(labelled: Labelled, sides: Split, candidate: Predictions, incumbent: Predictions | None) -> bytes:
    """The held-out pictures with both models' answers, as Parquet."""
    chosen = sides.held_out
    rows = {
        "image_key": [labelled.keys[index] for index in chosen],
        "label": labelled.labels[chosen],
        "group": labelled.groups[chosen].tolist(),
        "category": pa.array([labelled.categories[index] for index in chosen], pa.string()),
        "polarity": candidate.polarity,
        "positive_intensity": candidate.positive_intensity,
        "negative_intensity": candidate.negative_intensity,
        "incumbent_polarity": pa.nulls(len(chosen), pa.float32()) if incumbent is None else incumbent.polarity,
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(rows), sink, compression="zstd")
    return sink.getvalue()


def read_held_out(lake: Lake, version: int) -> tuple[HeldOut, HeldOut | None]:
    """The candidate's and the incumbent's answers on the held-out pictures of a version, for pairing."""
    rows = pq.read_table(pa.BufferReader(lake.models.read(version, HELD_OUT)))
    labels, groups = rows["label"].to_numpy(), np.array(rows["group"].to_pylist())
    listed = rows["category"].to_pylist()
    categories = np.array(listed, dtype=object) if any(listed) else None
    candidate = HeldOut(labels, rows["polarity"].to_numpy(), groups, categories)
    if rows["incumbent_polarity"].null_count:
        return candidate, None
    return candidate, HeldOut(labels, rows["incumbent_polarity"].to_numpy(), groups, categories)


def _predict(model: Predictor, examples: Examples, indices: np.ndarray) -> Predictions:
    batches = np.array_split(indices, -(-len(indices) // BATCH))
    found = [model.predict(examples.pixels(batch)) for batch in batches]
    return Predictions(
        polarity=np.concatenate([each.polarity for each in found]),
        negative_intensity=np.concatenate([each.negative_intensity for each in found]),
        positive_intensity=np.concatenate([each.positive_intensity for each in found]),
        embedding=np.concatenate([each.embedding for each in found]),
    )
