"""What tonight's index is made of: which shards of the last version serve again, and which rows need new ones.

The rows that live now are compared with the rows that the last version's shards hold, by their keys and contents
alone. Only vectors that no shard holds are read.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from index.codebook import mean_coarse_distance
from index.description import DESCRIPTION, CodebookHistory, IndexDescription, IndexShard, parse_description
from index.errors import IndexingError
from index.reuse import ShardCounts, ShardLimits, rows_a_shard, to_rewrite, why_train_again
from index.spec import IndexKind, IndexSpec, Metric
from lake import catalogue
from lake.errors import LakeError
from lake.lake import Lake
from lake.versions import Entry, FileRecord, Manifest, path_in
from tasks import shards as workspace
from tasks.index_files import index_files
from tasks.models import embedding_size
from tasks.rebuild.embeddings import read_embeddings

logger = logging.getLogger(__name__)

MEMORY_LIMIT = "4GB"
DRIFT_ROWS = 2048  # new rows whose distance to the centroids is looked at
KEY_COLUMNS = "image_key, product_id, sha256, polarity, label, positive_intensity, negative_intensity"

# md5 is no security here: it spells the same number on every machine, and XOR does not mind the order.
LIVE = """
    CREATE TEMP TABLE live AS FROM located_scores_of({model});
"""
CONTENT = """
    SELECT count(*), coalesce(bit_xor(md5_number(concat_ws(chr(0), image_key, sha256, coalesce(product_id, '')))), 0)
    FROM live
"""
# The rows of the last version's shards, masked ones too: a picture that comes back finds its row again.
HELD = """
    CREATE OR REPLACE TEMP TABLE held AS
    SELECT files.shard, stored.file_row_number AS row, image_key, sha256, product_id
    FROM read_parquet({urls}, filename = true, file_row_number = true) AS stored JOIN files USING (filename)
"""
ALIVE = """
    CREATE OR REPLACE TEMP TABLE alive AS
    SELECT image_key, place.shard AS shard, place.row AS row
    FROM (SELECT live.image_key, min({'shard': held.shard, 'row': held.row}) AS place
          FROM held JOIN live ON held.image_key = live.image_key AND held.sha256 = live.sha256
               AND held.product_id IS NOT DISTINCT FROM live.product_id
          GROUP BY live.image_key)
"""
TO_WRITE = """
    FROM live ANTI JOIN (FROM alive SEMI JOIN kept USING (shard)) USING (image_key) ORDER BY url, row, image_key
"""
MASKED = """
    SELECT kept.number::INTEGER AS shard, row::INTEGER AS row
    FROM held JOIN kept USING (shard) ANTI JOIN alive ON held.shard = alive.shard AND held.row = alive.row
    ORDER BY 1, 2
"""


@dataclass(frozen=True)
class RebuildConfig:
    """How the index is made and what it must reach."""

    metric: Metric = "cosine"
    kind: IndexKind = "ivfpq"  # of an index above `flat_below`
    recall_target: float = 0.99  # of recall@10, its lower 95 % bound
    flat_below: int = 20_000  # vectors; fewer are searched exactly
    shard_vectors: int = 50_000
    masked_share: float = 0.2  # of a shard's rows; more, and it is written anew
    queries: int = 1000  # held out to measure recall
    seed: int = 0
    cache: Path | None = None  # where a remote lake's shards are kept to be measured; None: nowhere

    @property
    def limits(self) -> ShardLimits:
        """When a shard is written anew."""
        return ShardLimits(self.shard_vectors, self.masked_share)


@dataclass(frozen=True)
class KeptShard:
    """A shard of an earlier version that serves again."""

    holder: int  # the version whose folder holds it
    path: str  # of its files without their endings, in that folder
    rows: int
    live: int
    files: tuple[FileRecord, ...]

    @property
    def in_folder(self) -> str:
        """Its path from any other version's folder."""
        return path_in(self.holder, self.path)


