"""Retrain the look: a projection fitted to the shop's products, judged, perhaps promoted; then a new index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lake.lake import Lake
from model.gate_policy import LookGatePolicy
from tasks.rebuild.config import RebuildConfig
from tasks.rebuild.stage import IndexSummary, rebuild
from tasks.retrain_look.config import RetrainLookConfig
from tasks.retrain_look.units import LookCandidate, record_look, train_look
from tasks.runner import Runner
from tasks.runs import running
from tasks.score.config import ScoreConfig
from tasks.score.stage import ScoreSummary, score


@dataclass(frozen=True)
class ServeConfig:
    """How the catalogue is embedded and indexed once a look is promoted."""

    score: ScoreConfig
    rebuild: RebuildConfig


@dataclass(frozen=True)
class RetrainLookSummary:
    """What was trained, how it found products, and what was decided."""

    look_version: int
    promoted: bool
    reasons: tuple[str, ...]
    evaluation: dict[str, Any]
    score: ScoreSummary | None = None  # of the catalogue, after a promotion
    index: IndexSummary | None = None

    def __str__(self) -> str:
        said = f"look {self.look_version} {'promoted' if self.promoted else 'refused'}: {'; '.join(self.reasons)}"
        return said if self.index is None else f"{said}; {self.index}"


def retrain_look(
    lake: Lake,
    config: RetrainLookConfig,
    runner: Runner,
    *,
    policy: LookGatePolicy | None = None,
    force: str | None = None,
    then: ServeConfig | None = None,
) -> RetrainLookSummary:
    """Fit a projection to products that show several pictures, judge it on other products, promote or refuse it.

    `then`: after a promotion the catalogue is embedded and indexed. Search stays on the old look until both are done;
    what the pictures make feel is not touched. Raises LabelsUnusable where too few products have several pictures.
    """
    with running(lake, "retrain-look", runner, writes=False) as run:
        with run.stage("train the look"):
            candidate = runner.call(train_look, lake, config, policy or LookGatePolicy(), force)
        _show(runner, candidate)
        run.count(look_version=candidate.version)
        scored = indexed = None
        with run.writing(wait=True):
            runner.call(record_look, run.lake, candidate)
            if candidate.decision.promote and then is not None:
                scored = score(run.lake, then.score, runner, look_version=candidate.version)
                indexed = rebuild(run.lake, then.rebuild, runner, look_version=candidate.version)
                run.count(**scored.counts())
                run.count(**indexed.counts())
    return RetrainLookSummary(
        look_version=candidate.version,
        promoted=candidate.decision.promote,
        reasons=candidate.decision.words,
        evaluation=candidate.evaluation,
        score=scored,
        index=indexed,
    )


def _show(runner: Runner, candidate: LookCandidate) -> None:
    """The decision with its reasons."""
    verdict = "promoted" if candidate.decision.promote else "refused"
    reasons = "\n".join(f"- {reason}" for reason in candidate.decision.words)
    runner.show("look", f"# Look {candidate.version}: {verdict}\n\n{reasons}\n")
