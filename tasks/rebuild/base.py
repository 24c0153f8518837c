"""Which published index tonight's starts from: one with the very same content, or one whose parts still fit."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from index.description import DESCRIPTION, IndexDescription, IndexShard, parse_description
from index.errors import IndexingError
from index.spec import FLAT_ROWS, IndexSpec
from lake.errors import LakeError
from lake.lake import Lake
from lake.manifest import FileRecord, Manifest
from tasks.index_files import index_files

if TYPE_CHECKING:
    from tasks.rebuild.config import RebuildConfig
    from tasks.rebuild.plan import IndexPlan

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """A published version that tonight's is compared with."""

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
        """The files of one shard."""
        return tuple(record for path, record in self.files.items() if path.startswith(f"{shard.path}."))

    def key_urls(self, lake: Lake) -> list[str]:
        """Where the keys of each shard lie, for DuckDB."""
        records = [self.files[f"{shard.path}.keys.parquet"] for shard in self.description.shards]
        return [lake.store.url(lake.indexes.path(record.held_by(self.version), record.name)) for record in records]


def fingerprint(look: int, rows: int, content: int, spec: IndexSpec) -> str:
    """The name of exactly this content in exactly these parts."""
    return f"look {look}, {rows} pictures, content {content:x}, {json.dumps(asdict(spec))}"


def same_content(lake: Lake, plan: IndexPlan, content: int, config: RebuildConfig) -> tuple[int | None, set[int]]:
    """The newest whole version with this content, as exact as is asked for now; and newer ones that are damaged."""
    damaged: set[int] = set()
    for version, manifest in _readable(lake, reversed(lake.indexes.known())):
        properties = manifest.properties
        spec = IndexSpec.from_dict(properties["spec"])
        exact = properties["factory"] == "Flat" or properties["measured"]["recall_at_10_low"] >= config.recall_target
        same = properties["fingerprint"] == fingerprint(plan.look_version, plan.rows, content, spec)
        if same and exact and _fits(manifest, plan, config):
            if lake.indexes.is_whole(version, index_files(manifest)):
                return version, damaged
            damaged.add(version)
    return None, damaged


def choose_base(lake: Lake, plan: IndexPlan, config: RebuildConfig, damaged: set[int]) -> tuple[Base | None, str]:
    """The version to start from: the current one, or the newest that fits; or why there is none."""
    current = plan.newest.current if plan.newest is not None else None
    candidates = sorted(lake.indexes.known(), key=lambda version: (version == current, version), reverse=True)
    reasons = []
    for version, manifest in _readable(lake, iter(candidates)):
        if manifest.properties["look_version"] != plan.look_version:
            continue
        if not _fits(manifest, plan, config):
            parts = plan.spec.factory_string()
            reasons.append(f"{plan.rows} vectors want other parts than index {version} has: {parts}")
        elif version in damaged:
            reasons.append(f"index {version} is damaged")
        elif lost := lake.indexes.missing(version, index_files(manifest)):
            reasons.append(f"index {version} has lost {lost[0].path_from(version)}")
        elif (description := _description(lake, version)) is not None:
            return Base(version, manifest, description), ""
    return None, reasons[0] if reasons else f"no index of look {plan.look_version} was published yet"


def _readable(lake: Lake, versions: Iterator[int]) -> Iterator[tuple[int, Manifest]]:
    for version in versions:
        try:
            yield version, lake.indexes.manifest(version)
        except LakeError as error:
            logger.warning("index %d is passed over: %s", version, error)


def _description(lake: Lake, version: int) -> IndexDescription | None:
    try:
        return parse_description(lake.indexes.read(version, DESCRIPTION), f"index {version}")
    except (LakeError, IndexingError) as error:
        logger.warning("index %d is passed over: %s", version, error)
        return None


def may_compare_all(rows: int, config: RebuildConfig) -> bool:
    """Whether so few pictures are compared exhaustively where codes miss the target; not where a limit is set."""
    return config.flat_below is None and rows < FLAT_ROWS


def _fits(manifest: Manifest, plan: IndexPlan, config: RebuildConfig) -> bool:
    spec = IndexSpec.from_dict(manifest.properties["spec"])
    if (spec.dimension, spec.metric) != (plan.spec.dimension, plan.spec.metric):
        return False
    if manifest.properties["instead_of"] == config.index_kind and may_compare_all(plan.rows, config):
        return True
    return spec.serves(plan.rows, flat_below=config.flat_below, kind=config.index_kind)
