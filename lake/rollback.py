"""Putting an earlier version back, by one log entry that moves every reader."""

from __future__ import annotations

from dataclasses import dataclass

from lake.errors import LakeError
from lake.lake import Lake
from lake.log import Kind, known_among
from lake.versions import Versions


@dataclass(frozen=True)
class RolledBack:
    """What readers use from here on, and what is promoted."""

    kind: Kind
    version: int
    model_version: int | None  # promoted
    serving_model: int | None
    serving_index: int | None
    note: str = ""


def roll_back(lake: Lake, kind: Kind, version: int) -> RolledBack:
    """Make an earlier version current. Raises UnknownVersion, LakeError for one that was refused, LostRace.

    A model comes back together with the newest index of its embeddings; the index's entry, written last, is
    what moves search and SQL.
    """
    if kind == "indexes":
        _append(lake.indexes, version)
        return _described(lake, kind, version, _note_index(lake, version))
    _append(lake.models, version)
    if lake.indexes.newest() is None:
        return _described(lake, kind, version, "")
    index = _newest_index_of(lake, version)
    if index is None:
        note = f"no index was published under model {version}: run `vitrine score` and `vitrine rebuild-index`"
        return _described(lake, kind, version, note)
    _append(lake.indexes, index)
    return _described(lake, kind, version, "")


def _append(versions: Versions, version: int) -> None:
    versions.require(version)
    newest = versions.newest()
    if newest is not None and newest.current == version:
        return
    entries = versions.entries()
    accepted = {entry.version for entry in entries if entry.current == entry.version} & known_among(entries)
    if version not in accepted:
        raise LakeError(f"{versions.kind} version {version} was never accepted: expected one of {_listed(accepted)}")
    versions.append("roll back", version, based_on=newest, reason=f"rolled back to {version}")


def _newest_index_of(lake: Lake, model_version: int) -> int | None:
    """The index last published with this model's embeddings."""
    entries = lake.indexes.entries()
    kept = known_among(entries)
    accepted = (entry.version for entry in reversed(entries) if entry.current == entry.version)
    for version in accepted:
        if version in kept and lake.indexes.manifest(version).properties["model_version"] == model_version:
            return version
    return None


def _note_index(lake: Lake, version: int) -> str:
    promoted = lake.models.current()
    model = lake.indexes.manifest(version).properties["model_version"]
    if promoted == model:
        return ""
    return (
        f"model {promoted} stays promoted: the next night publishes under it; `vitrine rollback models {model}` keeps"
    )


def _described(lake: Lake, kind: Kind, version: int, note: str) -> RolledBack:
    serving = lake.serving()
    return RolledBack(kind, version, lake.models.current(), serving.model_version, serving.index_version, note)


def _listed(versions: set[int]) -> str:
    return ", ".join(map(str, sorted(versions))) or "none"
