"""Versions of models and of indexes: immutable files, a manifest with their hashes, one log that names the current.

    models/versions/000007/claim.json      who is writing it (put-if-absent)
    models/versions/000007/weights.safetensors, …
    models/versions/000007/manifest.json   every file's size and sha256; written last
    models/log/000000000012.json           one entry; the newest names the current version

A version is visible once a log entry names it. Promote, publish, refuse, roll back and collect are new entries,
each created with put-if-absent, so that of two writers exactly one wins and a reader never sees half.

A manifest may name files that lie in an earlier version's folder. They stay as long as a version that names them
(`lake/collection.py`); a collected version keeps its manifest and its entries and loses the rest.
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

from lake.errors import CorruptFile, LakeError, LostRace, ObjectExists, ObjectNotFound, UnknownVersion, lost
from lake.store import Store

logger = logging.getLogger(__name__)

Kind = Literal["models", "indexes"]
Action = Literal["register", "promote", "refuse", "publish", "roll back", "collect", "fence"]

MANIFEST = "manifest.json"
CLAIM = "claim.json"
FILES_AT_ONCE = 4  # of a version, each wholly in memory while it is downloaded
READERS = 16  # small objects read at once: an S3 answers each in tens of milliseconds, and a log grows every night
_PARTIAL = re.compile(r"\.[0-9a-f]{32}$")
_ENTRY = re.compile(r"/log/\d{12}\.json$")
FORMAT = 1  # of manifests and log entries; raised when an old reader would misread a new one
SHARING = 2  # of manifests that name files of other versions
FENCE: Action = "fence"  # an entry that only raises the epoch (`lake/lease.py`); nobody else is shown it
QUIET = ("register", "refuse", "collect", FENCE)  # actions that leave the current version alone


def path_in(holder: int, name: str) -> str:
    """Where a file in the folder of version `holder` lies, seen from any other version's folder."""
    return f"../{holder:06d}/{name}"


