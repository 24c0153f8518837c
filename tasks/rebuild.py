"""From scores to a published index version: plan, train the quantizers, encode shards, measure, publish.

Nothing is visible before the last step writes one log entry, which moves search and SQL together.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from index.building import (
    DESCRIPTION,
    IndexDescription,
    train_quantizers,
    write_description,
    write_shard,
    write_trained,
)
from index.measuring import Tuned, tune
from index.searching import Searcher
from index.spec import IndexSpec, Metric
from lake import catalogue
from lake.errors import LakeError, LostRace
from lake.lake import Lake, open_lake
from lake.versions import Entry, FileRecord
from tasks import progress
from tasks.errors import CountsDisagree
from tasks.models import embedding_size
from tasks.units import unit

logger = logging.getLogger(__name__)

MEMORY_LIMIT = "4GB"

# md5 is no security here: it spells the same number on every machine, and XOR does not mind the order.
FINGERPRINT = """
    SELECT count(*), coalesce(bit_xor(md5_number(concat_ws(chr(0), image_key, sha256, coalesce(product_id, '')))), 0)
    FROM scores_of({model})
"""

KEY_COLUMNS = "image_key, product_id, sha256, polarity, label, positive_intensity, negative_intensity"


@dataclass(frozen=True)
class RebuildConfig:
    """How the index is made and what it must reach."""

    metric: Metric = "cosine"
    recall_target: float = 0.99  # of recall@10, its lower 95 % bound
    flat_below: int = 20_000  # vectors; fewer are searched exactly
    shard_vectors: int = 50_000
    queries: int = 1000  # held out to measure recall
    seed: int = 0


@dataclass(frozen=True)
class KeyRange:
    """One shard's keys, both ends included."""

    number: int
    first: str
    last: str
    rows: int


@dataclass(frozen=True)
class IndexPlan:
    """What is to be built, or that nothing is."""

    model_version: int
    rows: int
    fingerprint: str
    spec: IndexSpec
    shards: tuple[KeyRange, ...]
    newest: Entry | None  # of the index log, when the plan was made
    promoted: int | None  # the model that was promoted then
    same_as: int | None  # an existing version with the very same content

    @property
    def is_current(self) -> bool:
        """Whether readers have this content already."""
        return self.same_as is not None and self.newest is not None and self.newest.current == self.same_as


@dataclass(frozen=True)
class EncodedShard:
    """One shard's files inside the drafted version."""

    rows: int
    files: tuple[FileRecord, ...]


@dataclass(frozen=True)
class PublishedIndex:
    """The version that readers use from here on."""

    version: int
    rows: int
    recall_at_1: float | None  # None where there was nothing to measure
    recall_at_10: float | None
    latency_ms: float | None


@unit
def plan_index(lake_uri: str, model_version: int, config: RebuildConfig) -> IndexPlan:
    """Compare what is live with what is published. Raises LakeError where live pictures lack a score."""
    return preview_index(open_lake(lake_uri), model_version, config)


def preview_index(lake: Lake, model_version: int, config: RebuildConfig) -> IndexPlan:
    """The plan; it writes nothing."""
    newest = lake.indexes.newest()
    with catalogue.workbench(lake, memory_limit=MEMORY_LIMIT) as sql:
        rows, content = _one(sql, FINGERPRINT.format(model=int(model_version)))
        (live,) = _one(sql, "SELECT count(*) FROM images")
        if rows != live:
            raise LakeError(
                f"{live - rows} of {live} live pictures have no score under model {model_version}: "
                "run `vitrine score` first"
            )
        shards = tuple(_ranges(sql, rows, config)) if rows else ()
    spec = IndexSpec.for_catalogue(
        rows,
        embedding_size(lake, model_version),
        metric=config.metric,
        flat_below=config.flat_below,
    )
    fingerprint = f"model {model_version}, {rows} pictures, content {content:x}, {json.dumps(asdict(spec))}"
    return IndexPlan(
        model_version=model_version,
        rows=rows,
        fingerprint=fingerprint,
        spec=spec,
        shards=shards,
        newest=newest,
        promoted=lake.models.current(),
        same_as=_same(lake, fingerprint, config),
    )