@dataclass(frozen=True)
class IndexPlan:
    """What is to be built, or that nothing is."""

    model_version: int
    rows: int
    fingerprint: str
    spec: IndexSpec
    newest: Entry | None  # of the index log, when the plan was made
    promoted: int | None  # the model that was promoted then
    same_as: int | None = None  # an existing version with the very same content
    base: int | None = None  # the version that shards or quantizers are taken from
    kept: tuple[KeptShard, ...] = ()
    to_write: tuple[workspace.Shard, ...] = ()
    masked: workspace.Shard | None = None  # rows of the kept shards
    codebook: CodebookHistory | None = None  # that serves again
    trained: FileRecord | None = None  # its file
    setting: tuple[int, int] | None = None  # nprobe and rerank factor that served with it
    afresh: str = ""  # why nothing of an earlier version serves again; empty where something does

    @property
    def is_current(self) -> bool:
        """Whether readers have this content already."""
        return self.same_as is not None and self.newest is not None and self.newest.current == self.same_as

    @property
    def trains(self) -> bool:
        """Whether quantizers are trained."""
        return self.spec.kind != "flat" and self.codebook is None

    @property
    def reuses(self) -> bool:
        """Whether files of an earlier version serve again."""
        return self.base is not None


@dataclass(frozen=True)
class _Base:
    """The version that tonight's is compared with."""

    version: int
    manifest: Manifest
    description: IndexDescription

    @property
    def files(self) -> dict[str, FileRecord]:
        """The files by their paths, as `description` names them, each with the version that holds it."""
        return {
            record.path_from(self.version): replace(record, stored_in=record.held_by(self.version))
            for record in self.manifest.files
        }

    def shard_files(self, shard: IndexShard) -> tuple[FileRecord, ...]:
        return tuple(record for path, record in self.files.items() if path.startswith(f"{shard.path}."))


def plan_index(
    lake: Lake, model_version: int, run_id: str, config: RebuildConfig, afresh: str | None = None
) -> IndexPlan:
    """Compare what lives with what is published, and hand the rows without a shard to the workers.

    With `afresh`, a reason, nothing of an earlier version is used. Raises LakeError where live pictures lack a
    score.
    """
    return _plan(lake, model_version, config, afresh, run_id)


def preview_index(lake: Lake, model_version: int, config: RebuildConfig, afresh: str | None = None) -> IndexPlan:
    """The plan; it writes nothing, and its references lead nowhere."""
    return _plan(lake, model_version, config, afresh, None)


def _plan(lake: Lake, model: int, config: RebuildConfig, afresh: str | None, run_id: str | None) -> IndexPlan:
    newest, promoted = lake.indexes.newest(), lake.models.current()
    with catalogue.workbench(lake, memory_limit=MEMORY_LIMIT) as sql:
        rows, content = _read_live(sql, model)
        wanted = IndexSpec.for_catalogue(
            rows,
            embedding_size(lake, model),
            metric=config.metric,
            flat_below=config.flat_below,
            kind=config.kind,
        )
        plan = IndexPlan(model, rows, _fingerprint(model, rows, content, wanted), wanted, newest, promoted)
        if afresh is None:
            same = _same(lake, plan, content, config)
            if any(same.values()):
                return replace(plan, same_as=next(version for version, is_whole in same.items() if is_whole))
            base, afresh = _base(lake, plan, config, damaged=set(same))
        else:
            base = None
        if base is not None:
            spec = base.description.spec
            fingerprint = _fingerprint(model, rows, content, spec)
            described = base.description
            based = replace(plan, spec=spec, base=base.version, fingerprint=fingerprint)
            based = replace(based, setting=(described.nprobe, described.rerank_factor))
            based, afresh = _with_codebook(lake, sql, based, base)
            if not afresh:
                return _with_shards(lake, sql, based, base, config, run_id)
        return _with_shards(lake, sql, replace(plan, afresh=afresh), None, config, run_id)


