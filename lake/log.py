"""The log of one kind of version, looks, models or indexes: its newest entry names the current version.

    models/log/000000000012.json

Promote, serve, publish, refuse, roll back and collect are new entries, each created with put-if-absent, so that of two
writers exactly one wins. The log knows numbers; what a version holds is `lake/versions.py`'s.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime

from lake import documents
from lake.errors import DamagedDocument, LostRace, UnknownVersion, lost
from lake.store import Store

Kind = Literal["looks", "models", "indexes"]
Action = Literal["register", "promote", "serve", "refuse", "publish", "roll back", "collect", "fence"]

FENCE: Action = "fence"  # an entry that only raises the epoch (`lake/lease.py`); nobody else is shown it
QUIET = ("register", "serve", "refuse", "collect", FENCE)  # actions that leave the current version alone
SERVING = ("serve", "roll back")  # actions from which on readers use the version
READERS = 16  # small objects read at once: an S3 answers each in tens of milliseconds, and a log grows every night
_ENTRY = re.compile(r"\w+/log/[0-9]{12}\.json")


@dataclass(frozen=True)
class Entry:
    """One line of the log."""

    sequence: int
    action: Action
    version: int  # the version that the action is about
    current: int | None  # the version that is current from here on
    at: AwareDatetime
    reason: str
    write_id: str
    epoch: int = 0  # the newest of the lease on the lake when it was written
    serving: int | None = None  # the version whose answers readers use, where that is said apart from `current`


class Log:
    """The log of one kind. Its answers come from the store at each call; it remembers nothing."""

    def __init__(self, store: Store, kind: Kind, epoch: int = 0) -> None:
        self._store = store
        self.kind: Kind = kind
        self.epoch = epoch

    def entries(self) -> list[Entry]:
        """The whole log, oldest first."""
        return [entry for entry in self._read_all(self.paths()) if entry.action != FENCE]

    def newest(self) -> Entry | None:
        """The newest entry, which names the current version; None in a lake that has none."""
        entries = map(self._read, reversed(self.paths()))
        return next((entry for entry in entries if entry.action != FENCE), None)

    def current(self) -> int | None:
        """The current version's number."""
        newest = self.newest()
        return None if newest is None else newest.current

    def known(self) -> list[int]:
        """The versions that the log names and that have not been collected, oldest first."""
        return sorted(known_among(self.entries()))

    def require(self, version: int) -> None:
        """Raise UnknownVersion unless the log names the version and it has not been collected."""
        if version not in self.known():
            raise self.unknown(version)

    def append(
        self,
        action: Action,
        version: int,
        *,
        based_on: Entry | None,
        relies_on: int | None = None,
        reason: str = "",
    ) -> Entry:
        """Write the next log entry. All but `register`, `serve`, `refuse` and `collect` make the version current.

        `based_on` is the newest entry that the caller's decision rests on, `relies_on` the version whose files
        this one names. Entries written since then are no obstacle while they left both and the current version
        alone. Raises LostRace where they did not, LeaseLost where a run of a later epoch has fenced the log.
        """
        while True:
            since = self._since(based_on)
            newest = since[-1] if since else based_on
            current = None if newest is None else newest.current
            if self.epoch and newest is not None and newest.epoch > self.epoch:
                raise lost(self._store.uri, newest.epoch)
            for entry in since:
                if (entry.version, entry.action, entry.current) == (version, action, current):
                    return entry  # a retry of what was written already
            self._check_since(since, version, relies_on, None if based_on is None else based_on.current, current)
            entry = self._next(newest, action, version, reason)
            if self._write(entry):
                return entry

    def fence(self) -> None:
        """Have the log refuse entries under an older epoch."""
        while True:
            paths = self.paths()
            newest = self._read(paths[-1]) if paths else None
            if newest is not None and newest.epoch >= self.epoch:
                return
            if self._write(self._next(newest, FENCE, 0, "")):
                return

    def was_collected(self, version: int) -> datetime | None:
        """When the version's files went; None where they did not."""
        collected = (each.at for each in self.entries() if each.action == "collect" and each.version == version)
        return next(collected, None)

    def unknown(self, version: int) -> UnknownVersion:
        """The error of whoever asks for a version that the log does not name, or no longer."""
        listed = ", ".join(map(str, self.known())) or "none yet"
        collected = self.was_collected(version)
        if collected is None:
            return UnknownVersion(f"there is no version {version} among the {self.kind}: expected one of {listed}")
        return UnknownVersion(
            f"{self.kind} version {version} was collected on {collected.date().isoformat()}, its files are gone: "
            f"expected one of {listed}"
        )

    def _check_since(
        self, since: Sequence[Entry], version: int, relies_on: int | None, expected: int | None, current: int | None
    ) -> None:
        """Raise LostRace where what was written since stands in the way of an entry about `version`."""
        for entry in since:
            if entry.action == "collect" and entry.version in (version, relies_on):
                raise LostRace(
                    f"{self.kind}: version {entry.version} was collected while version {version} was made; "
                    "nothing was published, run it again"
                )
        if current != expected:
            raise LostRace(
                f"{self.kind}: version {current} became current while version {version} was made from "
                f"version {expected}; version {version} is kept, run again to start from version {current}"
            )

    def _next(self, newest: Entry | None, action: Action, version: int, reason: str) -> Entry:
        """The entry after the newest one; in a log without entries it is the first."""
        current = serving = None
        sequence, epoch = 0, 0
        if newest is not None:
            sequence, epoch, current, serving = newest.sequence, newest.epoch, newest.current, newest.serving
        return Entry(
            sequence=sequence + 1,
            action=action,
            version=version,
            current=current if action in QUIET else version,
            at=datetime.now(UTC),
            reason=reason,
            write_id=uuid.uuid4().hex,
            epoch=max(epoch, self.epoch),
            serving=version if action in SERVING else serving,
        )

    def _write(self, entry: Entry) -> bool:
        """False where another entry has this number."""
        body = asdict(entry) | {"at": entry.at.isoformat()}
        return documents.write_once(self._store, self._path(entry.sequence), body)

    def _path(self, sequence: int) -> str:
        return f"{self.kind}/log/{sequence:012d}.json"

    def paths(self) -> list[str]:
        """The log's objects, oldest first. What a killed writer left half done beside them is none of it."""
        return [path for path in self._store.names(f"{self.kind}/log") if _ENTRY.fullmatch(path)]

    def damaged_entries(self) -> list[str]:
        """The entries that are not what was written, oldest first. Reads them all."""

        def is_damaged(path: str) -> bool:
            try:
                self._read(path)
            except DamagedDocument:
                return True
            return False

        paths = self.paths()
        with ThreadPoolExecutor(READERS) as pool:
            return [path for path, damaged in zip(paths, pool.map(is_damaged, paths), strict=True) if damaged]

    def _since(self, entry: Entry | None) -> list[Entry]:
        last = self._path(0 if entry is None else entry.sequence)
        return self._read_all([path for path in self.paths() if path > last])

    def _read_all(self, paths: Sequence[str]) -> list[Entry]:
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(self._read, paths))

    def _read(self, path: str) -> Entry:
        entry = documents.read(self._store, path, Entry)
        if self._path(entry.sequence) != path:
            raise DamagedDocument(f"{path} in {self._store.uri} is damaged (it is entry {entry.sequence}): remove it")
        return entry


def known_among(entries: Iterable[Entry]) -> set[int]:
    """The versions that a log names and that have not been collected."""
    named: set[int] = set()
    collected: set[int] = set()
    for entry in entries:
        (collected if entry.action == "collect" else named).add(entry.version)
    return named - collected