@unit
def draft_index(lake_uri: str) -> int:
    """Claim the next index version."""
    return open_lake(lake_uri).indexes.draft().version


@unit
def train_index(lake_uri: str, version: int, plan: IndexPlan, config: RebuildConfig) -> tuple[FileRecord, ...]:
    """Learn the quantizers on a bounded sample and write the empty trained index; nothing for a flat index."""
    if plan.spec.kind == "flat":
        return ()
    lake = open_lake(lake_uri)
    with catalogue.workbench(lake, memory_limit=MEMORY_LIMIT) as sql:
        # Chosen by a hash of the key: a catalogue that grew trains on nearly the same pictures.
        sql.execute(
            "CREATE TEMP TABLE sample AS FROM (SELECT image_key FROM images) ORDER BY md5_number(image_key) LIMIT ?",
            [plan.spec.training_rows],
        )
        # In the keys' order: training must not depend on which file a row happens to lie in.
        query = (
            f"SELECT embedding FROM scores_of({int(plan.model_version)}) SEMI JOIN sample USING (image_key) "
            "ORDER BY image_key"
        )
        vectors = _matrix(sql.execute(query).to_arrow_table(), plan.spec.dimension)
    with tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
        name = write_trained(Path(folder), train_quantizers(vectors, plan.spec, seed=config.seed))
        return (lake.indexes.join(version).add_file(name, Path(folder, name)),)


@unit
def encode_shard(
    lake_uri: str, version: int, plan: IndexPlan, shard: KeyRange, trained: tuple[FileRecord, ...]
) -> EncodedShard:
    """Encode one range of keys and write its files into the drafted version."""
    lake = open_lake(lake_uri)
    quantizers = lake.store.get(lake.indexes.path(version, trained[0].name)) if trained else None
    with catalogue.workbench(lake, memory_limit=MEMORY_LIMIT) as sql:
        query = (
            f"SELECT {KEY_COLUMNS}, embedding FROM scores_of({int(plan.model_version)}) "
            "WHERE image_key BETWEEN ? AND ? ORDER BY image_key"
        )
        rows = sql.execute(query, [shard.first, shard.last]).to_arrow_table()
    vectors = _matrix(rows, plan.spec.dimension)
    with tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
        written = write_shard(
            Path(folder), shard.number, vectors, rows.drop_columns(["embedding"]), quantizers, plan.spec
        )
        files = tuple(lake.indexes.join(version).add_file(name, Path(folder, name)) for name in written.files)
    progress.advance(written.rows)
    return EncodedShard(written.rows, files)


@unit
def measure_index(
    lake_uri: str, version: int, plan: IndexPlan, files: tuple[FileRecord, ...], config: RebuildConfig
) -> tuple[Tuned | None, FileRecord]:
    """Tune the search on held-out queries and write index.json. Raises BelowTarget: nothing is published."""
    lake = open_lake(lake_uri)
    description = IndexDescription(plan.spec, plan.rows, len(plan.shards), plan.model_version, plan.fingerprint)
    with _assembled(lake, version, files) as directory:
        write_description(directory, description)
        tuned = None
        if plan.rows > 1:
            tuned = tune(Searcher.open(directory), config.recall_target, queries=config.queries, seed=config.seed)
            found = tuned.measured
            recall = {
                "recall_at_1": found.recall_at_1,
                "recall_at_10": found.recall_at_10,
                "recall_at_10_low": found.recall_at_10_low,
            }
            description = replace(description, nprobe=tuned.nprobe, rerank_factor=tuned.rerank_factor, recall=recall)
            write_description(directory, description)
        return tuned, lake.indexes.join(version).add(DESCRIPTION, (directory / DESCRIPTION).read_bytes())


