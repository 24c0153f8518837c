"""score-catalogue: rows in `scores` for the pictures that a model has not seen."""

from __future__ import annotations

from flows.on_prefect import stated
from flows.parameters import ScoreParameters
from flows.runners import prefect_runner
from tasks.score.stage import ScoreSummary


@stated("score-catalogue")
def score_catalogue(parameters: ScoreParameters = ScoreParameters()) -> ScoreSummary:  # noqa: B008 (never changed)
    """Score every live picture whose content the model has not scored, and commit in one transaction."""
    return parameters.run(prefect_runner(parameters.settings))
