"""From products with several pictures to a candidate look: describe the pictures, fit a projection, judge, write.

No labels are needed: that two pictures show one product is all that is asked. Shapes: N pictures; R numbers that
describe one; E the size of an embedding.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from lake import catalogue
from lake.lake import Lake
from lake.log import Action, Entry
from model.devices import choose_device
from model.errors import LabelsUnusable
from model.gate import Decision
from model.gate_policy import LookGatePolicy
from model.look import LookNetwork
from model.look_gate import answers_of, decide_look
from model.look_training import fit_projection, held_out, project
from model.pictures.stored import empty_batch, prepare_into
from model.preprocessing import Preprocessing
from model.retrieval import Catalogue
from tasks import progress
from tasks.device_lock import device_lock
from tasks.located_rows import opener
from tasks.looks import LookCard, load_look, new_look, read_look, require_look, seal_look
from tasks.retrain_look.config import RetrainLookConfig
from tasks.score.rows import read_pixels
from tasks.timing import Stopwatch

logger = logging.getLogger(__name__)

BATCH = 64

# Whole products, chosen by a hash: a catalogue that grew gives nearly the same ones. Different contents only.
SAMPLE = """
    WITH contents AS (
        SELECT sha256, min_by(product_id, image_key) AS product_id, min_by(url, image_key) AS url,
               min_by(row, image_key) AS row
        FROM stored_pictures JOIN images USING (image_key, sha256)
        WHERE product_id IS NOT NULL GROUP BY sha256
    ), products AS (
        SELECT product_id, sum(count(*)) OVER (ORDER BY md5(product_id), product_id) AS so_far
        FROM contents GROUP BY product_id HAVING count(*) > 1
    )
    SELECT product_id, url, row FROM contents JOIN products USING (product_id)
    WHERE so_far <= $most ORDER BY url, row
"""


@dataclass(frozen=True)
class LookCandidate:
    """A look with a trained projection, not yet in the log, and how it did on products that it did not learn from."""

    version: int
    evaluation: dict[str, Any]
    decision: Decision
    newest: Entry | None  # of the looks' log, when the training began


@dataclass(frozen=True)
class Described:
    """Pictures of products that show several."""

    products: list[str]  # N
    descriptions: NDArray[np.float32]  # N×R, what a projection is fitted to
    incumbent: NDArray[np.float32]  # N×E, the embeddings of the look in use


def train_look(lake: Lake, config: RetrainLookConfig, policy: LookGatePolicy, force: str | None) -> LookCandidate:
    """Fit a projection on some of the products, compare it with the look in use on the others, write the version.

    Raises LabelsUnusable where too few products show several pictures.
    """
    newest = lake.looks.newest()
    card = read_look(lake, require_look(lake))
    with device_lock(config.device_lock):
        unfitted, preprocessing, weights, described = _describe_sample(lake, card, config)
    judges = held_out(described.products, share=config.held_out_products, seed=config.seed)
    fitted = fit_projection(
        described.descriptions[~judges],
        [product for product, judge in zip(described.products, judges, strict=True) if not judge],
        dimensions=config.dimensions,
        seed=config.seed,
    )
    candidate = project(unfitted.cpu(), fitted)
    shown = Catalogue(described.products)
    with torch.inference_mode():
        embeddings = candidate.embed_described(torch.from_numpy(described.descriptions)).numpy()
    answers = answers_of(embeddings, shown, judges)
    incumbents = answers_of(described.incumbent, shown, judges)
    decision = decide_look(answers, incumbents, policy)
    if force is not None and not decision.promote:
        decision = replace(decision, forced=force)
    evaluation = {
        "trained_on": fitted.pictures,
        "trained_on_products": fitted.products,
        "held_out": len(answers.groups),
        "held_out_products": len(np.unique(answers.groups)),
        "same_product_first": float(answers.finds_product.mean()),
        "incumbent_same_product_first": float(incumbents.finds_product.mean()),
    }
    draft = lake.looks.draft()
    properties = {"incumbent": card.version, "evaluation": evaluation, "decision": decision.to_dict()}
    seal_look(draft, candidate, preprocessing, weights=weights, properties=properties)
    return LookCandidate(draft.version, evaluation, decision, newest)


def record_look(lake: Lake, candidate: LookCandidate) -> None:
    """Promote or refuse the candidate by one log entry. Raises LostRace."""
    action: Action = "promote" if candidate.decision.promote else "refuse"
    lake.looks.append(action, candidate.version, based_on=candidate.newest, reason="; ".join(candidate.decision.words))


def _unfitted(
    card: LookCard, incumbent: LookNetwork, config: RetrainLookConfig
) -> tuple[LookNetwork, Preprocessing, str]:
    """The candidate before its projection is fitted, its preprocessing and the name of its weights.

    It is the look in use, unless another trunk is chosen.
    """
    if (config.backbone, config.image_size, config.weights) == (None, None, None):
        return incumbent, card.preprocessing, card.weights
    look, preprocessing, _ = new_look(config)
    return look, preprocessing, config.start


def _describe_sample(
    lake: Lake, card: LookCard, config: RetrainLookConfig
) -> tuple[LookNetwork, Preprocessing, str, Described]:
    """The candidate before it is fitted, with its preprocessing and weights, and what both looks say of a sample."""
    device = choose_device(config.device)
    incumbent = _ready(load_look(lake, card), device)
    unfitted, preprocessing, weights = _unfitted(card, incumbent, config)
    shared = unfitted.backbone is incumbent.backbone
    unfitted = _ready(unfitted, device)
    with catalogue.workbench(lake) as sql:
        sample = sql.execute(SAMPLE, {"most": config.sample_pictures}).to_arrow_table()
    if not sample.num_rows:
        raise LabelsUnusable(
            "no product shows several pictures: ingest with --product-id-pattern, so that pictures of one product are "
            "known as such"
        )
    descriptions, embeddings = [], []
    with progress.stage("describe pictures", sample.num_rows), torch.inference_mode():
        for jpegs in _batches(lake, sample):
            pixels, maps = _maps_of(unfitted, preprocessing, jpegs, device)
            descriptions.append(unfitted.describe(maps, pixels).cpu())
            if not shared:
                pixels, maps = _maps_of(incumbent, card.preprocessing, jpegs, device)
            embeddings.append(incumbent.embed(maps, pixels).cpu())
            progress.advance(len(jpegs))
    described = Described(
        sample["product_id"].to_pylist(), torch.cat(descriptions).numpy(), torch.cat(embeddings).numpy()
    )
    return unfitted, preprocessing, weights, described


def _ready(look: LookNetwork, device: torch.device) -> LookNetwork:
    return look.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload, no-any-return]


def _batches(lake: Lake, sample: pa.Table) -> Iterator[list[bytes]]:
    jpegs = read_pixels(sample, opener(lake.store), Stopwatch("read pixels"))
    return iter(lambda: list(islice(jpegs, BATCH)), [])


def _maps_of(
    look: LookNetwork, preprocessing: Preprocessing, jpegs: list[bytes], device: torch.device
) -> tuple[Tensor, Tensor]:
    """The pixels of a batch and the trunk's maps of them."""
    pixels = empty_batch(len(jpegs), preprocessing.image_size)
    prepare_into(pixels, jpegs, preprocessing)
    pixels = pixels.to(device)
    maps: Tensor = look.backbone(preprocessing.normalise(pixels))
    return pixels, maps