@unit
def publish_index(
    lake_uri: str,
    version: int,
    plan: IndexPlan,
    shards: list[EncodedShard],
    files: tuple[FileRecord, ...],
    tuned: Tuned | None,
) -> PublishedIndex:
    """Seal the version and name it in the log. Raises CountsDisagree or LostRace: then nothing is published."""
    rows = sum(shard.rows for shard in shards)
    if rows != plan.rows:
        raise CountsDisagree(
            f"indexing lost count: {plan.rows} pictures planned, {rows} encoded; nothing was published, run it again"
        )
    lake = open_lake(lake_uri)
    draft = lake.indexes.join(version)
    for record in files:
        draft.include(record)
    measured = {} if tuned is None else asdict(tuned.measured)
    draft.seal(
        {
            "model_version": plan.model_version,
            "rows": rows,
            "fingerprint": plan.fingerprint,
            "spec": asdict(plan.spec),
            "factory": plan.spec.factory_string(),
            "nprobe": None if tuned is None else tuned.nprobe,
            "rerank_factor": None if tuned is None else tuned.rerank_factor,
            "measured": measured,
        }
    )
    _check_promoted(lake, plan)
    lake.indexes.append(
        "publish", version, based_on=plan.newest, reason=f"{rows} pictures under model {plan.model_version}"
    )
    return published(lake, version)


@unit
def republish_index(lake_uri: str, plan: IndexPlan) -> PublishedIndex:
    """Put an existing version with the same content back, by one log entry."""
    if plan.same_as is None:
        raise LakeError("no index version has this content")
    lake = open_lake(lake_uri)
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
    )


def _ranges(sql: Any, rows: int, config: RebuildConfig) -> Iterator[KeyRange]:
    """The live keys in order, cut into shards of nearly equal size."""
    count = -(-rows // config.shard_vectors)
    query = """
        SELECT shard, min(image_key), max(image_key), count(*)
        FROM (SELECT image_key, ntile(?) OVER (ORDER BY image_key) - 1 AS shard FROM images)
        GROUP BY shard ORDER BY shard
    """
    for number, first, last, held in sql.execute(query, [count]).fetchall():
        yield KeyRange(int(number), first, last, int(held))


def _same(lake: Lake, fingerprint: str, config: RebuildConfig) -> int | None:
    """The newest published version with this fingerprint that is whole and as exact as is asked for now."""
    known = lake.indexes.known()
    for version in reversed(known):
        try:
            properties = lake.indexes.manifest(version).properties
        except LakeError as error:
            logger.warning("index %d is passed over: %s", version, error)
            continue
        exact = properties["factory"] == "Flat" or properties["measured"]["recall_at_10_low"] >= config.recall_target
        if properties["fingerprint"] == fingerprint and exact and lake.indexes.is_whole(version):
            return version
    return None


def _check_promoted(lake: Lake, plan: IndexPlan) -> None:
    """A model promoted or rolled back while the index was made must not be overruled by it."""
    promoted = lake.models.current()
    if promoted != plan.promoted:
        raise LostRace(
            f"model {promoted} was put in place of model {plan.promoted} while the index was made; it was not "
            "published, run it again"
        )


def _matrix(rows: pa.Table, dimension: int) -> np.ndarray:
    """The embeddings as float32, one row a picture."""
    values = pa.chunked_array(rows["embedding"]).combine_chunks()
    flat = values.flatten() if isinstance(values, pa.Array) else pa.concat_arrays(values.chunks).flatten()
    matrix: np.ndarray = flat.to_numpy(zero_copy_only=False).reshape(-1, dimension)
    return matrix


@contextmanager
def _assembled(lake: Lake, version: int, files: tuple[FileRecord, ...]) -> Iterator[Path]:
    """A local directory with the drafted files: links in a local lake, copies otherwise."""
    with tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
        for record in files:
            path, target = lake.indexes.path(version, record.name), Path(folder, record.name)
            if lake.store.directory is not None:
                target.symlink_to(lake.store.directory / path)
            else:
                target.write_bytes(lake.store.get(path))
        yield Path(folder)


def _one(sql: Any, query: str) -> tuple[Any, ...]:
    found: tuple[Any, ...] = sql.execute(query).fetchone()
    return found
