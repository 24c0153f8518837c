"""From a plan to a published index version: train the codebook, encode shards, measure, publish.

Nothing is visible before the last step writes one log entry, which moves search and SQL together.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace

import numpy as np

from index.codebook import mean_coarse_distance, train_codebook, write_codebook
from index.deletions import write_deleted_rows
from index.description import DESCRIPTION, CodebookHistory, IndexDescription, render_description
from index.searching import Searcher
from index.shards import write_shard
from index.truth import Truth
from index.tuning import TunedSearch, tune
from lake import catalogue
from lake.errors import LakeError, ModelReplaced
from lake.lake import Lake
from lake.manifest import FileRecord
from lake.scratch import scratch
from tasks import progress
from tasks import shards as workspace
from tasks.errors import CountsDisagree
from tasks.rebuild.config import RebuildConfig
from tasks.rebuild.earlier_truth import earlier_truth, live_in_kept, write_truth
from tasks.rebuild.embeddings import read_embeddings
from tasks.rebuild.judged_rows import judged_rows
from tasks.rebuild.plan import IndexPlan, StoredShard
from tasks.rebuild.product_rates import ProductRates, product_rates
from tasks.rebuild.rows import MEMORY_LIMIT, read_live

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredCodebook:
    """The codebook that the version's shards are encoded with: its history and its file."""

    history: CodebookHistory
    record: FileRecord


@dataclass(frozen=True)
class MeasuredIndex:
    """What the gate found, and every file of the version."""

    tuned: TunedSearch | None  # None where there was nothing to measure
    rates: ProductRates | None
    codebook: CodebookHistory | None
    files: tuple[FileRecord, ...]


@dataclass(frozen=True)
class PublishedIndex:
    """The version that readers use from here on."""

    version: int
    rows: int
    recall_at_1: float | None  # None where there was nothing to measure
    recall_at_10: float | None
    latency_ms: float | None
    shards_kept: int = 0
    shards_written: int = 0
    bytes_written: int = 0
    rebuild_reason: str = ""  # why nothing of an earlier version served again
    rates: ProductRates | None = None  # None where no product shows several pictures


def draft_index(lake: Lake) -> int:
    """Claim the next index version."""
    return lake.indexes.draft().version


def train_index(lake: Lake, version: int, plan: IndexPlan, config: RebuildConfig) -> StoredCodebook | None:
    """The codebook of an earlier version, or a new one learnt on a bounded sample and written; None of a flat index."""
    if not plan.trains:
        if plan.codebook is None or plan.codebook_file is None:
            return None
        return StoredCodebook(plan.codebook, plan.codebook_file)
    with catalogue.workbench(lake, memory_limit=MEMORY_LIMIT) as sql:
        read_live(sql, plan.look_version)
        # Chosen by a hash of the key: a catalogue that grew trains on nearly the same pictures. And in the keys'
        # order: training must not depend on which file a row happens to lie in.
        sample = sql.execute(
            "SELECT url, row FROM (FROM live ORDER BY md5_number(image_key) LIMIT ?) ORDER BY image_key",
            [plan.spec.training_rows],
        ).to_arrow_table()
    vectors = read_embeddings(lake.store, sample, plan.spec.dimension)
    codebook = train_codebook(vectors, plan.spec, seed=config.index_seed)
    distance = mean_coarse_distance(codebook, vectors, plan.spec)
    with scratch() as folder:
        name = write_codebook(folder, codebook)
        record = lake.indexes.join(version).add_file(name, folder / name)
    return StoredCodebook(CodebookHistory(name, version, plan.rebuild_reason, len(vectors), distance), record)


def encode_shard(
    lake: Lake, version: int, plan: IndexPlan, shard: workspace.Shard, codebook: StoredCodebook | None
) -> StoredShard:
    """Encode the rows of one shard and write its files into the drafted version."""
    trained = None if codebook is None else lake.indexes.read_record(version, codebook.record)
    rows = workspace.read_shard(lake.store, shard)
    vectors = read_embeddings(lake.store, rows, plan.spec.dimension)
    with scratch() as folder:
        written = write_shard(folder, shard.number, vectors, rows.drop_columns(["url", "row"]), trained, plan.spec)
        names = written.files(plan.spec)
        files = tuple(lake.indexes.join(version).add_file(name, folder / name) for name in names)
    progress.advance(written.rows)
    return StoredShard(written, written.rows, files)


def measure_index(
    lake: Lake,
    version: int,
    plan: IndexPlan,
    codebook: StoredCodebook | None,
    encoded: list[StoredShard],
    config: RebuildConfig,
) -> MeasuredIndex:
    """Verify every file, tune the search on held-out queries and write index.json.

    Raises BelowTarget or CorruptFile: nothing is published.
    """
    draft = lake.indexes.join(version)
    with scratch() as folder:
        name = write_deleted_rows(folder, [np.flatnonzero(~live) for live in live_in_kept(lake, plan)])
        deleted = draft.add_file(name, folder / name)
    files = [file for shard in plan.kept for file in shard.files]
    files += [file for shard in encoded for file in shard.files]
    files += [deleted] if codebook is None else [deleted, codebook.record]
    description = IndexDescription(
        spec=plan.spec,
        rows=plan.rows,
        shards=tuple(each.shard for each in (*plan.kept, *encoded)),
        look_version=plan.look_version,
        fingerprint=plan.fingerprint,
        codebook=None if codebook is None else codebook.history,
        deleted=deleted.name,
    )
    tuned = rates = None
    directory = lake.indexes.fetch(version, config.cache, files)
    if plan.rows > 1:
        searcher = Searcher.open(directory, description)
        slices, filters = judged_rows(lake, plan, searcher)
        tuned = tune(
            searcher,
            config.recall_target,
            queries=config.recall_queries,
            seed=config.index_seed,
            slices=slices,
            filters=filters,
            start=plan.setting,
            earlier=earlier_truth(lake, plan),
        )
        files.append(write_truth(lake, version, tuned.truth))
        rates = product_rates(searcher, tuned.truth)
        description = _with_measures(description, searcher, tuned, is_new=plan.trains)
    files.append(draft.add(DESCRIPTION, render_description(description)))
    slim = None if tuned is None else replace(tuned, truth=Truth.empty())  # which lies in its file
    return MeasuredIndex(slim, rates, description.codebook, tuple(files))


