"""retrain-model: a candidate, its evaluation, the gate's decision, perhaps a new current model."""

from __future__ import annotations

from flows.on_prefect import stated
from flows.parameters import RetrainParameters
from flows.runners import prefect_runner
from tasks.retrain.stage import RetrainSummary


@stated("retrain-model")
def retrain_model(parameters: RetrainParameters = RetrainParameters()) -> RetrainSummary:  # noqa: B008 (never changed)
    """Train on the labels, judge the candidate on held-out pictures, promote or refuse it.

    Readers stay on the old pair until the whole catalogue is scored under the new model and its index published.
    """
    return parameters.run(prefect_runner(parameters.settings))
