"""retrain-look: a look fitted to the shop's products, its comparison with the one in use, perhaps a new index."""

from __future__ import annotations

from flows.on_prefect import stated
from flows.parameters import RetrainLookParameters
from flows.runners import prefect_runner
from tasks.retrain_look.stage import RetrainLookSummary


@stated("retrain-look")
def retrain_look(
    parameters: RetrainLookParameters = RetrainLookParameters(),  # noqa: B008 (never changed)
) -> RetrainLookSummary:
    """Fit a projection to the shop's products, judge it on others, promote or refuse it, then embed and index.

    Search stays on the old look until the whole catalogue is embedded under the new one and its index published.
    """
    return parameters.run(prefect_runner(parameters.settings))
