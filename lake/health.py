"""What is wrong with a lake, and what can safely be mended: damaged entries moved aside, the marker written anew.

Reads everything that commands read; with `deep` also every byte of what versions and tables hold.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from lake.catalogue import write_catalogue
from lake.directory import is_partial
from lake.errors import DamagedDocument, LakeBusy, LakeError, ObjectExists
from lake.lake import LAYOUT, MARKER, Lake, open_lake
from lake.lease import held_by
from lake.parquet import check_parquet
from lake.presence import is_at_work
from lake.store import Store, open_store
from lake.tables import Table
from lake.versions import Versions

ASIDE = ".damaged"  # after the name of what was moved aside; no reader takes it for an entry

State = Literal["good", "repaired", "warning", "bad"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: State
    says: str
    remedy: str = ""


def examine(uri: str, *, repair: bool = False, deep: bool = False) -> list[Finding]:
    """What is found in the lake at the URI; with `repair`, after what is safe was mended.

    Raises LakeBusy where it is to be repaired and a run is writing to it, LakeError where there is no lake.
    """
    findings: list[Finding] = []
    lake = _open(uri, repair, findings)
    findings += _writing(lake.store)
    writer = held_by(lake.store)
    at_work = writer is not None and is_at_work(lake.store, writer)
    if repair and at_work:
        raise LakeBusy(f"{lake.uri} is being written by {writer}: repair it when that is done")
    if at_work:
        findings.append(Finding("lease", "good", f"held by {writer}"))
    elif writer is not None:
        findings.append(Finding("lease", "good", f"held by {writer}, which is dead: the next run takes over"))
    for versions in (lake.looks, lake.models, lake.indexes):
        findings += _log(lake.store, versions, repair)
    for table in (lake.images, lake.embeddings, lake.scores, lake.runs):
        findings += _commits(lake.store, table, repair)
    for versions in (lake.looks, lake.models, lake.indexes):
        findings += _manifests(versions)
    if deep and not any(each.state == "bad" for each in findings):
        findings += [*_deep_versions(lake), *_deep_tables(lake)]
    findings += _leftovers(lake.store)
    if repair:
        with suppress(LakeError):  # what is still damaged is among the findings
            write_catalogue(lake)
    return findings


def _open(uri: str, repair: bool, findings: list[Finding]) -> Lake:
    try:
        lake = open_lake(uri)
    except DamagedDocument as error:
        if not repair:
            raise
        open_store(uri).put(MARKER, LAYOUT)
        findings.append(Finding("lake", "repaired", f"{error}: done"))
        return open_lake(uri)
    findings.append(Finding("lake", "good", f"there is one at {lake.uri}"))
    return lake


def _writing(store: Store) -> Iterator[Finding]:
    """Whether objects can be written, and only one of two writers of a new one wins."""
    path = f"work/doctor-{uuid.uuid4().hex}/probe"
    try:
        store.put_new(path, b"first")
        try:
            store.put_new(path, b"second")
        except ObjectExists:
            yield Finding("store", "good", "objects can be written, and put-if-absent holds")
        else:
            yield Finding(
                "store", "bad", "put-if-absent replaces what is there", "use a store that has conditional writes"
            )
        store.delete([path])
    except LakeError as error:
        yield Finding("store", "bad", str(error), "give this user the right to write and delete there")


def _log(store: Store, versions: Versions, repair: bool) -> Iterator[Finding]:
    name = f"log of {versions.kind}"
    damaged = versions.damaged_entries()
    yield from _mended(store, name, versions.paths(), damaged, repair, "the version before it is current again")


def _commits(store: Store, table: Table, repair: bool) -> Iterator[Finding]:
    name = f"table {table.name}"
    lost = "its rows are gone, the next night finds what it lacks"
    yield from _mended(store, name, table.commit_paths(), table.damaged_commits(), repair, lost)


def _mended(
    store: Store, what: str, paths: list[str], damaged: list[str], repair: bool, effect: str
) -> Iterator[Finding]:
    """A log's state. Only its newest entries can be done without: later ones rest on all before them."""
    if not damaged:
        yield Finding(what, "good", f"{len(paths)} entries, all whole")
    for path in reversed(damaged):
        if path != paths[-1]:
            yield Finding(what, "bad", f"{path} is damaged", "restore it from a backup; later entries rest on it")
        elif repair:
            store.put(f"{path}{ASIDE}", store.get(path))
            store.delete([path])
            paths = paths[:-1]
            yield Finding(what, "repaired", f"{path} was damaged and is now {path}{ASIDE}: {effect}")
        else:
            yield Finding(what, "bad", f"{path} is damaged", f"restore it, or `vitrine doctor --repair`: {effect}")
            paths = paths[:-1]


def _manifests(versions: Versions) -> Iterator[Finding]:
    try:
        known = versions.known()
        current = versions.current()
    except DamagedDocument:
        return  # said of the log
    for version in known:
        try:
            versions.manifest(version)
        except DamagedDocument as error:
            in_use = version == current
            remedy = f"restore it, or `vitrine rollback {versions.kind} VERSION`" if in_use else "restore it"
            yield Finding(f"{versions.kind} {version}", "bad" if in_use else "warning", str(error), remedy)


def _deep_versions(lake: Lake) -> Iterator[Finding]:
    """Every file of every version against its manifest."""
    for versions in (lake.looks, lake.models, lake.indexes):
        count, checked = 0, set()
        for version, manifest in versions.manifests(versions.known()).items():
            for record in () if manifest is None else manifest.files:
                place = record.held_by(version), record.name
                if place not in checked:
                    checked.add(place)
                    count += 1
                    remedy = "restore it, or roll back to another version"
                    yield from _checked(f"{versions.kind} {version}", remedy, versions.read_record, version, record)
        yield Finding(f"files of {versions.kind}", "good", f"{count} read and compared with their sha256")


def _deep_tables(lake: Lake) -> Iterator[Finding]:
    """Every part of every table: its size, its rows, the checksums of its pages."""
    for table in (lake.images, lake.embeddings, lake.scores, lake.runs):
        files = table.files()
        for file in files:
            remedy = f"restore it; without it `vitrine sql` and nights that read {table.name} fail"
            yield from _checked(
                f"table {table.name}", remedy, check_parquet, lake.store, file.path, file.size_bytes, file.rows
            )
        yield Finding(f"parts of {table.name}", "good", f"{len(files)} read, with the checksums of their pages")


def _checked(what: str, remedy: str, check: Callable[..., object], *args: object) -> Iterator[Finding]:
    try:
        check(*args)
    except LakeError as error:
        yield Finding(what, "bad", str(error), remedy)


def _leftovers(store: Store) -> Iterator[Finding]:
    old = datetime.now(UTC) - timedelta(hours=1)
    if store.directory is not None:
        left = [each for page in store.pages() for each in page if is_partial(each.path) and each.last_modified < old]
        if left:
            yield Finding("leftovers", "good", f"{len(left)} half-written files: `vitrine collect` removes them by age")