def _read_live(sql: Any, model: int) -> tuple[int, int]:
    """Bring the live rows into the table `live`; how many, and a number for their content."""
    sql.execute(LIVE.format(model=int(model)))
    rows, content = _one(sql, CONTENT)
    (live,) = _one(sql, "SELECT count(*) FROM images")
    if rows != live:
        raise LakeError(
            f"{live - rows} of {live} live pictures have no score under model {model}: run `vitrine score` first"
        )
    return int(rows), int(content)


def _fingerprint(model: int, rows: int, content: int, spec: IndexSpec) -> str:
    return f"model {model}, {rows} pictures, content {content:x}, {json.dumps(asdict(spec))}"


def _same(lake: Lake, plan: IndexPlan, content: int, config: RebuildConfig) -> dict[int, bool]:
    """The published versions with this content, as exact as is asked for now: newest first, up to a whole one."""
    found: dict[int, bool] = {}
    for version in reversed(lake.indexes.known()):
        try:
            manifest = lake.indexes.manifest(version)
        except LakeError as error:
            logger.warning("index %d is passed over: %s", version, error)
            continue
        properties = manifest.properties
        spec = _spec_of(properties)
        exact = properties["factory"] == "Flat" or properties["measured"]["recall_at_10_low"] >= config.recall_target
        same = properties["fingerprint"] == _fingerprint(plan.model_version, plan.rows, content, spec)
        if same and exact and _serves(spec, plan, config):
            found[version] = lake.indexes.is_whole(version, index_files(manifest))
            if found[version]:
                break
    return found


def _base(lake: Lake, plan: IndexPlan, config: RebuildConfig, damaged: set[int]) -> tuple[_Base | None, str]:
    """The version to start from: the current one, or the newest that fits; or why there is none."""
    known = lake.indexes.known()
    current = plan.newest.current if plan.newest is not None else None
    candidates = sorted(known, key=lambda version: (version == current, version), reverse=True)
    reasons = []
    for version in candidates:
        try:
            manifest = lake.indexes.manifest(version)
            if manifest.properties["model_version"] != plan.model_version:
                continue
            if not _serves(_spec_of(manifest.properties), plan, config):
                parts = plan.spec.factory_string()
                reasons.append(f"{plan.rows} vectors want other parts than index {version} has: {parts}")
                continue
            description = parse_description(lake.indexes.read(version, DESCRIPTION), f"index {version}")
        except (LakeError, IndexingError) as error:
            logger.warning("index %d is passed over: %s", version, error)
            continue
        if version in damaged:
            reasons.append(f"index {version} is damaged")
        elif lost := lake.indexes.missing(version, index_files(manifest)):
            reasons.append(f"index {version} has lost {lost[0].path_from(version)}")
        else:
            return _Base(version, manifest, description), ""
    return None, reasons[0] if reasons else f"no index of model {plan.model_version} was published yet"


def _spec_of(properties: Any) -> IndexSpec:
    return IndexSpec.from_dict(properties["spec"])


def _serves(spec: IndexSpec, plan: IndexPlan, config: RebuildConfig) -> bool:
    same = (spec.dimension, spec.metric) == (plan.spec.dimension, plan.spec.metric)
    return same and spec.serves(plan.rows, flat_below=config.flat_below, kind=config.kind)


def _with_codebook(lake: Lake, sql: Any, plan: IndexPlan, base: _Base) -> tuple[IndexPlan, str]:
    """The plan with the last version's quantizers and what the new rows say of them; or why they serve no more."""
    _read_held(lake, sql, base)
    codebook = base.description.codebook
    if codebook is None:
        return plan, ""
    record = base.files[codebook.path]
    new = "(FROM live ANTI JOIN (SELECT image_key FROM alive) USING (image_key))"
    (count,) = _one(sql, f"SELECT count(*) FROM {new}")
    if count:
        sample = sql.execute(
            f"SELECT url, row FROM {new} ORDER BY md5_number(image_key) LIMIT {DRIFT_ROWS}"
        ).to_arrow_table()
        vectors = read_embeddings(lake.store, sample, plan.spec.dimension)
        distance = mean_coarse_distance(lake.indexes.read_record(base.version, record), vectors, plan.spec)
        added = codebook.added_rows + count
        mean = (codebook.added_rows * codebook.added_distance + count * distance) / added
        codebook = replace(codebook, added_rows=added, added_distance=mean)
    codebook = replace(codebook, path=path_in(record.held_by(base.version), record.name))
    return replace(plan, codebook=codebook, trained=record), why_train_again(codebook, plan.rows) or ""