def publish_index(
    lake: Lake, version: int, plan: IndexPlan, encoded: list[StoredShard], measured: MeasuredIndex
) -> PublishedIndex:
    """Seal the version and name it in the log. Raises CountsDisagree or LostRace: then nothing is published."""
    kept, written = sum(shard.live for shard in plan.kept), sum(shard.live for shard in encoded)
    if kept + written != plan.rows:
        raise CountsDisagree(
            f"indexing lost count: {plan.rows} pictures planned, but {kept} kept + {written} encoded; nothing was "
            "published, run it again"
        )
    draft = lake.indexes.join(version)
    for record in measured.files:
        draft.include(record)
    tuned = measured.tuned
    draft.seal(
        {
            "look_version": plan.look_version,
            "rows": plan.rows,
            "fingerprint": plan.fingerprint,
            "spec": asdict(plan.spec),
            "factory": plan.spec.factory_string(),
            "nprobe": None if tuned is None else tuned.nprobe,
            "rerank_factor": None if tuned is None else tuned.rerank_factor,
            "measured": {} if tuned is None else asdict(tuned.measured),
            "slices": {} if tuned is None else {name: asdict(recall) for name, recall in tuned.slices.items()},
            "filters": {} if tuned is None else {name: asdict(recall) for name, recall in tuned.filters.items()},
            "same_product": None if measured.rates is None else measured.rates.to_dict(),
            "base": plan.base,
            "shards_kept": len(plan.kept),
            "shards_written": len(encoded),
            "bytes_written": sum(file.size_bytes for file in measured.files if file.held_by(version) == version),
            "deleted": sum(kept.shard.rows - kept.live for kept in plan.kept),
            "codebook": None if measured.codebook is None else asdict(measured.codebook),
            "rebuild_reason": plan.rebuild_reason,
            "instead_of": plan.instead_of,
        }
    )
    _check_promoted(lake, plan)
    lake.indexes.append(
        "publish",
        version,
        based_on=plan.newest,
        relies_on=plan.base,
        reason=f"{plan.rows} pictures under look {plan.look_version}",
    )
    return published(lake, version)


def republish_index(lake: Lake, plan: IndexPlan) -> PublishedIndex:
    """Put an existing version with the same content back, by one log entry."""
    if plan.same_as is None:
        raise LakeError("no index version has this content")
    _check_promoted(lake, plan)
    lake.indexes.append("publish", plan.same_as, based_on=plan.newest, reason="the same content as before")
    return published(lake, plan.same_as)


def published(lake: Lake, version: int) -> PublishedIndex:
    """What a version's manifest says of it."""
    properties = lake.indexes.manifest(version).properties
    measured = properties["measured"]
    return PublishedIndex(
        version=version,
        rows=int(properties["rows"]),
        recall_at_1=measured.get("recall_at_1"),
        recall_at_10=measured.get("recall_at_10"),
        latency_ms=measured.get("latency_ms"),
        shards_kept=properties["shards_kept"],
        shards_written=properties["shards_written"],
        bytes_written=properties["bytes_written"],
        rebuild_reason=properties["rebuild_reason"],
        rates=rates_of(lake, version),
    )


def rates_of(lake: Lake, version: int) -> ProductRates | None:
    """How often an index version finds the query's product."""
    rates = lake.indexes.manifest(version).properties["same_product"]
    return None if rates is None else ProductRates(**rates)


def _with_measures(
    description: IndexDescription, searcher: Searcher, tuned: TunedSearch, *, is_new: bool
) -> IndexDescription:
    """The description with what was measured."""
    measured, codebook = tuned.measured, description.codebook
    if codebook is not None:
        imbalance = searcher.imbalance
        codebook = replace(codebook, imbalance=imbalance if is_new else codebook.imbalance, imbalance_now=imbalance)
    recall = {
        "recall_at_1": measured.recall_at_1,
        "recall_at_10": measured.recall_at_10,
        "recall_at_10_low": measured.recall_at_10_low,
    }
    return replace(
        description, nprobe=tuned.nprobe, rerank_factor=tuned.rerank_factor, recall=recall, codebook=codebook
    )


def _check_promoted(lake: Lake, plan: IndexPlan) -> None:
    """A look promoted or rolled back while the index was made must not be overruled by it."""
    promoted = lake.looks.current()
    if promoted != plan.promoted:
        raise replaced(promoted, plan.promoted)


def replaced(current: int | None, made_under: int | None) -> ModelReplaced:
    """The error of an index whose look is the current one no longer."""
    return ModelReplaced(
        f"look {current} was put in place of look {made_under} while the index was made; it was not published, run "
        "it again"
    )
