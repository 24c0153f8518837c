"""Versions of models and of indexes: immutable files, a manifest with their hashes, one log that names the current.

    models/versions/000007/claim.json      who is writing it (put-if-absent)
    models/versions/000007/weights.safetensors, …
    models/versions/000007/manifest.json   every file's size and sha256; written last
    models/log/000000000012.json           one entry; the newest names the current version

A version is visible once a log entry names it. Promote, publish, refuse and roll back are new entries, each
created with put-if-absent, so that of two writers exactly one wins and a reader never sees half.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from lake.errors import CorruptFile, LakeError, LostRace, ObjectExists, ObjectNotFound, UnknownVersion
from lake.store import Store

logger = logging.getLogger(__name__)

Kind = Literal["models", "indexes"]
Action = Literal["register", "promote", "refuse", "publish", "roll back"]

MANIFEST = "manifest.json"
CLAIM = "claim.json"
READERS = 16  # small objects read at once: an S3 answers each in tens of milliseconds, and a log grows every night
_ENTRY = re.compile(r"/log/\d{12}\.json$")
FORMAT = 1  # of manifests and log entries; raised when an old reader would misread a new one


@dataclass(frozen=True)
class FileRecord:
    """One file of a version, as it was when the version was sealed."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a version holds: its files and whatever its maker says of it."""

    version: int
    created_at: datetime
    files: tuple[FileRecord, ...]
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One line of the log."""

    sequence: int
    action: Action
    version: int  # the version that the action is about
    current: int | None  # the version that is current from here on
    at: datetime
    reason: str
    write_id: str


class Draft:
    """A version being written. Nobody sees it before a log entry names it."""

    def __init__(self, store: Store, kind: Kind, version: int) -> None:
        self._store = store
        self._kind = kind
        self.version = version
        self._files: dict[str, FileRecord] = {}

    def add(self, name: str, data: bytes) -> FileRecord:
        """Write one file of the version."""
        self._store.put(_path(self._kind, self.version, name), data)
        record = FileRecord(name, len(data), hashlib.sha256(data).hexdigest())
        self._files[name] = record
        return record

    def add_file(self, name: str, source: Path) -> FileRecord:
        """Copy a local file into the version, streamed."""
        record = FileRecord(name, source.stat().st_size, sha256_of_file(source))
        self._store.put(_path(self._kind, self.version, name), source)
        self._files[name] = record
        return record

    def include(self, record: FileRecord) -> None:
        """Name a file that another worker wrote into this version through `Versions.join`."""
        self._files[record.name] = record

    def seal(self, properties: Mapping[str, Any]) -> Manifest:
        """Write the manifest, after which the version's files never change."""
        files = tuple(sorted(self._files.values(), key=lambda record: record.name))
        manifest = Manifest(self.version, datetime.now(UTC), files, dict(properties))
        body = {"format": FORMAT} | asdict(manifest) | {"created_at": manifest.created_at.isoformat()}
        self._store.put(_path(self._kind, self.version, MANIFEST), _encode(body))
        return manifest


