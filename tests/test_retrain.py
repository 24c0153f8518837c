"""Retraining: learns, is judged on pictures that it never saw, is promoted only when better, and can go back."""

from __future__ import annotations

import functools
import random
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from markupsafe import escape

import tasks.retrain.units
from lake import catalogue
from lake.lake import Lake, open_lake
from lake.rollback import roll_back
from model import training
from model.calibration import Calibration
from model.errors import LabelsUnusable
from model.gate import Decision
from model.gate_policy import GatePolicy
from model.training import EpochReport
from tasks.config import ModelChoice
from tasks.ingest.config import IngestConfig
from tasks.looks import WEIGHTS, init_model, require_look
from tasks.models import HELD_OUT
from tasks.predictors import predictor
from tasks.retrain.config import RetrainConfig
from tasks.retrain.judging import PAGE
from tasks.retrain.labels import snapshot_labels
from tasks.retrain.units import Candidate, record_decision, train_candidate
from tasks.search.queries import SearchAnswer, search_by_key
from tests import small_lake
from tests.small_lake import PRODUCT_ID_PATTERN
from vitrine.demo.draw_catalogue import DrawnPicture, draw_catalogue, write_labels

RETRAIN = RetrainConfig(device="cpu", decode_threads=2)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, list[DrawnPicture], Path]:
    """A shop of 40 products in which every picture has a label, with a look and a model of a random head that serve."""
    root = tmp_path_factory.mktemp("shop")
    drawn = draw_catalogue(root / "pictures", products=40, views=3, size=64, broken=0)
    lake = str(root / "lake")
    init_model(lake, ModelChoice(image_size=96))  # the bundled trunk: a head learns from few pictures, in seconds
    small_lake.ingest(lake, str(root / "pictures"), IngestConfig(product_id_pattern=PRODUCT_ID_PATTERN))
    small_lake.register_model(lake)
    small_lake.score(lake)
    small_lake.rebuild(lake)
    return open_lake(lake), drawn, root


def retrain(
    lake: Lake, labels: Path, *, epochs: int, policy: GatePolicy | None = None, force: str | None = None
) -> tuple[Candidate, Decision]:
    """What `retrain-model` does up to the gate's decision."""
    snapshot = snapshot_labels(lake, str(labels), uuid.uuid4().hex)
    config = replace(RETRAIN, epochs=epochs)
    candidate = train_candidate(lake, require_look(lake), snapshot, config, policy or GatePolicy(), force)
    record_decision(lake, candidate)
    return candidate, candidate.decision


@pytest.fixture(scope="module")
def judged(shop: tuple[Lake, list[DrawnPicture], Path]) -> tuple[Candidate, Decision]:
    """A model of one epoch on every label, and what the gate said of it."""
    lake, drawn, root = shop
    write_labels(root / "judged.csv", drawn)
    return retrain(lake, root / "judged.csv", epochs=1)


@pytest.fixture(scope="module")
def undisturbed(shop: tuple[Lake, list[DrawnPicture], Path]) -> Candidate:
    """A model of half the labels, few.csv, trained in one go."""
    lake, drawn, root = shop
    write_labels(root / "few.csv", drawn[:60])
    return retrain(lake, root / "few.csv", epochs=4)[0]


def looks_alike(answer: SearchAnswer) -> list[tuple[str, float]]:
    return [(each["image_key"], each["similarity"]) for each in answer.neighbours]


def polarity(lake: Lake) -> dict[str, float]:
    with catalogue.connect(lake) as sql:
        return dict(sql.execute("SELECT image_key, polarity FROM scores").fetchall())