def _read_held(lake: Lake, sql: Any, base: _Base) -> None:
    """Bring the rows of the base's shards into `held`, and those of them that live on into `alive`."""
    urls = []
    for shard in base.description.shards:
        record = base.files[f"{shard.path}.keys.parquet"]
        urls.append(lake.store.url(lake.indexes.path(record.held_by(base.version), record.name)))
    files = pa.table({"filename": pa.array(urls, pa.string()), "shard": pa.array(range(len(urls)), pa.int32())})
    sql.register("files", files)
    sql.execute(HELD.format(urls=catalogue.listed(urls)) if urls else _NOTHING_HELD)
    sql.execute(ALIVE)
    sql.unregister("files")


_NOTHING_HELD = (
    "CREATE OR REPLACE TEMP TABLE held (shard INTEGER, row BIGINT, image_key TEXT, sha256 TEXT, product_id TEXT)"
)


def _with_shards(
    lake: Lake, sql: Any, plan: IndexPlan, base: _Base | None, config: RebuildConfig, run_id: str | None
) -> IndexPlan:
    """The plan with the shards that serve again and those that are to be written."""
    if base is None:
        sql.execute(_NOTHING_HELD)
        sql.execute(ALIVE)
        kept: tuple[KeptShard, ...] = ()
        numbers: list[int] = []
    else:
        kept, numbers = _kept(sql, base, config)
    renumbered = {"shard": pa.array(numbers, pa.int32()), "number": pa.array(range(len(numbers)), pa.int32())}
    sql.register("kept", pa.table(renumbered))
    left = plan.rows - sum(shard.live for shard in kept)
    each = max(1, rows_a_shard(left, config.limits))
    if run_id is None:
        sizes = [min(each, left - start) for start in range(0, left, each)]
        shards = [workspace.Shard(number, "", rows) for number, rows in enumerate(sizes)]
        return replace(plan, kept=kept, to_write=tuple(shards))
    masked = workspace.write_shard(lake.store, run_id, "index-masked", 0, sql.execute(MASKED).to_arrow_table())
    rows = sql.execute(f"SELECT {KEY_COLUMNS}, url, row FROM ({TO_WRITE})").to_arrow_reader(each)
    tables = workspace.in_tables(rows, each)
    shards = [workspace.write_shard(lake.store, run_id, "index", number, rows) for number, rows in enumerate(tables)]
    return replace(plan, kept=kept, to_write=tuple(shards), masked=masked)


def _kept(sql: Any, base: _Base, config: RebuildConfig) -> tuple[tuple[KeptShard, ...], list[int]]:
    live = dict(sql.execute("SELECT shard, count(*) FROM alive GROUP BY shard").fetchall())
    shards = base.description.shards
    held = [ShardCounts(shard.rows, int(live.get(number, 0))) for number, shard in enumerate(shards)]
    rewritten = to_rewrite(held, config.limits)
    numbers = [number for number in range(len(shards)) if number not in rewritten and held[number].live]
    kept = []
    for number in numbers:
        files = base.shard_files(shards[number])
        holder = files[0].held_by(base.version)
        path = shards[number].path.rsplit("/", 1)[-1]
        kept.append(KeptShard(holder, path, held[number].rows, held[number].live, files))
    return tuple(kept), numbers


def _one(sql: Any, query: str) -> tuple[Any, ...]:
    found: tuple[Any, ...] = sql.execute(query).fetchone()
    return found
