"""What the lake holds, what is current, how the last run went. Reads; starts nothing."""

from __future__ import annotations

from typing import Any

from lake import catalogue
from lake.lake import Lake
from lake.lease import held_by
from lake.places import CATALOGUE
from lake.presence import is_at_work

LAST_RUN = """
    SELECT flow, status, error, started_at, finished_at, listed, unchanged, ingested, rejected, failed, deleted,
           embedded, scored, published
    FROM runs WHERE parent_run_id IS NULL ORDER BY started_at DESC LIMIT 1
"""


def read_status(lake: Lake) -> dict[str, Any]:
    """The lake in one dictionary, the same for people and programs."""
    serving = lake.serving()
    writer = held_by(lake.store)
    with catalogue.connect(lake) as sql:
        counts = _one(
            sql,
            """
            SELECT (SELECT count(*) FROM images) AS pictures, (SELECT count(*) FROM rejected) AS rejected,
                   (SELECT count(*) FROM embeddings) AS embedded, (SELECT count(*) FROM scores) AS scored,
                   (SELECT count(DISTINCT product_id) FROM images) AS products
            """,
        )
        last_run = _one(sql, LAST_RUN)
    return {
        "lake": lake.uri,
        "catalogue": lake.store.url(CATALOGUE),
        **(counts or {}),
        "promoted_look": lake.looks.current(),
        "promoted_model": lake.models.current(),
        "serving_look": serving.look_version,
        "serving_index": serving.index_version,
        "serving_model": serving.model_version or "none was trained yet: polarity is unknown",
        "writing": str(writer) if writer is not None and is_at_work(lake.store, writer) else "nobody",
        "last_run": last_run,
    }


def _one(sql: Any, query: str) -> dict[str, Any] | None:
    rows = sql.execute(query).to_arrow_table().to_pylist()
    return rows[0] if rows else None