class Versions:
    """All versions of one kind. Its answers come from the store at each call; it remembers nothing."""

    def __init__(self, store: Store, kind: Kind) -> None:
        self._store = store
        self.kind: Kind = kind

    def draft(self) -> Draft:
        """Claim the next version number. Two writers never get the same."""
        folders = {path.split("/")[2] for path in self._store.names(f"{self.kind}/versions")}
        version = max((int(name) for name in folders if re.fullmatch(r"\d{6,}", name)), default=0) + 1
        while True:
            claim = {"write_id": uuid.uuid4().hex, "at": datetime.now(UTC).isoformat()}
            if self._put_once(_path(self.kind, version, CLAIM), claim):
                return Draft(self._store, self.kind, version)
            version += 1

    def path(self, version: int, name: str) -> str:
        """Where a version's file lies below the lake's root."""
        return _path(self.kind, version, name)

    def join(self, version: int) -> Draft:
        """The draft that another worker claimed, to write some of its files; only the claimer seals it."""
        return Draft(self._store, self.kind, version)

    def entries(self) -> list[Entry]:
        """The whole log, oldest first."""
        return self._entries(self._log())

    def newest(self) -> Entry | None:
        """The newest entry, which names the current version; None in a lake that has none."""
        paths = self._log()
        return self._entry(paths[-1]) if paths else None

    def current(self) -> int | None:
        """The current version's number."""
        newest = self.newest()
        return None if newest is None else newest.current

    def append(self, action: Action, version: int, *, based_on: Entry | None, reason: str = "") -> Entry:
        """Write the next log entry. All but `register` and `refuse` make the version current.

        `based_on` is the newest entry that the caller's decision rests on. Entries written since then are no
        obstacle while they left the current version alone. Raises LostRace where they moved it.
        """
        expected = None if based_on is None else based_on.current
        while True:
            since = self._since(based_on)
            newest = since[-1] if since else based_on
            found = None if newest is None else newest.current
            for entry in since:
                if (entry.version, entry.action, entry.current) == (version, action, found):
                    return entry  # a retry of what was written already
            if found != expected:
                raise LostRace(
                    f"{self.kind}: version {found} became current while version {version} was made from "
                    f"version {expected}; version {version} is kept, run again to start from version {found}"
                )
            entry = Entry(
                sequence=1 if newest is None else newest.sequence + 1,
                action=action,
                version=version,
                current=expected if action in ("register", "refuse") else version,
                at=datetime.now(UTC),
                reason=reason,
                write_id=uuid.uuid4().hex,
            )
            body = {"format": FORMAT} | asdict(entry) | {"at": entry.at.isoformat()}
            if self._put_once(f"{self.kind}/log/{entry.sequence:012d}.json", body):
                return entry

    def manifest(self, version: int) -> Manifest:
        """A sealed version's manifest. Raises UnknownVersion."""
        try:
            body = json.loads(self._store.get(_path(self.kind, version, MANIFEST)))
        except ObjectNotFound as error:
            raise UnknownVersion(self._unknown(version)) from error
        _check_format(body, f"{self.kind} version {version}")
        files = tuple(FileRecord(**record) for record in body["files"])
        created_at = datetime.fromisoformat(body["created_at"])
        return Manifest(body["version"], created_at, files, body["properties"])

    def manifests(self, versions: Iterable[int]) -> list[Manifest]:
        """The manifests of several versions, read at once."""
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(self.manifest, versions))

    def known(self) -> list[int]:
        """The versions that the log names, oldest first."""
        return sorted({entry.version for entry in self.entries()})

    def require(self, version: int) -> None:
        """Raise UnknownVersion unless the log names the version."""
        if version not in self.known():
            raise UnknownVersion(self._unknown(version))

    def read(self, version: int, name: str) -> bytes:
        """One file of a version, its size and sha256 verified. Raises CorruptFile, UnknownVersion."""
        records = {record.name: record for record in self.manifest(version).files}
        if name not in records:
            raise CorruptFile(f"{self.kind} version {version} has no file {name!r}")
        data = self._stored(version, name)
        _verify(
            f"{self.kind} version {version}: {name}",
            records[name],
            len(data),
            hashlib.sha256(data).hexdigest(),
        )
        return data

    def fetch(self, version: int, cache: Path) -> Path:
        """A local directory with the version's files, each verified.

        In a local lake that is the version's own directory; otherwise the files are copied below `cache`
        once, verified again at each call, and copied again where the cache's copy is damaged.
        """
        manifest = self.manifest(version)
        if self._store.directory is not None:
            directory = self._store.directory / self.kind / "versions" / f"{version:06d}"
        else:
            lake = hashlib.sha256(self._store.uri.encode()).hexdigest()[:16]
            directory = cache / lake / self.kind / f"{version:06d}"
        for record in manifest.files:
            self._fetch_file(version, record, directory / record.name)
        return directory

    def is_whole(self, version: int) -> bool:
        """Whether every file of the version is there: by sha256 in a local lake, by size elsewhere."""
        records = self.manifest(version).files
        if self._store.directory is not None:
            try:
                self.fetch(version, self._store.directory)
            except CorruptFile as error:
                logger.warning("%s", error)
                return False
            return True
        prefix = _path(self.kind, version, "")
        sizes = {found.path: found.size_bytes for page in self._store.pages(prefix.rstrip("/")) for found in page}
        return all(sizes.get(prefix + record.name) == record.size_bytes for record in records)

    def _fetch_file(self, version: int, record: FileRecord, path: Path) -> None:
        if path.exists() and (path.stat().st_size, sha256_of_file(path)) == (record.size_bytes, record.sha256):
            return
        if self._store.directory is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
            partial.write_bytes(self._stored(version, record.name))
            partial.replace(path)
        if not path.exists():
            raise CorruptFile(self._missing(version, record.name))
        _verify(f"{self.kind} version {version}: {record.name}", record, path.stat().st_size, sha256_of_file(path))

    def _stored(self, version: int, name: str) -> bytes:
        try:
            return self._store.get(_path(self.kind, version, name))
        except ObjectNotFound as error:
            raise CorruptFile(self._missing(version, name)) from error

    def _missing(self, version: int, name: str) -> str:
        return f"{self.kind} version {version}: {name} is missing; roll back to another version"

    def _log(self) -> list[str]:
        """The paths of the log, oldest first. What a killed writer left half done beside them is none of it."""
        return [path for path in self._store.names(f"{self.kind}/log") if _ENTRY.search(path)]

    def _since(self, entry: Entry | None) -> list[Entry]:
        last = 0 if entry is None else entry.sequence
        return self._entries([path for path in self._log() if int(path[-17:-5]) > last])

    def _entries(self, paths: list[str]) -> list[Entry]:
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(self._entry, paths))

    def _entry(self, path: str) -> Entry:
        body = json.loads(self._store.get(path))
        _check_format(body, path)
        body = {name: value for name, value in body.items() if name != "format"}
        return Entry(**(body | {"at": datetime.fromisoformat(body["at"])}))

    def _put_once(self, path: str, body: Mapping[str, Any]) -> bool:
        """Put-if-absent; a lost answer is read back by its write id before it counts as a conflict."""
        try:
            self._store.put_new(path, _encode(body))
        except ObjectExists:
            found = json.loads(self._store.get(path))
            return bool(found["write_id"] == body["write_id"])
        return True

    def _unknown(self, version: int) -> str:
        known = self.known()
        listed = ", ".join(map(str, known)) if known else "none yet"
        return f"there is no version {version} among the {self.kind}: expected one of {listed}"


def sha256_of_file(path: Path) -> str:
    """The file's sha256, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _path(kind: Kind, version: int, name: str) -> str:
    return f"{kind}/versions/{version:06d}/{name}"


def _encode(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, indent=2, sort_keys=True).encode()


def _check_format(body: Mapping[str, Any], what: str) -> None:
    if body.get("format") != FORMAT:
        raise LakeError(f"{what} has format {body.get('format')}, this Vitrine reads {FORMAT}: update Vitrine")


def _verify(what: str, record: FileRecord, size_bytes: int, sha256: str) -> None:
    if size_bytes != record.size_bytes or sha256 != record.sha256:
        raise CorruptFile(
            f"{what} is damaged: expected {record.size_bytes} bytes with sha256 {record.sha256[:12]}…, "
            f"found {size_bytes} with {sha256[:12]}…; roll back to another version"
        )
