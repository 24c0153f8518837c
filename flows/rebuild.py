"""rebuild-index: a published index version of every live picture, where anything changed."""

from __future__ import annotations

from flows.on_prefect import stated
from flows.parameters import RebuildParameters
from flows.runners import prefect_runner
from tasks.rebuild.stage import IndexSummary


@stated("rebuild-index")
def rebuild_index(parameters: RebuildParameters = RebuildParameters()) -> IndexSummary:  # noqa: B008 (never changed)
    """Encode the live pictures' embeddings, measure the search against exact search, publish by one log entry."""
    return parameters.run(prefect_runner(parameters.settings))
