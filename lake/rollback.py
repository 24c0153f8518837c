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
        note = _note_index(lake, version)
    else:
        _append(lake.models, version)
        note = _follow_with_index(lake, version)
    serving = lake.serving()
    return RolledBack(kind, version, lake.models.current(), serving.model_version, serving.index_version, note)


def _follow_with_index(lake: Lake, model_version: int) -> str:
    """Make the newest index of the model current, where there is one; what is to be said of it."""
    if lake.indexes.newest() is None:
        return ""
    index = _newest_index_of(lake, model_version)
    if index is None:
        return f"no index was published under model {model_version}: run `vitrine score` and `vitrine rebuild-index`"
    _append(lake.indexes, index)
    return ""


def _append(versions: Versions, version: int) -> None:
    versions.require(version)
    newest = versions.newest()
    if newest is not None and newest.current == version:
        return
    entries = versions.entries()
    accepted = {entry.version for entry in entries if entry.current == entry.version} & known_among(entries)
    if version not in accepted:
        listed = ", ".join(map(str, sorted(accepted))) or "none"
        raise LakeError(f"{versions.kind} version {version} was never accepted: expected one of {listed}")
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
    """What is to be said of an index whose model is not the promoted one."""
    promoted = lake.models.current()
    model = lake.indexes.manifest(version).properties["model_version"]
    if promoted == model:
        return ""
    return (
        f"model {promoted} stays promoted: the next night publishes under it; `vitrine rollback models {model}` keeps"
    )
