"""Versions of looks, models and indexes: immutable files, a manifest with their hashes, one log that names the current.

    models/versions/000007/claim.json      who is writing it (put-if-absent)
    models/versions/000007/weights.safetensors, …
    models/versions/000007/manifest.json   every file's size and sha256 (`lake/manifest.py`); written last
    models/log/000000000012.json           one entry (`lake/log.py`); the newest names the current version

A version is visible once a log entry names it, so that a reader never sees half.
"""

from __future__ import annotations

import hashlib
import logging
import re
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lake import documents
from lake.cache import copy_into, forget_older, version_below, versions_below
from lake.errors import CorruptFile, DamagedDocument, ObjectNotFound
from lake.log import READERS, Kind, Log
from lake.manifest import MANIFEST, FileRecord, Manifest, sha256_of_file
from lake.store import Store

logger = logging.getLogger(__name__)

CLAIM = "claim.json"
FILES_AT_ONCE = 4  # of a version, each wholly in memory while it is downloaded


class Draft:
    """A version being written. Nobody sees it before a log entry names it."""

    def __init__(self, store: Store, kind: Kind, version: int) -> None:
        self._store = store
        self._kind = kind
        self.version = version
        self._files: dict[tuple[int, str], FileRecord] = {}

    def add(self, name: str, data: bytes) -> FileRecord:
        """Write one file of the version."""
        self._store.put(_path(self._kind, self.version, name), data)
        return self.include(FileRecord(name, len(data), hashlib.sha256(data).hexdigest()))

    def add_file(self, name: str, source: Path) -> FileRecord:
        """Copy a local file into the version, streamed."""
        record = FileRecord(name, source.stat().st_size, sha256_of_file(source))
        self._store.put(_path(self._kind, self.version, name), source)
        return self.include(record)

    def include(self, record: FileRecord) -> FileRecord:
        """Name a file that another worker wrote through `Versions.join`, or that an earlier version holds."""
        self._files[record.held_by(self.version), record.name] = record
        return record

    def seal(self, properties: Mapping[str, Any]) -> Manifest:
        """Write the manifest, after which the version's files never change."""
        files = tuple(record for _, record in sorted(self._files.items(), key=lambda item: (item[0][1], item[0][0])))
        manifest = Manifest(self.version, datetime.now(UTC), files, dict(properties))
        self._store.put(_path(self._kind, self.version, MANIFEST), documents.encode(manifest.to_dict()))
        return manifest


