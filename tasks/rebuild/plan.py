"""What tonight's index is made of: which shards of the last version serve again, and which rows need new ones.

The rows that live now are compared with the rows that the last version's shards hold, by their keys and contents
alone. Only vectors that no shard holds are read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from index.codebook import mean_coarse_distance
from index.description import CodebookHistory, IndexShard
from index.reuse import ShardCounts, ShardLimits, rows_a_shard, to_rewrite, why_train_again
from index.spec import IndexKind, IndexSpec
from lake import catalogue
from lake.lake import Lake
from lake.log import Entry
from lake.manifest import FileRecord, path_in
from tasks import shards as workspace
from tasks.looks import embedding_size
from tasks.rebuild import rows as compared
from tasks.rebuild.base import Base, choose_base, fingerprint, same_content
from tasks.rebuild.config import RebuildConfig
from tasks.rebuild.embeddings import read_embeddings

DRIFT_ROWS = 2048  # new rows whose distance to the centroids is looked at


@dataclass(frozen=True)
class StoredShard:
    """A shard whose files lie in the lake, of an earlier version or of the drafted one."""

    shard: IndexShard  # as the drafted version names it
    live: int  # of its rows
    files: tuple[FileRecord, ...]


@dataclass(frozen=True)
class IndexPlan:
    """What is to be built, or that nothing is."""

    look_version: int
    rows: int
    fingerprint: str
    spec: IndexSpec
    newest: Entry | None  # of the index log, when the plan was made
    promoted: int | None  # the look that was promoted then
    same_as: int | None = None  # an existing version with the very same content
    base: int | None = None  # the version that shards or the codebook are taken from
    kept: tuple[StoredShard, ...] = ()  # shards of earlier versions that serve again
    to_write: tuple[workspace.Shard, ...] = ()
    deleted: workspace.Shard | None = None  # rows of the kept shards
    codebook: CodebookHistory | None = None  # that serves again
    codebook_file: FileRecord | None = None
    setting: tuple[int, int] | None = None  # nprobe and rerank factor that served with it
    rebuild_reason: str = ""  # why nothing of an earlier version serves again; empty where something does
    instead_of: IndexKind | None = None  # codes that were asked for and missed the target, so that all is compared

    @property
    def is_current(self) -> bool:
        """Whether readers have this content already."""
        return self.same_as is not None and self.newest is not None and self.newest.current == self.same_as

    @property
    def trains(self) -> bool:
        """Whether a codebook is trained."""
        return self.spec.kind != "flat" and self.codebook is None

    @property
    def reuses(self) -> bool:
        """Whether files of an earlier version serve again."""
        return self.base is not None


def plan_index(
    lake: Lake, look_version: int, run_id: str, config: RebuildConfig, full_rebuild: str | None = None
) -> IndexPlan:
    """Compare what lives with what is published, and hand the rows without a shard to the workers.

    With `full_rebuild`, a reason, nothing of an earlier version is used. Raises LakeError where live pictures lack
    an embedding.
    """
    return _plan(lake, look_version, config, full_rebuild, run_id)


def preview_index(lake: Lake, look_version: int, config: RebuildConfig, full_rebuild: str | None = None) -> IndexPlan:
    """The plan; it writes nothing, and its references lead nowhere."""
    return _plan(lake, look_version, config, full_rebuild, None)


def _plan(lake: Lake, look: int, config: RebuildConfig, full_rebuild: str | None, run_id: str | None) -> IndexPlan:
    newest, promoted = lake.indexes.newest(), lake.looks.current()
    with catalogue.workbench(lake, memory_limit=compared.MEMORY_LIMIT) as sql:
        rows, content = compared.read_live(sql, look)
        spec = IndexSpec.for_catalogue(
            rows,
            embedding_size(lake, look),
            metric=config.index_metric,
            flat_below=config.flat_below,
            kind=config.index_kind,
        )
        plan = IndexPlan(look, rows, fingerprint(look, rows, content, spec), spec, newest, promoted)
        reason = full_rebuild or ""
        if not reason:
            same, damaged = same_content(lake, plan, content, config)
            if same is not None:
                return replace(plan, same_as=same)
            base, reason = choose_base(lake, plan, config, damaged)
            if base is not None:
                compared.read_held(sql, base.key_urls(lake))
                based, reason = _with_codebook(lake, sql, _based_on(plan, base, content), base)
                if not reason:
                    return _with_new_shards(lake, sql, _with_kept_shards(sql, based, base, config), config, run_id)
        compared.read_held(sql, [])
        compared.keep_shards(sql, [])
        return _with_new_shards(lake, sql, replace(plan, rebuild_reason=reason), config, run_id)


def _based_on(plan: IndexPlan, base: Base, content: int) -> IndexPlan:
    """The plan with the parts and the setting of the version that it starts from."""
    described = base.description
    return replace(
        plan,
        spec=described.spec,
        base=base.version,
        fingerprint=fingerprint(plan.look_version, plan.rows, content, described.spec),
        setting=(described.nprobe, described.rerank_factor),
        instead_of=base.manifest.properties["instead_of"],
    )


def _with_codebook(lake: Lake, sql: Any, plan: IndexPlan, base: Base) -> tuple[IndexPlan, str]:
    """The plan with the last version's codebook and what the new rows say of it; or why it serves no more."""
    history = base.description.codebook
    if history is None:
        return plan, ""
    record = base.files[history.path]
    count, sample = compared.sample_of_new(sql, DRIFT_ROWS)
    if count:
        vectors = read_embeddings(lake.store, sample, plan.spec.dimension)
        distance = mean_coarse_distance(lake.indexes.read_record(base.version, record), vectors, plan.spec)
        added = history.added_rows + count
        mean = (history.added_rows * history.added_distance + count * distance) / added
        history = replace(history, added_rows=added, added_distance=mean)
    history = replace(history, path=path_in(record.held_by(base.version), record.name))
    return replace(plan, codebook=history, codebook_file=record), why_train_again(history, plan.rows) or ""


