"""SQL over the lake: the views and macros that analysts query, in memory and as catalogue.duckdb.

Their SQL is in `lake/views/`: `tables.sql` for everyone, `readers.sql` for analysts, `places.sql` for tasks.
The views name exactly the committed Parquet files, so whoever opens an older catalogue.duckdb sees an older,
whole state. Nothing here imports torch, faiss or Prefect.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from functools import partial
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from lake.asking import lock
from lake.comments import write_comments
from lake.definitions import Definitions
from lake.directory import write as write_file
from lake.errors import LakeError
from lake.lake import Lake
from lake.places import CATALOGUE, MARK, VARIABLE, Place, quoted
from lake.retries import retried
from lake.s3 import authorities
from lake.scratch import scratch
from lake.store import Store
from lake.store_errors import by_cause
from lake.tables import Table, TableFile
from lake.versions import Versions

CATALOGUE_ATTEMPTS = 3
NO_VERSION = -1  # the number of none

DAMAGED = "damaged"  # its manifest can't be read
STATUS = {"refuse": "refused", "register": "registered", "collect": "collected"}

VERSION_COLUMNS = pa.schema(
    [
        ("version", pa.int32()),
        ("status", pa.string()),
        ("is_current", pa.bool_()),
        ("is_serving", pa.bool_()),
        ("created_at", pa.timestamp("us", tz="UTC")),
        ("changed_at", pa.timestamp("us", tz="UTC")),
        ("reason", pa.string()),
        ("properties", pa.string()),  # the manifest's, as JSON
    ]
)


@contextmanager
def connect(lake: Lake, *, locked: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory DuckDB with the lake's views and macros as they are committed now: what readers ask.

    `locked`: for SQL of others, which then reaches the lake's committed files and nothing else (`lake/asking.py`).
    Raises StoreUnavailable where a file can't be read, LakeError for any other error of DuckDB's.
    """
    with _opened(lake) as connection:
        files = _create_views(connection, lake)
        if locked:
            lock(connection, files)
        yield connection