class Versions(Log):
    """All versions of one kind: their log and their files."""

    def draft(self) -> Draft:
        """Claim the next version number. Two writers never get the same."""
        version = max(self.claimed(), default=0) + 1
        while True:
            claim = {"write_id": uuid.uuid4().hex, "at": datetime.now(UTC).isoformat()}
            if documents.write_once(self._store, self.path(version, CLAIM), claim):
                return self.join(version)
            version += 1

    def join(self, version: int) -> Draft:
        """The draft that another worker claimed, to write some of its files; only the claimer seals it."""
        return Draft(self._store, self.kind, version)

    def claimed(self) -> list[int]:
        """Every number that a writer ever claimed, oldest first, whatever became of it."""
        folders = self._store.folders(f"{self.kind}/versions")
        return sorted(int(name) for name in folders if re.fullmatch(r"\d{6,}", name))

    def path(self, version: int, name: str) -> str:
        """Where a version's file lies below the lake's root."""
        return _path(self.kind, version, name)

    def manifest(self, version: int) -> Manifest:
        """A sealed version's manifest. Raises UnknownVersion, DamagedDocument for one that is gone or not whole."""
        path = self.path(version, MANIFEST)
        try:
            manifest = documents.read(self._store, path, Manifest)
        except ObjectNotFound as error:
            if version in self.known():
                raise DamagedDocument(f"{error}: roll {self.kind} back to another version") from error
            raise self.unknown(version) from error
        if manifest.version != version:
            raise DamagedDocument(f"{path} in {self._store.uri} is damaged: it is version {manifest.version}'s")
        return manifest

    def manifests(self, versions: Iterable[int]) -> dict[int, Manifest | None]:
        """The manifests of several versions, read at once; None for one that is damaged, which stops nobody else."""

        def whole(version: int) -> Manifest | None:
            try:
                return self.manifest(version)
            except DamagedDocument as error:
                logger.warning("%s", error)
                return None

        numbers = list(versions)
        with ThreadPoolExecutor(READERS) as pool:
            return dict(zip(numbers, pool.map(whole, numbers), strict=True))

    def read(self, version: int, name: str) -> bytes:
        """One file of a version, its size and sha256 verified. Raises CorruptFile, UnknownVersion."""
        records = {record.path_from(version): record for record in self.manifest(version).files}
        if name not in records:
            raise CorruptFile(f"{self.kind} version {version} has no file {name!r}")
        return self.read_record(version, records[name])

    def read_record(self, version: int, record: FileRecord) -> bytes:
        """The same, of a file whose record is at hand; the version need not be sealed yet."""
        data = self._stored(version, record)
        record.check(self._named(version, record), len(data), hashlib.sha256(data).hexdigest())
        return data

    def fetch(self, version: int, cache: Path, records: Iterable[FileRecord] | None = None) -> Path:
        """A local directory with the version's files, or with some, each verified.

        In a local lake that is the version's own directory; otherwise the files are copied below `cache`
        once, verified again at each call, and copied again where the cache's copy is damaged. Files of other
        versions lie in the directories beside it: see `FileRecord.path_from`. A version that is not sealed yet
        has no manifest that would name them: its `records` are given.
        """
        versions = versions_below(cache, self._store, self.kind)
        records = self.manifest(version).files if records is None else records
        # Checking 4 GB of a million vectors takes seconds on one core; neither it nor a download holds the GIL.
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            list(pool.map(lambda record: self._fetch_file(version, record, versions), records))
        return version_below(versions, version)

    def _fetch_file(self, version: int, record: FileRecord, versions: Path) -> None:
        path = version_below(versions, record.held_by(version)) / record.name
        if path.exists() and (path.stat().st_size, sha256_of_file(path)) == (record.size_bytes, record.sha256):
            return
        if self._store.directory is None:
            copy_into(path, self._stored(version, record))
        if not path.exists():
            raise self._missing(version, record)
        record.check(self._named(version, record), path.stat().st_size, sha256_of_file(path))

    def forget_older(self, version: int, cache: Path) -> None:
        """Remove from a remote lake's cache what lies in older versions and this one does not name."""
        if self._store.directory is None:
            versions = versions_below(cache, self._store, self.kind)
            forget_older(versions, self.manifest(version))

    def is_whole(self, version: int, records: Iterable[FileRecord]) -> bool:
        """Whether these files of the version are there: by sha256 in a local lake, by size elsewhere."""
        if self._store.directory is None:
            return not self.missing(version, records)
        try:
            self.fetch(version, self._store.directory, records)
        except CorruptFile as error:
            logger.warning("%s", error)
            return False
        return True

    def missing(self, version: int, records: Iterable[FileRecord]) -> list[FileRecord]:
        """The files that are gone or have another size than the manifest says. Reads none of them."""
        paths = {record: self.path(record.held_by(version), record.name) for record in records}
        folders = {path.removesuffix(f"/{record.name}") for record, path in paths.items()}
        pages = (page for folder in folders for page in self._store.pages(folder))
        sizes = {each.path: each.size_bytes for page in pages for each in page}
        return [record for record, path in paths.items() if sizes.get(path) != record.size_bytes]

    def _stored(self, version: int, record: FileRecord) -> bytes:
        try:
            return self._store.get(self.path(record.held_by(version), record.name))
        except ObjectNotFound as error:
            raise self._missing(version, record) from error

    def _missing(self, version: int, record: FileRecord) -> CorruptFile:
        if self.was_collected(version) is not None:
            return CorruptFile(
                f"{self.kind} version {version} was collected: open the current version, or another that is kept"
            )
        return CorruptFile(f"{self._named(version, record)} is missing; roll back to another version")

    def _named(self, version: int, record: FileRecord) -> str:
        return f"{self.kind} version {version}: {record.path_from(version)}"


def _path(kind: Kind, version: int, name: str) -> str:
    return f"{kind}/versions/{version:06d}/{name}"
