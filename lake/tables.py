"""The lake's tables: Parquet parts written with pyarrow, committed through Delta Lake's log.

Tables are append-only. A part is written first and is invisible; one commit makes a run's parts visible
together, and carries the run's id so that a retried commit happens once.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa

from lake.directory import is_below
from lake.errors import DamagedDocument, LakeError, ObjectNotFound, lost
from lake.parquet import encode_parquet
from lake.retries import retried
from lake.store import ObjectInfo, Store
from lake.store_errors import by_cause

WRITER = "vitrine-writer"  # a Delta application id: its version is the epoch of the lease on the lake
PARTS = "vitrine.parts"  # in a commit's metadata: how many parts it adds, to tell one that was cut off
COMMIT_RETRIES = 100  # appends never conflict; delta-rs's own 15 were not enough for eight writers on S3


@dataclass(frozen=True)
class Part:
    """A Parquet file of a table, written but not yet committed."""

    path: str  # below the table's own root
    rows: int
    size_bytes: int
    partition: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TableFile:
    """A committed Parquet file of a table."""

    url: str  # as DuckDB opens it
    path: str  # below the lake's root
    partition: Mapping[str, str]
    rows: int
    size_bytes: int


class Table:
    """One append-only Delta table. Compute hands it Arrow, it never interprets a row."""

    def __init__(
        self, store: Store, name: str, schema: pa.Schema, *, partition_by: str | None = None, epoch: int = 0
    ) -> None:
        self.store = store
        self.name = name
        self.schema = schema
        self.partition_by = partition_by
        self.epoch = epoch

    @property
    def file_schema(self) -> pa.Schema:
        """The schema inside a part: Delta keeps the partition column in the log, not in the file."""
        if self.partition_by is None:
            return self.schema
        return self.schema.remove(self.schema.get_field_index(self.partition_by))

    def write_part(self, rows: pa.Table, name: str, *, partition: Mapping[str, str] | None = None) -> Part:
        """Write rows as one Parquet file. The same name again overwrites: a retried task leaves one part."""
        partition = dict(partition or {})
        folder = "".join(f"{column}={quote(value)}/" for column, value in partition.items())
        path = f"{folder}{name}.parquet"
        data = encode_parquet(rows.select(self.file_schema.names).cast(self.file_schema))
        self.store.put(f"{self.name}/{path}", data)
        return Part(path, rows.num_rows, len(data), partition)

    def commit(self, parts: list[Part], *, application_id: str) -> bool:
        """Make the parts visible in one transaction; False where this application id has committed before.

        Raises LakeError where the table can't be written, LeaseLost where a run of a later epoch has fenced it.
        """
        return retried(lambda: self._commit(parts, application_id)) if parts else False

    def _commit(self, parts: list[Part], application_id: str) -> bool:
        from deltalake.exceptions import DeltaError

        table = self._open_or_create()
        if self._version_of(table, application_id) is not None:
            return False
        self._check_epoch(table)
        try:
            self._append(table, parts, {application_id: 1})
        except (DeltaError, OSError) as error:
            table = self._open_or_create()
            if self._version_of(table, application_id) is not None:  # its twin, or ours whose answer was lost
                return False
            self._check_epoch(table)
            raise self._failure("can't be committed", error) from error
        self._settle(int(table.version()) + 1)
        return True

    def fence(self) -> None:
        """Have the table refuse commits under an older epoch. Raises StoreUnavailable."""
        retried(self._fence)

    def _fence(self) -> None:
        from deltalake.exceptions import DeltaError

        table = self._open_or_create()
        if (self._version_of(table, WRITER) or 0) >= self.epoch:
            return
        try:
            self._append(table, [], {})
        except (DeltaError, OSError) as error:  # the run to be fenced off may just have committed: it came before
            raise self._failure("can't be fenced", error) from error
        self._settle(int(table.version()) + 1)

    def _append(self, table: Any, parts: list[Part], transactions: dict[str, int]) -> None:
        """One commit. delta-rs refuses it where another commit of WRITER's has come since the table was opened."""
        from deltalake import CommitProperties, Transaction

        writer = {WRITER: self.epoch} if self.epoch else {}
        table.create_write_transaction(
            [_add_action(part) for part in parts],
            "append",
            table.schema(),
            partition_by=[self.partition_by] if self.partition_by else None,
            commit_properties=CommitProperties(
                app_transactions=[Transaction(name, version) for name, version in (transactions | writer).items()],
                custom_metadata={PARTS: str(len(parts))},
                max_commit_retries=COMMIT_RETRIES,
            ),
        )

    def _settle(self, version: int) -> None:
        """Have the commits from a version on, which delta-rs does not sync, on the disk of a local lake."""
        while self.store.directory is not None and self.store.exists(path := commit_path(self.name, version)):
            self.store.settle(path)
            version += 1

    def _version_of(self, table: Any, application_id: str) -> int | None:
        """The last version that a Delta application committed."""
        with self._reading():
            version: int | None = table.transaction_version(application_id)
            return version

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """What delta-rs raises while it reads on in the log of a table that is open, as the lake's own errors."""
        from deltalake.exceptions import DeltaError

        try:
            yield
        except (DeltaError, OSError) as error:
            raise self._failure("can't be read", error) from error

    def _check_epoch(self, table: Any) -> None:
        newest = self._version_of(table, WRITER) or 0
        if self.epoch and newest > self.epoch:
            raise lost(self.store.uri, newest)

    def files(self) -> list[TableFile]:
        """The committed files, oldest path first; none where the table does not exist yet."""
        return retried(lambda: [] if (table := self._open()) is None else self._files(table))

    def _files(self, table: Any) -> list[TableFile]:
        with self._reading():
            actions = pa.table(table.get_add_actions(flatten=True))
        rows = actions.select([c for c in actions.column_names if c in _ACTION_COLUMNS or c.startswith("partition.")])
        return sorted((self._file(row) for row in rows.to_pylist()), key=lambda file: file.path)

    def version(self) -> int:
        """The number of the newest commit, −1 where the table does not exist yet."""
        table = retried(self._open)
        return -1 if table is None else int(table.version())

    def collect_parts(self, before: datetime, *, dry_run: bool) -> list[ObjectInfo]:
        """Delete the parts that were written before a time and that no commit names: those of killed runs.

        Returns them. Not by delta-rs's vacuum, which ends at a name that it can't spell and deletes what others put
        there.
        """
        written = [part for page in self.store.pages(self.name) for part in page if self._is_part(part.path)]
        table = retried(self._open)
        if table is None:
            return []  # young or old, they may still be committed by the run that makes the table
        kept = {file.path for file in self._files(table)} | self._buried(table, before)
        gone = [part for part in written if part.path not in kept and part.last_modified <= before]
        if gone and not dry_run:
            self.store.delete([part.path for part in gone])
            # The table's history tells of it.
            retried(lambda: self._commit([], f"collect-{datetime.now(UTC).isoformat()}"))
        return gone

    def _is_part(self, path: str) -> bool:
        """Whether a path is that of a part, or of one that was being written, and not of what others put there."""
        below = path.removeprefix(f"{self.name}/")
        folder = rf"{self.partition_by}=[0-9]+/" if self.partition_by else ""
        return re.fullmatch(rf"{folder}[\w-][^/]*\.parquet(#[0-9a-f]+)?", below) is not None

    def _buried(self, table: Any, before: datetime) -> set[str]:
        """Parts that commits after a time have removed: readers of the table as it was may still have them open."""

        def removed(hours: float) -> set[str]:
            with self._reading():
                paths = table.vacuum(retention_hours=math.ceil(hours), dry_run=True, enforce_retention_duration=False)
            return {f"{self.name}/{unquote(path)}" for path in paths}

        return removed(0) - removed((datetime.now(UTC) - before) / timedelta(hours=1))

    def _file(self, row: dict[str, Any]) -> TableFile:
        path = f"{self.name}/{unquote(row['path'])}"
        if not is_below(path):
            raise DamagedDocument(f"the {self.name} table of {self.store.uri} names {path!r}, which is not in it")
        column = self.partition_by
        partition = {column: str(row[f"partition.{column}"])} if column else {}
        return TableFile(self.store.url(path), path, partition, int(row["num_records"]), int(row["size_bytes"]))

    def _open(self) -> Any:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            table = DeltaTable(self._uri, storage_options=self.store.storage_options)
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            for path in self.damaged_commits():
                raise self._damaged(path) from error
            raise self._failure("can't be read", error) from error
        # Of an empty entry, as a power failure may leave, delta-rs makes a commit of nothing, without a word.
        newest = commit_path(self.name, int(table.version()))
        if self.store.directory is not None and not self._is_whole(newest):
            raise self._damaged(newest)
        return table

    def damaged_commits(self) -> list[str]:
        """The entries of the table's log that are not what was written, oldest first. Reads them all."""
        return [path for path in self.commit_paths() if not self._is_whole(path)]

    def commit_paths(self) -> list[str]:
        """The entries of the table's log, oldest first."""
        entry = re.compile(rf"{self.name}/_delta_log/[0-9]{{20}}\.json")
        return [path for path in self.store.names(f"{self.name}/_delta_log") if entry.fullmatch(path)]

    def _is_whole(self, path: str) -> bool:
        try:
            return commit_is_whole(self.store.get(path))
        except ObjectNotFound:  # a checkpoint stands for it
            return True

    def _damaged(self, path: str) -> DamagedDocument:
        return DamagedDocument(
            f"the {self.name} table can't be read: {path} in {self.store.uri} is damaged; `vitrine doctor` says what "
            "can be done"
        )

    def _failure(self, what: str, error: Exception) -> LakeError:
        what = f"the {self.name} table {what}"
        return by_cause(error, self.store.uri, f"the {self.name} table of {self.store.uri}", what)

    def _open_or_create(self) -> Any:
        from deltalake import CommitProperties, DeltaTable
        from deltalake.exceptions import DeltaError

        table = self._open()
        if table is not None:
            return table
        try:
            table = DeltaTable.create(
                self._uri,
                self.schema,
                partition_by=self.partition_by,
                storage_options=self.store.storage_options,
                # A lost race must not be retried as a later commit: it would change the winner's protocol.
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        except (DeltaError, OSError) as error:
            table = self._open()
            if table is None:
                raise self._failure("can't be made", error) from error
        else:
            self._settle(0)
        return table

    @property
    def _uri(self) -> str:
        return self.store.url(self.name)


def commit_path(table: str, version: int) -> str:
    """Where an entry of a table's log lies below the lake's root."""
    return f"{table}/_delta_log/{version:020d}.json"


def commit_is_whole(data: bytes) -> bool:
    """Whether an entry of a table's log has all its lines; of one of ours it is known how many they are."""
    try:
        actions = [json.loads(line) for line in data.splitlines() if line.strip()]
        said: Any = next((action["commitInfo"].get(PARTS) for action in actions if "commitInfo" in action), None)
        added = sum("add" in action for action in actions)
        return bool(actions) and (said is None or (int(said) == added and "txn" in actions[-1]))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return False


_ACTION_COLUMNS = ("path", "size_bytes", "num_records")


def _add_action(part: Part) -> Any:
    from deltalake.transaction import AddAction

    return AddAction(
        path=part.path,  # delta-rs quotes it
        size=part.size_bytes,
        partition_values=part.partition,
        modification_time=int(time.time() * 1000),
        data_change=True,
        stats=json.dumps({"numRecords": part.rows}),
    )