def test_a_better_model_is_promoted_a_worse_one_refused_and_a_rollback_restores_the_first(
    shop: tuple[Lake, list[DrawnPicture], Path], tmp_path: Path
) -> None:
    lake, drawn, root = shop
    key = drawn[0].image_key
    before = polarity(lake), search_by_key(lake, key, 5, tmp_path)
    embeddings, indexes = lake.embeddings.files(), lake.indexes.entries()
    write_labels(root / "labels.csv", drawn)

    good, decision = retrain(lake, root / "labels.csv", epochs=10)
    assert decision.promote, decision.reasons
    assert good.evaluation.accuracy > good.evaluation.majority_share + 0.1
    assert lake.serving().model_version == 1  # promoted, but readers wait for its scores
    assert polarity(lake) == before[0]
    assert small_lake.score(lake.uri).serves_since
    assert lake.serving().model_version == good.version
    after = polarity(lake)
    assert after != before[0]
    found = search_by_key(lake, key, 5, tmp_path)
    assert looks_alike(found) == looks_alike(before[1])  # polarity moved, and nothing else
    assert found.neighbours != before[1].neighbours
    assert (lake.embeddings.files(), lake.indexes.entries()) == (embeddings, indexes)
    right = np.mean([(after[picture.image_key] >= 0.5) == picture.label for picture in drawn])
    assert right > 0.8

    labels = [picture.label for picture in drawn]
    random.Random(3).shuffle(labels)  # noqa: S311 (a test's seed)
    shuffled = [replace(picture, label=label) for picture, label in zip(drawn, labels, strict=True)]
    write_labels(root / "shuffled.csv", shuffled)
    bad, refused = retrain(lake, root / "shuffled.csv", epochs=2)
    assert not refused.promote
    assert all("expected" in reason and "found" in reason for reason in refused.reasons)
    assert lake.models.current() == good.version
    with catalogue.connect(lake) as sql:
        status = dict(sql.execute("SELECT version, status FROM models").fetchall())
    assert status == {1: "accepted", good.version: "accepted", bad.version: "refused"}

    roll_back(lake, "models", 1)
    assert polarity(lake) == before[0]
    assert search_by_key(lake, key, 5, tmp_path) == before[1]
    again = small_lake.score(lake.uri)
    assert (again.embedded, again.scored) == (0, 0)  # nothing is scored again


def test_no_product_is_on_two_sides_and_the_held_out_answers_are_kept(
    shop: tuple[Lake, list[DrawnPicture], Path], judged: tuple[Candidate, Decision]
) -> None:
    lake, drawn, root = shop
    candidate, _ = judged
    rows = pq.read_table(Path(root, "lake", lake.models.path(candidate.version, HELD_OUT))).to_pylist()
    labels = {picture.image_key: picture.label for picture in drawn}
    held_out = {row["image_key"].split("/")[1] for row in rows}
    counts = lake.models.manifest(candidate.version).properties["labels"]
    # Whole products are held out: each with all of its three pictures.
    assert len(rows) == 3 * len(held_out) == counts["held_out"]
    assert counts["trained_on"] + counts["validation"] + counts["held_out"] == len(drawn)
    assert all(row["label"] == labels[row["image_key"]] for row in rows)
    found = np.mean([(row["polarity"] >= 0.5) == row["label"] for row in rows])
    assert candidate.evaluation.accuracy == pytest.approx(found)
    # The drawn strength is measured against, and what is kept is what is served.
    strengths = {picture.image_key: picture.strength for picture in drawn}
    assert [row["strength"] for row in rows] == pytest.approx([strengths[row["image_key"]] for row in rows], abs=1e-4)
    assert all(row["share"] == row["label"] for row in rows)
    assert [row["polarity"] for row in rows] == pytest.approx([1 / (1 + np.exp(-row["logit"])) for row in rows])
    strength = candidate.evaluation.strength
    assert strength is not None and strength.overall is not None and strength.overall.pictures == len(rows)
    kept = Calibration.from_dict(lake.models.manifest(candidate.version).properties["calibration"])
    assert predictor(lake, "cpu", model_version=candidate.version).calibration == kept


