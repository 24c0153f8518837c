"""Retrain: a candidate, its evaluation, the gate's decision, perhaps a new current model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lake.lake import Lake
from model.gate_policy import GatePolicy
from tasks.config import ModelChoice
from tasks.night import register_first_look
from tasks.retrain.config import RetrainConfig
from tasks.retrain.judging import PAGE
from tasks.retrain.labels import snapshot_labels
from tasks.retrain.units import Candidate, describe, record_decision, train_candidate
from tasks.runner import Runner
from tasks.runs import running
from tasks.score.config import ScoreConfig
from tasks.score.stage import ScoreSummary, score


@dataclass(frozen=True)
class RetrainSummary:
    """What was trained, how it did, and what was decided."""

    model_version: int
    promoted: bool
    reasons: tuple[str, ...]
    evaluation: dict[str, Any]
    labelled: int
    trained_on: int
    page: str  # URL of the evaluation
    score: ScoreSummary | None = None  # of the catalogue, after a promotion

    def __str__(self) -> str:
        said = f"model {self.model_version} {'promoted' if self.promoted else 'refused'}: {'; '.join(self.reasons)}"
        return said if self.score is None else f"{said}; {self.score}"


def retrain(
    lake: Lake,
    labels: str,
    config: RetrainConfig,
    runner: Runner,
    *,
    policy: GatePolicy | None = None,
    force: str | None = None,
    then: ScoreConfig | None = None,
) -> RetrainSummary:
    """Train on the labels, judge the candidate on held-out pictures, promote or refuse it.

    A candidate that the gate refuses is promoted all the same where `force` gives a reason. `then`: after a promotion
    the catalogue is scored, and readers stay on the old scores until that is done; what looks alike and the index are
    not touched. A lake without a look gets its first one. Raises LabelsError where the labels can't be used.
    """
    with running(lake, "retrain-model", runner, source=labels, writes=False) as run:
        with run.stage("check the labels"):
            snapshot = runner.call(snapshot_labels, lake, labels, run.run_id)
        look = lake.looks.current()
        if look is None:
            with run.writing(wait=True):
                look, _ = register_first_look(run, ModelChoice(default_weights=config.default_weights))
        with run.stage("train", snapshot.labelled):
            candidate = runner.call(train_candidate, lake, look, snapshot, config, policy or GatePolicy(), force)
        decision = candidate.decision
        page = lake.store.url(lake.models.path(candidate.version, PAGE))
        _show(runner, candidate, page)
        run.count(model_version=candidate.version)
        scored = None
        with run.writing(wait=True):  # hours of training are worth the wait, whoever asked for them
            runner.call(record_decision, run.lake, candidate)
            if decision.promote and then is not None:
                scored = score(run.lake, then, runner, model_version=candidate.version)
                run.count(**scored.counts())
    return RetrainSummary(
        model_version=candidate.version,
        promoted=decision.promote,
        reasons=decision.words,
        evaluation=dict(describe(candidate)),
        labelled=snapshot.labelled,
        trained_on=candidate.trained_on,
        page=page,
        score=scored,
    )


def _show(runner: Runner, candidate: Candidate, page: str) -> None:
    """The decision with its reasons, and where the evaluation page is."""
    verdict = "promoted" if candidate.decision.promote else "refused"
    reasons = "\n".join(f"- {reason}" for reason in candidate.decision.words)
    link = page if "://" in page else f"file://{page}"
    runner.show("evaluation", f"# Model {candidate.version}: {verdict}\n\n{reasons}\n", links={PAGE: link})
