"""Putting an earlier version back, by one log entry that moves every reader."""

from __future__ import annotations

from dataclasses import dataclass

from lake.errors import LakeError
from lake.lake import Lake, Serving
from lake.log import Kind, known_among
from lake.versions import Versions


@dataclass(frozen=True)
class RolledBack:
    """What readers use from here on, and what is promoted."""

    kind: Kind
    version: int
    serving: Serving
    look_version: int | None  # promoted
    model_version: int | None  # promoted
    note: str = ""


def roll_back(lake: Lake, kind: Kind, version: int) -> RolledBack:
    """Make an earlier version current. Raises UnknownVersion, LakeError for one that was refused, LostRace.

    A model moves polarity and leaves search alone. A look comes back together with the newest index of its
    embeddings; the index's entry, written last, is what moves search.
    """
    note = ""
    if kind == "models":
        _append(lake.models, version)
    elif kind == "indexes":
        _append(lake.indexes, version)
        note = _note_look(lake, version)
    else:
        _append(lake.looks, version)
        note = _follow_with_index(lake, version)
    return RolledBack(kind, version, lake.serving(), lake.looks.current(), lake.models.current(), note)


def _follow_with_index(lake: Lake, look_version: int) -> str:
    """Make the newest index of the look current, where there is one; what is to be said of it."""
    if lake.indexes.newest() is None:
        return ""
    index = _newest_index_of(lake, look_version)
    if index is None:
        return f"no index was published under look {look_version}: run `vitrine score` and `vitrine rebuild-index`"
    _append(lake.indexes, index)
    return ""


def _append(versions: Versions, version: int) -> None:
    versions.require(version)
    newest = versions.newest()
    if newest is not None and newest.current == version and newest.serving in (None, version):
        return
    entries = versions.entries()
    accepted = {entry.version for entry in entries if entry.current == entry.version} & known_among(entries)
    if version not in accepted:
        listed = ", ".join(map(str, sorted(accepted))) or "none"
        raise LakeError(f"{versions.kind} version {version} was never accepted: expected one of {listed}")
    versions.append("roll back", version, based_on=newest, reason=f"rolled back to {version}")


def _newest_index_of(lake: Lake, look_version: int) -> int | None:
    """The index last published with this look's embeddings."""
    entries = lake.indexes.entries()
    kept = known_among(entries)
    accepted = (entry.version for entry in reversed(entries) if entry.current == entry.version)
    return next((version for version in accepted if version in kept and lake.look_of(version) == look_version), None)


def _note_look(lake: Lake, version: int) -> str:
    """What is to be said of an index whose look is not the promoted one."""
    promoted, look = lake.looks.current(), lake.look_of(version)
    if promoted == look:
        return ""
    return f"look {promoted} stays promoted: the next night publishes under it; `vitrine rollback looks {look}` keeps"