@contextmanager
def workbench(lake: Lake, *, memory_limit: str = "2GB") -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory DuckDB with the tables' current state and where pixels lie: what tasks ask.

    `memory_limit` (DuckDB's spelling) bounds joins and sorts, which spill to a temporary directory beyond it.
    Raises as `connect`.
    """
    with _opened(lake) as connection:
        connection.execute("SET memory_limit = ?", [memory_limit])
        images, embeddings = (table.files() for table in (lake.images, lake.embeddings))
        definitions = Definitions()
        _create(
            connection,
            definitions,
            "tables",
            images=_relation(lake.images, images),
            embeddings=_relation(lake.embeddings, embeddings),
            scores=_relation(lake.scores, lake.scores.files()),
        )
        _create(
            connection,
            definitions,
            "places",
            images=_relation(lake.images, images, located=True),
            embeddings=_relation(lake.embeddings, embeddings, located=True),
        )
        yield connection


@contextmanager
def _opened(lake: Lake) -> Iterator[duckdb.DuckDBPyConnection]:
    with scratch() as spill, duckdb.connect() as connection:
        try:
            connection.execute(f"SET temp_directory = {quoted(str(spill))}")
            prepare(connection, lake.store)
            with _signals_as_they_came():
                yield connection
        except (duckdb.IOException, duckdb.HTTPException) as error:
            raise _failure(error, lake, f"the tables of {lake.uri} can't be read") from error
        except duckdb.Error as error:
            raise LakeError(f"a query over {lake.uri} failed: {_first_line(error)}") from error


@contextmanager
def _signals_as_they_came() -> Iterator[None]:
    """At a signal DuckDB ends its query with an error of its own: raise what the signal's handler raised instead."""
    try:
        yield
    except (duckdb.Error, RuntimeError) as error:
        if error.__cause__ is None or isinstance(error.__cause__, Exception):
            raise
        raise error.__cause__ from None


def prepare(connection: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Let the connection read the store's files: of an S3 lake, load httpfs and hand over credentials and its root."""
    connection.execute("SET allow_persistent_secrets = false")  # neither read the user's nor write there
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET autoinstall_known_extensions = false")
    # A table's files never change, so what is known of one need not be read again, for each view that names it.
    connection.execute("SET parquet_metadata_cache = true")
    if store.s3 is None:
        return
    connection.execute(f"SET VARIABLE {VARIABLE} = {quoted(store.url())}")
    # The extension lies inside its PyPI wheel: nothing is downloaded at run time.
    wheel = package_files("duckdb_extension_httpfs") / "extensions" / f"v{duckdb.__version__}"
    connection.execute(f"LOAD {quoted(str(wheel / 'httpfs.duckdb_extension'))}")
    if bundle := authorities():
        connection.execute("SET ca_cert_file = ?", [bundle])
    connection.execute("SET enable_http_metadata_cache = true")
    names = {"access_key_id": "KEY_ID", "secret_access_key": "SECRET", "session_token": "SESSION_TOKEN"}
    options = {names[name]: quoted(value) for name, value in store.s3.credentials().items()}
    options["REGION"] = quoted(store.s3.region)
    if store.s3.endpoint:
        options["ENDPOINT"] = quoted(store.s3.endpoint.split("://", 1)[1].rstrip("/"))
        options |= {"URL_STYLE": "'path'", "USE_SSL": "false" if store.s3.allow_http else "true"}
    rendered = ", ".join(f"{name} {value}" for name, value in options.items())
    connection.execute(f"CREATE OR REPLACE SECRET lake (TYPE s3, {rendered})")


def write_catalogue(lake: Lake, *, at: str | None = None, file: Path | None = None) -> str:
    """Write catalogue.duckdb whole; a client that has the old file open keeps the old. Returns its URL or path.

    Where something is committed meanwhile, it is written again: of two writers, the later state stays. `at`: the root
    where its readers find the lake's files, wherever the catalogue lies; else they find them beside it. `file`: to
    write there and not into the lake.
    """
    place = Place(lake.store.url()) if at is None else Place(at.rstrip("/"), fixed=True)
    for _ in range(CATALOGUE_ATTEMPTS):
        state = _state(lake)
        retried(partial(_write_once, lake, place, file))
        if _state(lake) == state:
            break
    return lake.store.url(CATALOGUE) if file is None else str(file)


def _write_once(lake: Lake, place: Place, file: Path | None) -> None:
    with scratch() as folder:
        path = folder / CATALOGUE
        try:
            with duckdb.connect(str(path)) as connection:
                prepare(connection, lake.store)
                connection.execute(f"SET VARIABLE {VARIABLE} = {quoted(lake.store.url())}")
                _create_views(connection, lake, place)
                connection.execute(f"CREATE TABLE {MARK} AS SELECT {quoted(place.root)} AS lake")
                write_comments(connection)
                connection.execute(f"COMMENT ON TABLE {MARK} IS {quoted(place.mark)}")
        except duckdb.Error as error:
            raise _failure(error, lake, f"{CATALOGUE} can't be written") from error
        if file is None:
            lake.store.put(CATALOGUE, path.read_bytes())
        else:
            write_file(file.absolute(), path)


def _state(lake: Lake) -> tuple[object, ...]:
    """What the catalogue depends on, in short."""
    tables = tuple(table.version() for table in (lake.images, lake.embeddings, lake.scores, lake.runs))
    return *tables, lake.looks.newest(), lake.models.newest(), lake.indexes.newest()


def _failure(error: duckdb.Error, lake: Lake, otherwise: str) -> LakeError:
    """Disks fill where queries spill; everything else is the store's."""
    where = "the temporary directory (TMPDIR)" if re.search("No space left|File too large", str(error)) else lake.uri
    return by_cause(error, lake.uri, where, otherwise)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _create_views(connection: duckdb.DuckDBPyConnection, lake: Lake, place: Place | None = None) -> list[str]:
    """Everything that readers ask; the URLs of the files that it reads."""
    serving = lake.serving()
    _create_versions(connection, lake.looks, serving.look_version)
    _create_versions(connection, lake.models, serving.model_version)
    _create_versions(connection, lake.indexes, serving.index_version)
    connection.execute("CREATE TABLE serving (look_version INTEGER, index_version INTEGER, model_version INTEGER)")
    connection.execute("INSERT INTO serving VALUES (?, ?, ?)", list(astuple(serving)))
    files = {table: table.files() for table in (lake.images, lake.embeddings, lake.scores, lake.runs)}
    tables = {table.name: _relation(table, committed, place=place) for table, committed in files.items()}
    runs, definitions = tables.pop("runs"), Definitions()
    _create(connection, definitions, "tables", **tables)
    _create(
        connection,
        definitions,
        "readers",
        runs=runs,
        look_version=serving.look_version or NO_VERSION,
        model_version=serving.model_version or NO_VERSION,
    )
    return [file.url for committed in files.values() for file in committed]


def _create(connection: duckdb.DuckDBPyConnection, definitions: Definitions, name: str, **words: str | int) -> None:
    """Carry out `lake/views/NAME.sql`, the words in braces filled in."""
    for statement in definitions.statements(name, **words):
        connection.execute(statement)


def _create_versions(connection: duckdb.DuckDBPyConnection, versions: Versions, serving: int | None) -> None:
    """The registry as a small table: the log and the manifests are JSON, which views can't read in place."""
    rows = pa.Table.from_pylist(describe_versions(versions, serving), schema=VERSION_COLUMNS)
    connection.register("version_rows", rows)
    connection.execute(
        f"CREATE TABLE {versions.kind} AS SELECT * REPLACE (properties::JSON AS properties) FROM version_rows"
    )
    connection.unregister("version_rows")


def describe_versions(versions: Versions, serving: int | None) -> list[dict[str, Any]]:
    """One row a version, oldest first: what was last said of it in the log, and its manifest's properties."""
    entries = versions.entries()
    current = entries[-1].current if entries else None
    newest = {entry.version: entry for entry in entries}
    # A draft that a dead run left behind is only ever spoken of when it is collected.
    named = sorted({entry.version for entry in entries if entry.action != "collect"})
    return [
        {
            "version": version,
            "status": DAMAGED if manifest is None else STATUS.get(newest[version].action, "accepted"),
            "is_current": version == current,
            "is_serving": version == serving,
            "created_at": None if manifest is None else manifest.created_at,
            "changed_at": newest[version].at,
            "reason": newest[version].reason,
            "properties": json.dumps({} if manifest is None else manifest.properties),
        }
        for version, manifest in versions.manifests(named).items()
    ]


def _relation(table: Table, files: Sequence[TableFile], *, located: bool = False, place: Place | None = None) -> str:
    """The table's committed files as something to select from; typed and empty where there are none.

    `located` adds each row's place: filename and file_row_number. With a `place`, files are found from there.
    """
    if not files:
        columns = [f"NULL::{_sql_type(f.type)} AS {f.name}" for f in table.schema]
        columns += ["NULL::VARCHAR AS filename", "NULL::BIGINT AS file_row_number"] if located else []
        return f"(SELECT {', '.join(columns)} WHERE false)"

    def read(some: Sequence[TableFile]) -> str:
        named = listed(file.url for file in some) if place is None else place.files(file.path for file in some)
        # Not by hive_partitioning: DuckDB reads KEY=VALUE from the whole path, the lake's own folder included.
        return (
            f"read_parquet({named}, hive_partitioning = false{', filename = true, file_row_number = true' * located})"
        )

    relation = _by_partition(table, files, read)
    return relation if place is None else f"(SELECT * FROM {relation} WHERE {place.check})"


def _by_partition(table: Table, files: Sequence[TableFile], read: Callable[[Sequence[TableFile]], str]) -> str:
    """The files as `read` reads them, with the column that stands in their folders' names."""
    column = table.partition_by
    if column is None:
        return read(files)
    kind = _sql_type(table.schema.field(column).type)
    by_value: dict[int, list[TableFile]] = defaultdict(list)
    for file in files:
        by_value[int(file.partition[column])].append(file)
    parts = (f"SELECT *, {value}::{kind} AS {column} FROM {read(some)}" for value, some in sorted(by_value.items()))
    return f"({' UNION ALL BY NAME '.join(parts)})"


def listed(urls: Iterable[str]) -> str:
    """Files as DuckDB's `read_parquet` takes them."""
    return "[" + ", ".join(map(quoted, urls)) + "]"


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        return "STRUCT(" + ", ".join(f"{f.name} {_sql_type(f.type)}" for f in kind) + ")"
    return _SQL_TYPES[str(kind)]


_SQL_TYPES = {
    "string": "VARCHAR",
    "binary": "BLOB",
    "bool": "BOOLEAN",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "timestamp[us, tz=UTC]": "TIMESTAMP WITH TIME ZONE",
}
