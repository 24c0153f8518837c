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

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lake.errors import LakeError, StoreUnavailable, lost
from lake.store import ObjectInfo, Store

WRITER = "vitrine-writer"  # a Delta application id: its version is the epoch of the lease on the lake
FENCE_ATTEMPTS = 5  # who is to be fenced off commits once or twice meanwhile
COMMIT_RETRIES = 100  # appends never conflict; delta-rs's own 15 were not enough for eight writers on S3
UTC_TIME = pa.timestamp("us", tz="UTC")

IMAGES = pa.schema(
    [
        ("image_key", pa.string()),
        ("etag", pa.string()),
        ("size_bytes", pa.int64()),
        ("last_modified", UTC_TIME),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("product_id", pa.string()),
        ("status", pa.string()),  # ok, rejected or deleted
        ("reason", pa.string()),  # why it was rejected
        ("pixels", pa.binary()),  # JPEG, short side at most 256
        ("ingested_at", UTC_TIME),
    ]
)

SCORES = pa.schema(
    [
        ("image_key", pa.string()),
        ("sha256", pa.string()),
        ("model_version", pa.int32()),
        ("polarity", pa.float32()),  # P(positive)
        ("label", pa.string()),  # positive or negative
        ("positive_intensity", pa.float32()),
        ("negative_intensity", pa.float32()),
        ("embedding", pa.list_(pa.field("element", pa.float32()))),
        ("scored_at", UTC_TIME),
    ]
)

STAGE = pa.struct([("name", pa.string()), ("seconds", pa.float64()), ("pictures", pa.int64())])

STAGE_TIME = pa.struct([("name", pa.string()), ("busy_s", pa.float64()), ("waiting_s", pa.float64())])

RUNS = pa.schema(
    [
        ("run_id", pa.string()),
        ("parent_run_id", pa.string()),
        ("flow", pa.string()),
        ("status", pa.string()),  # completed, failed, cancelled or crashed
        ("error", pa.string()),
        ("started_at", UTC_TIME),
        ("finished_at", UTC_TIME),
        ("source", pa.string()),
        ("model_version", pa.int32()),
        ("index_version", pa.int32()),
        ("listed", pa.int64()),
        ("unchanged", pa.int64()),
        ("ingested", pa.int64()),
        ("rejected", pa.int64()),
        ("failed", pa.int64()),
        ("skipped", pa.int64()),
        ("deleted", pa.int64()),
        ("live", pa.int64()),
        ("already_scored", pa.int64()),
        ("scored", pa.int64()),
        ("indexed", pa.int64()),
        ("published", pa.bool_()),
        ("pictures_per_second", pa.float64()),
        ("stages", pa.list_(pa.field("element", STAGE))),
        ("stage_times", pa.list_(pa.field("element", STAGE_TIME))),
        ("bottleneck", pa.string()),  # the name of the stage that held up the others
        ("arithmetic", pa.string()),  # in which numbers the network scored
    ]
)


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
        return sorted((self._file(row) for row in rows.to_pylist()), key=lambda found: found.path)

    def version(self) -> int:
        """The number of the newest commit, −1 where the table does not exist yet."""
        table = self._open()
        return -1 if table is None else int(table.version())

    def collect_parts(self, age: timedelta, *, dry_run: bool) -> list[ObjectInfo]:
        """Delete the Parquet files older than `age` that no commit names: parts of killed runs. Returns them."""
        from deltalake.exceptions import DeltaError

        written = [found for page in self.store.pages(self.name) for found in page if found.path.endswith(".parquet")]
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
        return [found for found in written if found.path in paths]

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


def encode_parquet(rows: pa.Table) -> bytes:
    """Rows as Parquet bytes. Pixels are compressed already; floats are split by byte before zstd."""
    floats = [f.name for f in rows.schema if pa.types.is_float32(f.type)]
    floats += [
        f"{f.name}.list.element" for f in rows.schema if pa.types.is_list(f.type) and f.type.value_type == pa.float32()
    ]
    plain = {"pixels"} | set(floats)
    sink = pa.BufferOutputStream()  # half the time of BytesIO
    pq.write_table(
        rows,
        sink,
        compression={name: "none" if name == "pixels" else "zstd" for name in _leaves(rows.schema)},
        use_dictionary=[name for name in _leaves(rows.schema) if name not in plain],
        use_byte_stream_split=floats,
        row_group_size=256,  # small enough that reading some of a part's pixels does not read all
        write_statistics=[name for name in _leaves(rows.schema) if name != "pixels"],
    )
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


def _leaves(schema: pa.Schema) -> list[str]:
    return [path for f in schema for path in _leaf_paths(f.name, f.type)]


def _leaf_paths(prefix: str, kind: pa.DataType) -> list[str]:
    if pa.types.is_list(kind):
        return _leaf_paths(f"{prefix}.list.element", kind.value_type)
    if pa.types.is_struct(kind):
        return [path for f in kind for path in _leaf_paths(f"{prefix}.{f.name}", f.type)]
    return [prefix]


def round_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Float32 values rounded (to nearest, ties to even) to what bfloat16 holds, still as float32.

    The low 16 bits become zero, which zstd stores for nearly nothing.
    """
    floats = np.ascontiguousarray(values, dtype=np.float32)
    bits = floats.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    rounded = np.where(np.isnan(floats), np.uint32(0x7FC00000), rounded)  # the sum makes of some an infinity or a zero
    result: np.ndarray = (rounded & np.uint32(0xFFFF0000)).view(np.float32)
    return result