def test_labels_may_be_shares_of_raters(shop: tuple[Lake, list[DrawnPicture], Path]) -> None:
    lake, drawn, root = shop
    shares = {p.image_key: 0.5 + (p.strength if p.label else -p.strength) / 2 for p in drawn}
    lines = "".join(f"{key},{share}\n" for key, share in shares.items())
    (root / "shares.csv").write_text(f"image_key,label\n{lines}")
    candidate, _ = retrain(lake, root / "shares.csv", epochs=1)
    rows = pq.read_table(Path(root, "lake", lake.models.path(candidate.version, HELD_OUT))).to_pylist()
    assert all(row["share"] == shares[row["image_key"]] and row["label"] == (row["share"] >= 0.5) for row in rows)
    assert {row["strength"] for row in rows} == {None}
    error = np.mean([(row["polarity"] - row["share"]) ** 2 for row in rows])
    assert candidate.evaluation.brier == pytest.approx(error)
    assert candidate.evaluation.strength is not None  # by the shares themselves


def test_the_same_seed_gives_the_same_model(
    shop: tuple[Lake, list[DrawnPicture], Path], undisturbed: Candidate
) -> None:
    lake, _, root = shop
    second, _ = retrain(lake, root / "few.csv", epochs=4)

    def hashes(version: int) -> set[str]:
        return {record.sha256 for record in lake.models.manifest(version).files if "weights" in record.name}

    assert hashes(undisturbed.version) == hashes(second.version)


def test_one_class_only_is_refused_before_any_training(shop: tuple[Lake, list[DrawnPicture], Path]) -> None:
    lake, drawn, root = shop
    write_labels(root / "one.csv", [picture for picture in drawn if picture.label == 1])
    known = lake.models.known()
    with pytest.raises(LabelsUnusable, match="expected at least"):
        retrain(lake, root / "one.csv", epochs=1)
    assert lake.models.known() == known


def test_a_training_cut_off_is_taken_up_and_ends_with_the_same_model(
    shop: tuple[Lake, list[DrawnPicture], Path], undisturbed: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, _, root = shop
    epochs: list[int] = []

    def cut(report: EpochReport, _pictures: int) -> None:
        epochs.append(report.epoch)
        if len(epochs) == 3:
            raise KeyboardInterrupt

    train = functools.partial(training.train, checkpoint_every=1)
    monkeypatch.setattr(tasks.retrain.units, "train", train)
    monkeypatch.setattr(tasks.retrain.units, "_tell", cut)
    with pytest.raises(KeyboardInterrupt):
        retrain(lake, root / "few.csv", epochs=4)
    assert len(lake.store.names("checkpoints")) == 1
    again, _ = retrain(lake, root / "few.csv", epochs=4)
    assert epochs[3] > 1  # the first epochs were not done again
    assert lake.store.names("checkpoints") == []

    def weights(version: int) -> bytes:
        return lake.models.read(version, WEIGHTS)

    assert weights(again.version) == weights(undisturbed.version)


def test_a_models_evaluation_page_tells_its_verdict(
    shop: tuple[Lake, list[DrawnPicture], Path], judged: tuple[Candidate, Decision]
) -> None:
    lake, _, _ = shop
    candidate, decision = judged
    page = lake.models.read(candidate.version, PAGE).decode()
    assert page.startswith(("<!DOCTYPE html>", "<!doctype html>"))
    assert f"Model {candidate.version}" in page
    missing = [reason for reason in decision.reasons if escape(reason.split(":")[0]) not in page]
    assert missing == []


def test_a_forced_promotion_says_why_in_the_log_the_manifest_and_the_page(
    shop: tuple[Lake, list[DrawnPicture], Path],
) -> None:
    lake, drawn, root = shop
    write_labels(root / "forced.csv", drawn)
    before = lake.models.current()
    unreachable = GatePolicy(minimum_accuracy_above_majority=1.0)
    candidate, decision = retrain(lake, root / "forced.csv", epochs=1, policy=unreachable, force="a rehearsal")
    newest = lake.models.newest()
    assert newest is not None and newest.current == candidate.version
    assert newest.reason == "; ".join(("forced: a rehearsal", *decision.reasons))
    kept = lake.models.manifest(candidate.version).properties["decision"]
    assert kept == {"promote": True, "forced": "a rehearsal", "reasons": list(decision.reasons)}
    assert decision.reasons[0].startswith("accuracy: expected at least 1.")
    assert "a rehearsal" in lake.models.read(candidate.version, PAGE).decode()
    assert before is not None
    roll_back(lake, "models", before)
