"""The lake's tables: Parquet parts written with pyarrow, committed through Delta Lake's log.

Tables are append-only. A part is written first and is invisible; one commit makes a run's parts visible
together, and carries the run's id so that a retried commit happens once.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa

from lake.errors import LakeError, StoreUnavailable, lost
from lake.parquet import encode_parquet
from lake.store import ObjectInfo, Store

WRITER = "vitrine-writer"  # a Delta application id: its version is the epoch of the lease on the lake
FENCE_ATTEMPTS = 5  # who is to be fenced off commits once or twice meanwhile
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
        from deltalake.exceptions import DeltaError

        if not parts:
            return False
        try:
            table = self._open_or_create()
            if table.transaction_version(application_id) is not None:
                return False
            self._check_epoch(table)
            self._append(table, parts, {application_id: 1})
        except DeltaError as error:
            table = self._open_or_create()
            if table.transaction_version(application_id) is not None:  # its twin, or ours whose answer was lost
                return False
            self._check_epoch(table)
            raise StoreUnavailable(f"the {self.name} table could not be committed: {error}") from error
        except OSError as error:
            raise LakeError(f"the {self.name} table can't be written: {error}") from error
        return True

    def fence(self) -> None:
        """Have the table refuse commits under an older epoch. Raises StoreUnavailable."""
        from deltalake.exceptions import DeltaError

        for attempt in range(FENCE_ATTEMPTS):
            try:
                table = self._open_or_create()
                if (table.transaction_version(WRITER) or 0) < self.epoch:
                    self._append(table, [], {})
            except DeltaError as error:  # the run to be fenced off has just committed: it came before, and counts
                if attempt == FENCE_ATTEMPTS - 1:
                    raise StoreUnavailable(f"the {self.name} table could not be fenced: {error}") from error
            except OSError as error:
                raise LakeError(f"the {self.name} table can't be written: {error}") from error
            else:
                return

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
                max_commit_retries=COMMIT_RETRIES,
            ),
        )

    def _check_epoch(self, table: Any) -> None:
        newest = table.transaction_version(WRITER) or 0
        if self.epoch and newest > self.epoch:
            raise lost(self.store.uri, newest)

    def files(self) -> list[TableFile]:
        """The committed files, oldest path first; none where the table does not exist yet."""
        table = self._open()
        if table is None:
            return []
        actions = pa.table(table.get_add_actions(flatten=True))
        rows = actions.select([c for c in actions.column_names if c in _ACTION_COLUMNS or c.startswith("partition.")])
        return sorted((self._file(row) for row in rows.to_pylist()), key=lambda file: file.path)

    def version(self) -> int:
        """The number of the newest commit, −1 where the table does not exist yet."""
        table = self._open()
        return -1 if table is None else int(table.version())

    def collect_parts(self, age: timedelta, *, dry_run: bool) -> list[ObjectInfo]:
        """Delete the Parquet files older than `age` that no commit names: parts of killed runs. Returns them."""
        from deltalake.exceptions import DeltaError

        written = [part for page in self.store.pages(self.name) for part in page if part.path.endswith(".parquet")]
        table = self._open()
        if table is None:
            return []  # young or old, they may still be committed by the run that makes the table
        try:
            gone = table.vacuum(
                retention_hours=math.ceil(age / timedelta(hours=1)),
                dry_run=dry_run,
                enforce_retention_duration=False,
                full=True,
            )
        except DeltaError as error:
            raise StoreUnavailable(f"the {self.name} table could not be cleaned: {error}") from error
        paths = {f"{self.name}/{unquote(path)}" for path in gone}
        return [part for part in written if part.path in paths]

    def _file(self, row: dict[str, Any]) -> TableFile:
        path = f"{self.name}/{unquote(row['path'])}"
        column = self.partition_by
        partition = {column: str(row[f"partition.{column}"])} if column else {}
        return TableFile(self.store.url(path), path, partition, int(row["num_records"]), int(row["size_bytes"]))

    def _open(self) -> Any:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            return DeltaTable(self._uri, storage_options=self.store.storage_options)
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            raise StoreUnavailable(f"the {self.name} table can't be read: {error}") from error

    def _open_or_create(self) -> Any:
        from deltalake import CommitProperties, DeltaTable
        from deltalake.exceptions import DeltaError

        table = self._open()
        if table is not None:
            return table
        try:
            return DeltaTable.create(
                self._uri,
                self.schema,
                partition_by=self.partition_by,
                storage_options=self.store.storage_options,
                # A lost race must not be retried as a later commit: it would change the winner's protocol.
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        except DeltaError:
            table = self._open()
            if table is None:
                raise
            return table

    @property
    def _uri(self) -> str:
        return self.store.url(self.name)


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
