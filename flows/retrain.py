"""retrain-model: a candidate, its evaluation, the gate's decision, perhaps a new current model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact

from flows import display
from flows.on_prefect import stated
from flows.parameters import RebuildParameters, RetrainParameters
from flows.rebuild import IndexSummary, counts_of_index, rebuild_index
from flows.running import running
from flows.score import ScoreSummary, counts_of_score, score_catalogue
from tasks.retrain.judging import PAGE
from tasks.retrain.labels import snapshot_labels
from tasks.retrain.units import Candidate, describe, record_decision, train_candidate


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
    index: IndexSummary | None = None

    def __str__(self) -> str:
        said = f"model {self.model_version} {'promoted' if self.promoted else 'refused'}: {'; '.join(self.reasons)}"
        return said if self.index is None else f"{said}; {self.index}"


@stated("retrain-model")
def retrain_model(parameters: RetrainParameters = RetrainParameters()) -> RetrainSummary:  # noqa: B008 (never changed)
    """Train on the labels, judge the candidate on held-out pictures, promote or refuse it.

    Readers stay on the old pair until the whole catalogue is scored under the new model and its index published.
    """
    labels, config = parameters.labels_uri, parameters.retrain_config()
    with running("retrain-model", parameters.lake_uri, source=labels, writes=False) as run:
        with run.stage("check the labels"):
            snapshot = snapshot_labels(run.lake, labels, run.run_id)
        with run.stage("train", snapshot.labelled):
            candidate = train_candidate(run.lake, snapshot, config, parameters.gate_policy(), parameters.force)
        decision = candidate.decision
        page = run.lake.store.url(run.lake.models.path(candidate.version, PAGE))
        _leave_evaluation(candidate, page)
        run.count(model_version=candidate.version)
        scored = indexed = None
        with run.writing(wait=True):  # hours of training are worth the wait, whoever asked for them
            record_decision(run.lake, candidate)
            if decision.promote and parameters.then_serve:
                scored = score_catalogue(parameters.score_parameters(candidate.version))
                indexed = rebuild_index(RebuildParameters(lake=parameters.lake, model_version=candidate.version))
                run.count(**counts_of_score(scored))
                run.count(**counts_of_index(indexed))
    return RetrainSummary(
        model_version=candidate.version,
        promoted=decision.promote,
        reasons=decision.reasons,
        evaluation=dict(describe(candidate)),
        labelled=snapshot.labelled,
        trained_on=candidate.trained_on,
        page=page,
        score=scored,
        index=indexed,
    )


def _leave_evaluation(candidate: Candidate, page: str) -> None:
    """The decision with its reasons, and where the evaluation page is, on the Prefect server."""
    verdict = "promoted" if candidate.decision.promote else "refused"
    reasons = "\n".join(f"- {reason}" for reason in candidate.decision.reasons)
    link = page if "://" in page else f"file://{page}"
    with display.best_effort():
        create_markdown_artifact(f"# Model {candidate.version}: {verdict}\n\n{reasons}\n", key="evaluation")
        create_link_artifact(link, link_text="evaluation.html", key="evaluation-page")
