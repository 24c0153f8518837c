"""Which rows of an index the gate looks at by themselves: as queries, and as what a filter keeps."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from index.arrays import Mask
from index.searching import Searcher
from lake.lake import Lake
from tasks.models import HELD_OUT
from tasks.rebuild.plan import IndexPlan
from tasks.search.feelings import read_feelings

TAIL = 0.1  # of the pictures, at both ends of polarity


def judged_rows(lake: Lake, plan: IndexPlan, searcher: Searcher) -> tuple[dict[str, Mask], dict[str, Mask]]:
    """Rows whose recall is judged by itself, and rows that a search is limited to; one bool a row of the index each.

    By itself is judged what no earlier version held. Searches are limited to both ends of the serving polarity. Each
    category that labels name stands in both.
    """
    kept = sum(shard.live for shard in plan.kept)
    new = {"newly encoded": np.arange(len(searcher)) >= kept} if kept else {}
    categories = _categories(lake, searcher)
    return new | categories, categories | _ends_of_polarity(lake, searcher)


def _categories(lake: Lake, searcher: Searcher) -> dict[str, Mask]:
    labelled = lake.models.current()
    if labelled is None or searcher.spec.kind == "flat":
        return {}
    if HELD_OUT not in {file.name for file in lake.models.manifest(labelled).files}:
        return {}
    held_out = pq.read_table(pa.BufferReader(lake.models.read(labelled, HELD_OUT)))
    keys, found = searcher.table["image_key"], {}
    for category in pc.unique(held_out["category"].drop_null()).to_pylist():
        of_it = held_out.filter(pc.equal(held_out["category"], category))["image_key"]
        found[f"category {category}"] = pc.is_in(keys, value_set=of_it.combine_chunks()).to_numpy()
    return found


def _ends_of_polarity(lake: Lake, searcher: Searcher) -> dict[str, Mask]:
    serving = lake.serving_model()
    if serving is None or searcher.spec.kind == "flat":
        return {}
    polarity = read_feelings(lake, searcher, serving).points[:, 0]
    if not np.isfinite(polarity).any():
        return {}
    low, high = np.nanquantile(polarity, [TAIL, 1 - TAIL])
    return {f"polarity from {high:.3f}": polarity >= high, f"polarity to {low:.3f}": polarity <= low}