def _with_kept_shards(sql: Any, plan: IndexPlan, base: Base, config: RebuildConfig) -> IndexPlan:
    """The plan with the shards that serve again, which `kept` then names."""
    live = compared.live_counts(sql)
    shards = base.description.shards
    counts = [ShardCounts(shard.rows, live.get(number, 0)) for number, shard in enumerate(shards)]
    rewritten = to_rewrite(counts, _limits(config))
    numbers = [number for number in range(len(shards)) if number not in rewritten and counts[number].live]
    compared.keep_shards(sql, numbers)
    kept = []
    for number in numbers:
        files = base.shard_files(shards[number])
        path = path_in(files[0].held_by(base.version), shards[number].path.rsplit("/", 1)[-1])
        kept.append(StoredShard(IndexShard(path, shards[number].rows), counts[number].live, files))
    return replace(plan, kept=tuple(kept))


def _with_new_shards(lake: Lake, sql: Any, plan: IndexPlan, config: RebuildConfig, run_id: str | None) -> IndexPlan:
    """The plan with the shards that are to be written, of the rows that no kept shard holds."""
    left = plan.rows - sum(shard.live for shard in plan.kept)
    each = max(1, rows_a_shard(left, _limits(config)))
    if run_id is None:
        sizes = [min(each, left - start) for start in range(0, left, each)]
        return replace(plan, to_write=tuple(workspace.Shard(number, "", rows) for number, rows in enumerate(sizes)))
    deleted = sql.execute(compared.DELETED).to_arrow_table()
    tables = workspace.in_tables(sql.execute(compared.TO_WRITE).to_arrow_reader(each), each)
    return replace(
        plan,
        to_write=tuple(
            workspace.write_shard(lake.store, run_id, "index", number, table) for number, table in enumerate(tables)
        ),
        deleted=workspace.write_shard(lake.store, run_id, "index-deleted", 0, deleted),
    )


def _limits(config: RebuildConfig) -> ShardLimits:
    return ShardLimits(config.shard_vectors, config.shard_deleted_share)