@dataclass(frozen=True)
class FileRecord:
    """One file of a version, as it was when the version was sealed."""

    name: str
    size_bytes: int
    sha256: str
    stored_in: int | None = None  # the version whose folder holds it; None: the version's own

    def held_by(self, version: int) -> int:
        """The version whose folder holds this file of `version`."""
        return version if self.stored_in is None else self.stored_in

    def path_from(self, version: int) -> str:
        """Where the file lies, seen from `version`'s folder."""
        holder = self.held_by(version)
        return self.name if holder == version else path_in(holder, self.name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return {name: value for name, value in asdict(self).items() if value is not None}


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
    epoch: int = 0  # the newest of the lease on the lake when it was written


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
        body = {
            "format": SHARING if any(record.stored_in for record in files) else FORMAT,
            "version": manifest.version,
            "created_at": manifest.created_at.isoformat(),
            "files": [record.to_dict() for record in files],
            "properties": manifest.properties,
        }
        self._store.put(_path(self._kind, self.version, MANIFEST), _encode(body))
        return manifest


class Versions:
    """All versions of one kind. Its answers come from the store at each call; it remembers nothing."""

    def __init__(self, store: Store, kind: Kind, epoch: int = 0) -> None:
        self._store = store
        self.kind: Kind = kind
        self.epoch = epoch

    def draft(self) -> Draft:
        """Claim the next version number. Two writers never get the same."""
        version = max(self.claimed(), default=0) + 1
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
        return [entry for entry in self._entries(self._log()) if entry.action != FENCE]

    def newest(self) -> Entry | None:
        """The newest entry, which names the current version; None in a lake that has none."""
        entries = map(self._entry, reversed(self._log()))
        return next((entry for entry in entries if entry.action != FENCE), None)

    def current(self) -> int | None:
        """The current version's number."""
        newest = self.newest()
        return None if newest is None else newest.current

    def append(
        self,
        action: Action,
        version: int,
        *,
        based_on: Entry | None,
        relies_on: int | None = None,
        reason: str = "",
    ) -> Entry:
        """Write the next log entry. All but `register`, `refuse` and `collect` make the version current.

        `based_on` is the newest entry that the caller's decision rests on, `relies_on` the version whose files
        this one names. Entries written since then are no obstacle while they left both and the current version
        alone. Raises LostRace where they did not, LeaseLost where a run of a later epoch has fenced the log.
        """
        expected = None if based_on is None else based_on.current
        while True:
            since = self._since(based_on)
            newest = since[-1] if since else based_on
            found = None if newest is None else newest.current
            epoch = 0 if newest is None else newest.epoch
            if self.epoch and epoch > self.epoch:
                raise lost(self._store.uri, epoch)
            for entry in since:
                if (entry.version, entry.action, entry.current) == (version, action, found):
                    return entry  # a retry of what was written already
                if entry.action == "collect" and entry.version in (version, relies_on):
                    raise LostRace(
                        f"{self.kind}: version {entry.version} was collected while version {version} was made; "
                        "nothing was published, run it again"
                    )
            if found != expected:
                raise LostRace(
                    f"{self.kind}: version {found} became current while version {version} was made from "
                    f"version {expected}; version {version} is kept, run again to start from version {found}"
                )
            entry = Entry(
                sequence=1 if newest is None else newest.sequence + 1,
                action=action,
                version=version,
                current=expected if action in QUIET else version,
                at=datetime.now(UTC),
                reason=reason,
                write_id=uuid.uuid4().hex,
                epoch=max(epoch, self.epoch),
            )
            if self._write(entry):
                return entry

    def fence(self) -> None:
        """Have the log refuse entries under an older epoch."""
        while True:
            log = self._log()
            newest = self._entry(log[-1]) if log else None
            if newest is not None and newest.epoch >= self.epoch:
                return
            sequence, current = (1, None) if newest is None else (newest.sequence + 1, newest.current)
            if self._write(Entry(sequence, FENCE, 0, current, datetime.now(UTC), "", uuid.uuid4().hex, self.epoch)):
                return

    def _write(self, entry: Entry) -> bool:
        body = {"format": FORMAT} | asdict(entry) | {"at": entry.at.isoformat()}
        return self._put_once(f"{self.kind}/log/{entry.sequence:012d}.json", body)

    def manifest(self, version: int) -> Manifest:
        """A sealed version's manifest. Raises UnknownVersion."""
        try:
            body = json.loads(self._store.get(_path(self.kind, version, MANIFEST)))
        except ObjectNotFound as error:
            raise UnknownVersion(self._unknown(version)) from error
        _check_format(body, f"{self.kind} version {version}", newest=SHARING)
        files = tuple(FileRecord(**record) for record in body["files"])
        created_at = datetime.fromisoformat(body["created_at"])
        return Manifest(body["version"], created_at, files, body["properties"])

    def manifests(self, versions: Iterable[int]) -> list[Manifest]:
        """The manifests of several versions, read at once."""
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(self.manifest, versions))

    def known(self) -> list[int]:
        """The versions that the log names and that have not been collected, oldest first."""
        return sorted(known_among(self.entries()))

    def require(self, version: int) -> None:
        """Raise UnknownVersion unless the log names the version and it has not been collected."""
        if version not in self.known():
            raise UnknownVersion(self._unknown(version))

    def claimed(self) -> list[int]:
        """Every number that a writer ever claimed, oldest first, whatever became of it."""
        folders = self._store.folders(f"{self.kind}/versions")
        return sorted(int(name) for name in folders if re.fullmatch(r"\d{6,}", name))

    def read(self, version: int, name: str) -> bytes:
        """One file of a version, its size and sha256 verified. Raises CorruptFile, UnknownVersion."""
        records = {record.path_from(version): record for record in self.manifest(version).files}
        if name not in records:
            raise CorruptFile(f"{self.kind} version {version} has no file {name!r}")
        return self.read_record(version, records[name])

    def read_record(self, version: int, record: FileRecord) -> bytes:
        """The same, of a file whose record is at hand; the version need not be sealed yet."""
        data = self._stored(version, record)
        what = f"{self.kind} version {version}: {record.path_from(version)}"
        _verify(what, record, len(data), hashlib.sha256(data).hexdigest())
        return data

    def fetch(self, version: int, cache: Path, records: Iterable[FileRecord] | None = None) -> Path:
        """A local directory with the version's files, or with some, each verified.

        In a local lake that is the version's own directory; otherwise the files are copied below `cache`
        once, verified again at each call, and copied again where the cache's copy is damaged. Files of other
        versions lie in the directories beside it: see `FileRecord.path_from`. A version that is not sealed yet
        has no manifest that would name them: its `records` are given.
        """
        versions = self._versions_below(cache)
        wanted = self.manifest(version).files if records is None else records
        # Checking 4 GB of a million vectors takes seconds on one core; neither it nor a download holds the GIL.
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            places = ((record, versions / f"{record.held_by(version):06d}" / record.name) for record in wanted)
            list(pool.map(lambda each: self._fetch_file(version, *each), places))
        return versions / f"{version:06d}"

    def forget_older(self, version: int, cache: Path) -> None:
        """Remove from a remote lake's cache what lies in older versions and this one does not name.

        Whoever has such a file open keeps it; newer versions, which a rebuild may be measuring, are left alone.
        """
        if self._store.directory is not None:
            return
        versions = self._versions_below(cache)
        kept = {versions / f"{each.held_by(version):06d}" / each.name for each in self.manifest(version).files}
        for folder in versions.iterdir() if versions.is_dir() else ():
            if folder.name.isdigit() and int(folder.name) < version:
                for path in set(folder.iterdir()) - kept:
                    if not _PARTIAL.search(path.name):  # another process is fetching it
                        path.unlink(missing_ok=True)

    def _versions_below(self, cache: Path) -> Path:
        """Where versions lie on this machine, one directory each."""
        if self._store.directory is not None:
            return self._store.directory / self.kind / "versions"
        return cache / hashlib.sha256(self._store.uri.encode()).hexdigest()[:16] / self.kind

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
        wanted = list(records)
        folders = [self.path(holder, "").rstrip("/") for holder in {record.held_by(version) for record in wanted}]
        sizes = {
            each.path: each.size_bytes for folder in folders for page in self._store.pages(folder) for each in page
        }
        return [
            record
            for record in wanted
            if sizes.get(self.path(record.held_by(version), record.name)) != record.size_bytes
        ]

    def _fetch_file(self, version: int, record: FileRecord, path: Path) -> None:
        if path.exists() and (path.stat().st_size, sha256_of_file(path)) == (record.size_bytes, record.sha256):
            return
        if self._store.directory is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
            partial.write_bytes(self._stored(version, record))
            partial.replace(path)
        if not path.exists():
            raise CorruptFile(self._missing(version, record))
        name = record.path_from(version)
        _verify(f"{self.kind} version {version}: {name}", record, path.stat().st_size, sha256_of_file(path))

    def _stored(self, version: int, record: FileRecord) -> bytes:
        try:
            return self._store.get(_path(self.kind, record.held_by(version), record.name))
        except ObjectNotFound as error:
            raise CorruptFile(self._missing(version, record)) from error

    def _missing(self, version: int, record: FileRecord) -> str:
        if any(entry.action == "collect" and entry.version == version for entry in self.entries()):
            return f"{self.kind} version {version} was collected: open the current version, or another that is kept"
        return f"{self.kind} version {version}: {record.path_from(version)} is missing; roll back to another version"

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
        entries = self.entries()
        known = sorted(known_among(entries))
        listed = ", ".join(map(str, known)) if known else "none yet"
        for entry in entries:
            if entry.action == "collect" and entry.version == version:
                on = entry.at.date().isoformat()
                return (
                    f"{self.kind} version {version} was collected on {on}, its files are gone: expected one of {listed}"
                )
        return f"there is no version {version} among the {self.kind}: expected one of {listed}"


def known_among(entries: Iterable[Entry]) -> set[int]:
    """The versions that a log names and that have not been collected."""
    named: set[int] = set()
    collected: set[int] = set()
    for entry in entries:
        (collected if entry.action == "collect" else named).add(entry.version)
    return named - collected


def sha256_of_file(path: Path) -> str:
    """The file's sha256, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _path(kind: Kind, version: int, name: str) -> str:
    return f"{kind}/versions/{version:06d}/{name}"


def _encode(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, indent=2, sort_keys=True).encode()


def _check_format(body: Mapping[str, Any], what: str, *, newest: int = FORMAT) -> None:
    if body.get("format") not in range(1, newest + 1):
        raise LakeError(f"{what} has format {body.get('format')}, this Vitrine reads {newest}: update Vitrine")


def _verify(what: str, record: FileRecord, size_bytes: int, sha256: str) -> None:
    if size_bytes != record.size_bytes or sha256 != record.sha256:
        raise CorruptFile(
            f"{what} is damaged: expected {record.size_bytes} bytes with sha256 {record.sha256[:12]}…, "
            f"found {size_bytes} with {sha256[:12]}…; roll back to another version"
        )
