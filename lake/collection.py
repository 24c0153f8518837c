"""Removes what nobody needs any more: old versions, what killed runs left behind, parts that no commit names.

A version is collected by an entry in its log first and by deleting its files second: whoever publishes or rolls
back meanwhile either comes first, and the version stays, or sees the entry and stops. Manifests, claims and log
entries are kept: they are small, and a version's number is never used again.

What no log names may belong to a run that is still at work, so it goes only when it is older than the longest run.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from lake.collection_policy import CollectionPolicy
from lake.directory import is_partial
from lake.errors import LostRace
from lake.lake import Lake
from lake.log import Entry, known_among
from lake.manifest import MANIFEST, is_plain
from lake.store import ObjectInfo
from lake.versions import CLAIM, Versions

FOLDERS = ("work", "running", "checkpoints")  # whose folders need not stay when they are empty
_OF_A_VERSION = re.compile(r"\w+/versions/([0-9]{6,})/(.+)")
# What desktops, editors and copying programs name their own files.
_OTHERS = re.compile(
    r"~$|\.(tmp|temp|swp|swo|bak|orig|part|crdownload)$|^(Thumbs\.db|desktop\.ini|Icon\r?)$|copy", re.IGNORECASE
)
ATTEMPTS = 3  # a publication meanwhile moves the current version, and the plan is made again


@dataclass(frozen=True)
class Collected:
    """What was removed, or would be."""

    indexes: tuple[int, ...]
    looks: tuple[int, ...]
    models: tuple[int, ...]
    version_files: int
    workspaces: int
    checkpoints: int
    table_parts: int
    bytes: int

    def __str__(self) -> str:
        return (
            f"removed {self.bytes / 1e6:.1f} MB: {len(self.indexes)} indexes, {len(self.looks)} looks, "
            f"{len(self.models)} models, {self.workspaces} workspaces of dead runs, {self.checkpoints} checkpoints, "
            f"{self.table_parts} parts that no commit names"
        )


@dataclass(frozen=True)
class _Doomed:
    """The versions of one kind that go, and the files that go with them or that nobody names."""

    versions: list[int]
    drafts: list[int]  # numbers that a dead run claimed and that no log names
    files: list[ObjectInfo]


def collect(lake: Lake, policy: CollectionPolicy, *, dry_run: bool = False, now: datetime | None = None) -> Collected:
    """Remove what the policy does not keep.

    Raises LostRace where others keep moving the current version meanwhile; what was said in the log holds, and the
    next collection finishes it.
    """
    now = now or datetime.now(UTC)
    before = now - policy.longest_run
    # Indexes first: a look goes once no index that is kept names it.
    indexes = _collect_versions(lake, lake.indexes, policy, now, needed=set(), dry_run=dry_run)
    kept = lake.indexes.manifests(set(lake.indexes.known()) - set(indexes.versions))
    named = {int(manifest.properties["look_version"]) for manifest in kept.values() if manifest is not None}
    if None in kept.values():  # which look it is of, nobody can tell
        named = set(lake.looks.known())
    looks = _collect_versions(lake, lake.looks, policy, now, needed=named, dry_run=dry_run)
    models = _collect_versions(lake, lake.models, policy, now, needed=set(), dry_run=dry_run)
    workspaces = _dead_workspaces(lake, before)
    checkpoints = [
        each for each in _objects(lake, "checkpoints") if is_ours(each.path) and each.last_modified <= before
    ]
    tables = (lake.images, lake.embeddings, lake.scores, lake.runs)
    parts = [part for table in tables for part in table.collect_parts(before, dry_run=dry_run)]
    versioned = [*indexes.files, *looks.files, *models.files]
    loose = [*checkpoints, *(each for objects in workspaces.values() for each in objects)]
    known = {each.path for each in (*versioned, *loose, *parts)}
    loose += [each for each in _partial(lake) if each.last_modified <= before and each.path not in known]
    if not dry_run:
        lake.store.delete([each.path for each in (*versioned, *loose)])
        for prefix in FOLDERS:
            lake.store.delete_empty_folders(prefix, before)
    return Collected(
        indexes=tuple(indexes.versions),
        looks=tuple(looks.versions),
        models=tuple(models.versions),
        version_files=len(versioned),
        workspaces=len(workspaces),
        checkpoints=len(checkpoints),
        table_parts=len(parts),
        bytes=sum(each.size_bytes for each in (*versioned, *loose, *parts)),
    )


def expendable(entries: list[Entry], policy: CollectionPolicy, now: datetime, needed: set[int]) -> list[int]:
    """The versions that a log names and that the policy lets go, oldest first; never one that is in use or needed."""
    if not entries:
        return []
    spoken_of = {entry.version: entry.at for entry in entries}
    accepted = {entry.version: entry.sequence for entry in entries if entry.current == entry.version}
    newest = sorted(accepted, key=lambda version: accepted[version], reverse=True)
    kept = {*newest[: policy.keep_versions], *needed, entries[-1].current, entries[-1].serving}
    return sorted(version for version in known_among(entries) - kept if spoken_of[version] <= now - policy.oldest)


def _collect_versions(
    lake: Lake, versions: Versions, policy: CollectionPolicy, now: datetime, *, needed: set[int], dry_run: bool
) -> _Doomed:
    """Say in the log which versions go; find what they leave behind."""
    for attempt in range(ATTEMPTS):
        entries = versions.entries()
        going = expendable(entries, policy, now, needed)
        doomed = _find_files(lake, versions, entries, set(going), now - policy.longest_run)
        try:
            for version in [] if dry_run else sorted({*going, *doomed.drafts}):
                why = "its run is dead" if version in doomed.drafts else f"older than the newest {policy.keep_versions}"
                versions.append("collect", version, based_on=entries[-1] if entries else None, reason=why)
        except LostRace:
            if attempt == ATTEMPTS - 1:
                raise
            continue
        return doomed
    raise AssertionError("unreachable")


def _find_files(lake: Lake, versions: Versions, entries: list[Entry], going: set[int], before: datetime) -> _Doomed:
    """Files that no kept version names: those of collected versions at once, others when they are old enough."""
    kept = known_among(entries) - going
    collected = {entry.version for entry in entries if entry.action == "collect"} | going
    manifests = versions.manifests(sorted(kept))
    referenced = {
        versions.path(record.held_by(manifest.version), record.name)
        for manifest in manifests.values()
        if manifest is not None
        for record in manifest.files
    }
    # A damaged manifest may have named anything up to its own version.
    unknown = max((version for version, manifest in manifests.items() if manifest is None), default=0)
    files: list[ObjectInfo] = []
    drafts: dict[int, list[ObjectInfo]] = defaultdict(list)
    for file in _objects(lake, f"{versions.kind}/versions"):
        place = _OF_A_VERSION.fullmatch(file.path)
        if place is None or file.path in referenced or place[2] in (CLAIM, MANIFEST) or not is_ours(file.path):
            continue
        number = int(place[1])
        if number <= unknown:
            continue
        if number not in kept | collected:
            drafts[number].append(file)
        elif number in collected or file.last_modified <= before:
            files.append(file)
    dead = {number: objects for number, objects in drafts.items() if _are_old(objects, before)}
    return _Doomed(sorted(going), sorted(dead), files + [each for objects in dead.values() for each in objects])


def _dead_workspaces(lake: Lake, before: datetime) -> dict[str, list[ObjectInfo]]:
    """What runs left behind that were killed: every object of a run whose youngest one is old."""
    runs: dict[str, list[ObjectInfo]] = defaultdict(list)
    for each in _objects(lake, "work"):
        if each.path.count("/") > 1 and is_ours(each.path):
            runs[each.path.split("/")[1]].append(each)
    return {run: objects for run, objects in runs.items() if _are_old(objects, before)}


def _partial(lake: Lake) -> list[ObjectInfo]:
    """What killed writers left half written, wherever it lies; an object store shows nobody such."""
    return [] if lake.store.directory is None else [each for each in _objects(lake, "") if is_partial(each.path)]


def is_ours(path: str) -> bool:
    """Whether an object's name can be one that we gave it: what a desktop or an editor leaves is not."""
    name = path.rsplit("/", 1)[-1]
    return is_plain(name.split("#")[0]) and not _OTHERS.search(name) and (is_partial(name) or "#" not in name)


def _objects(lake: Lake, prefix: str) -> Iterator[ObjectInfo]:
    return (each for page in lake.store.pages(prefix) for each in page)


def _are_old(objects: Sequence[ObjectInfo], before: datetime) -> bool:
    return all(each.last_modified <= before for each in objects)
