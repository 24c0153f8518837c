"""SQL over the lake: the views and macros that analysts query, in memory and as catalogue.duckdb.

The views name exactly the committed Parquet files, so whoever opens an older catalogue.duckdb sees an older,
whole state. Nothing here imports torch, faiss or Prefect.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from lake.errors import LakeError, StoreUnavailable
from lake.lake import Lake, ServingPair
from lake.store import Store
from lake.tables import Table, TableFile
from lake.versions import Versions

CATALOGUE = "catalogue.duckdb"
CATALOGUE_ATTEMPTS = 3

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

# The tables' current state: what readers and the flows' own tasks both ask.
TABLE_VIEWS = """
CREATE VIEW image_history AS
    SELECT image_key, etag, size_bytes, last_modified, sha256, width, height, format, product_id, status, reason,
           ingested_at
    FROM {images};

-- The newest row of each key; a tombstone is newer than what it buries.
CREATE VIEW newest_images AS
    SELECT history.* FROM image_history AS history
    JOIN (SELECT image_key, max(ingested_at) AS ingested_at FROM image_history GROUP BY image_key)
    USING (image_key, ingested_at);

CREATE VIEW images AS SELECT * EXCLUDE (reason) FROM newest_images WHERE status = 'ok';

CREATE VIEW rejected AS
    SELECT image_key, reason, size_bytes, etag, last_modified, ingested_at
    FROM newest_images WHERE status = 'rejected';

CREATE VIEW pixels AS
    SELECT stored.image_key, stored.sha256, stored.pixels
    FROM {images} AS stored JOIN images USING (image_key, ingested_at);

CREATE VIEW score_history AS
    SELECT image_key, sha256, model_version::INTEGER AS model_version, polarity, label, positive_intensity,
           negative_intensity, embedding, scored_at
    FROM {scores};

-- What one model says of the live pictures. Two runs may have scored the same content; the first counts.
CREATE MACRO scores_of(model) AS TABLE
    SELECT images.image_key, images.product_id, history.* EXCLUDE (image_key)
    FROM score_history AS history
    JOIN (SELECT sha256, min(scored_at) AS scored_at FROM score_history
          WHERE model_version = model GROUP BY sha256) USING (sha256, scored_at)
    JOIN images USING (sha256)
    WHERE history.model_version = model;

"""

# What only readers ask: the serving model's scores, the runs, the shortcuts.
READER_VIEWS = """
CREATE VIEW scores AS FROM scores_of({model_version});

-- A run that was taken for dead may have left a row of its own after all: that one counts.
CREATE VIEW runs AS
    SELECT * FROM {runs}
    QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY status = 'crashed', finished_at DESC) = 1
    ORDER BY started_at;

CREATE MACRO most_positive(n := 10) AS TABLE
    SELECT image_key, product_id, polarity, positive_intensity, negative_intensity
    FROM scores ORDER BY polarity DESC, image_key LIMIT n;

CREATE MACRO most_negative(n := 10) AS TABLE
    SELECT image_key, product_id, polarity, positive_intensity, negative_intensity
    FROM scores ORDER BY polarity, image_key LIMIT n;

CREATE MACRO product_polarity() AS TABLE
    SELECT product_id, count(*) AS pictures, avg(polarity) AS polarity, min(polarity) AS lowest,
           max(polarity) AS highest, avg(positive_intensity) AS positive_intensity,
           avg(negative_intensity) AS negative_intensity
    FROM scores GROUP BY product_id ORDER BY polarity;

-- Exact search, picture by picture: the measure that the index is held against. Slow on a large catalogue.
CREATE MACRO similar_to(key, k := 10) AS TABLE
    SELECT others.image_key, others.product_id, others.polarity,
           list_cosine_similarity(others.embedding, wanted.embedding) AS similarity
    FROM scores AS others, (SELECT embedding FROM scores WHERE image_key = key) AS wanted
    WHERE others.image_key <> key ORDER BY similarity DESC, others.image_key LIMIT k;

CREATE MACRO polarity_changes(old_model, new_model) AS TABLE
    SELECT images.image_key, images.product_id, earlier.polarity AS old_polarity, later.polarity AS new_polarity,
           later.polarity - earlier.polarity AS change
    FROM images
    JOIN (SELECT sha256, arg_min(polarity, scored_at) AS polarity FROM score_history
          WHERE model_version = old_model GROUP BY sha256) AS earlier USING (sha256)
    JOIN (SELECT sha256, arg_min(polarity, scored_at) AS polarity FROM score_history
          WHERE model_version = new_model GROUP BY sha256) AS later USING (sha256)
    ORDER BY abs(later.polarity - earlier.polarity) DESC, image_key;
"""


# Where one model's embeddings of the live pictures lie, for the tasks that read them in bulk. As in scores_of, the
# first score of a content counts.
LOCATED_SCORES = """
CREATE MACRO located_scores_of(model) AS TABLE
    SELECT images.image_key, images.product_id, stored.*
    FROM (SELECT sha256, polarity, label, positive_intensity, negative_intensity, filename AS url,
                 file_row_number AS row
          FROM {stored} WHERE model_version = model
          QUALIFY row_number() OVER (PARTITION BY sha256 ORDER BY scored_at, filename, file_row_number) = 1) AS stored
    JOIN images USING (sha256);
"""

# Where the pixels of the live pictures lie, for the tasks that read them in bulk.
STORED_PICTURES = """
CREATE VIEW stored_pictures AS
    SELECT image_key, stored.sha256, filename AS url, file_row_number AS row
    FROM (SELECT image_key, sha256, ingested_at, filename, file_row_number FROM {stored} WHERE status = 'ok') AS stored
    JOIN images USING (image_key, ingested_at);

-- Every picture that was ever decoded, as it was last: a label stays of use when the shop drops the product.
CREATE VIEW pictures_ever AS
    SELECT stored.image_key, stored.sha256, stored.product_id, stored.pixels
    FROM {stored} AS stored
    JOIN (SELECT image_key, max(ingested_at) AS ingested_at FROM image_history WHERE status = 'ok'
          GROUP BY image_key) USING (image_key, ingested_at);
"""


@contextmanager
def connect(lake: Lake) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory DuckDB with the lake's views and macros as they are committed now: what readers ask.

    Raises StoreUnavailable where a file can't be read, LakeError for any other error of DuckDB's.
    """
    with _opened(lake) as connection:
        _create_views(connection, lake)
        yield connection


@contextmanager
def workbench(lake: Lake, *, memory_limit: str = "2GB") -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory DuckDB with the tables' current state and where pixels lie: what tasks ask.

    `memory_limit` (DuckDB's spelling) bounds joins and sorts, which spill to a temporary directory beyond it.
    Raises as `connect`.
    """
    with _opened(lake) as connection:
        connection.execute("SET memory_limit = ?", [memory_limit])
        images, scores = lake.images.files(), lake.scores.files()
        _create_table_views(connection, _relation(lake.images, images), _relation(lake.scores, scores))
        connection.execute(LOCATED_SCORES.format(stored=_relation(lake.scores, scores, located=True)))
        connection.execute(STORED_PICTURES.format(stored=_relation(lake.images, images, located=True)))
        yield connection


@contextmanager
def _opened(lake: Lake) -> Iterator[duckdb.DuckDBPyConnection]:
    with tempfile.TemporaryDirectory(prefix="vitrine-") as spill, duckdb.connect() as connection:
        try:
            connection.execute(f"SET temp_directory = {_quoted(spill)}")
            prepare(connection, lake.store)
            yield connection
        except (duckdb.IOException, duckdb.HTTPException) as error:
            raise StoreUnavailable(f"the tables of {lake.uri} can't be read: {_first_line(error)}") from error
        except duckdb.Error as error:
            raise LakeError(f"a query over {lake.uri} failed: {_first_line(error)}") from error


def prepare(connection: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Let the connection read the store's files: in an S3 lake, load httpfs and hand over the credentials."""
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET autoinstall_known_extensions = false")
    if store.s3 is None:
        return
    extension = _quoted(str(_extension("httpfs")))
    connection.execute(f"LOAD {extension}")
    # A table's files never change, so what is known of one need not be asked again.
    connection.execute("SET enable_http_metadata_cache = true")
    connection.execute("SET parquet_metadata_cache = true")
    names = {"access_key_id": "KEY_ID", "secret_access_key": "SECRET", "session_token": "SESSION_TOKEN"}
    options = {names[name]: _quoted(value) for name, value in store.s3.credentials().items()}
    options["REGION"] = _quoted(store.s3.region)
    if store.s3.endpoint:
        options["ENDPOINT"] = _quoted(store.s3.endpoint.split("://", 1)[1].rstrip("/"))
        options |= {"URL_STYLE": "'path'", "USE_SSL": "false" if store.s3.allow_http else "true"}
    rendered = ", ".join(f"{name} {value}" for name, value in options.items())
    connection.execute(f"CREATE OR REPLACE SECRET lake (TYPE s3, {rendered})")


def write_catalogue(lake: Lake) -> str:
    """Write catalogue.duckdb afresh, whole; a client that has the old file open keeps the old. Returns its URL.

    Where something is committed meanwhile, it is written again: of two writers, the later state stays.
    """
    for _ in range(CATALOGUE_ATTEMPTS):
        state = _state(lake)
        _write_once(lake)
        if _state(lake) == state:
            break
    return lake.store.url(CATALOGUE)


def _write_once(lake: Lake) -> None:
    with tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
        path = Path(folder, CATALOGUE)
        try:
            with duckdb.connect(str(path)) as connection:
                prepare(connection, lake.store)
                _create_views(connection, lake)
        except duckdb.Error as error:
            raise StoreUnavailable(f"{CATALOGUE} can't be written: {_first_line(error)}") from error
        lake.store.put(CATALOGUE, path.read_bytes())


def _state(lake: Lake) -> tuple[object, ...]:
    """What the catalogue depends on, in short."""
    tables = tuple(table.version() for table in (lake.images, lake.scores, lake.runs))
    return *tables, lake.models.newest(), lake.indexes.newest()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _create_views(connection: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    serving = lake.serving()
    _create_versions(connection, lake.models, serving.model_version)
    _create_versions(connection, lake.indexes, serving.index_version)
    _create_serving(connection, serving)
    _create_table_views(
        connection, _relation(lake.images, lake.images.files()), _relation(lake.scores, lake.scores.files())
    )
    version = -1 if serving.model_version is None else serving.model_version
    runs = _widened(lake.runs, lake.runs.files())
    connection.execute(READER_VIEWS.format(runs=runs, model_version=version))


def _create_table_views(connection: duckdb.DuckDBPyConnection, images: str, scores: str) -> None:
    connection.execute(TABLE_VIEWS.format(images=images, scores=scores))


def _create_versions(connection: duckdb.DuckDBPyConnection, versions: Versions, serving: int | None) -> None:
    """The registry as a small table: the log and the manifests are JSON, which views can't read in place."""
    rows = pa.Table.from_pylist(describe_versions(versions, serving), schema=VERSION_COLUMNS)
    connection.register("version_rows", rows)
    connection.execute(
        f"CREATE TABLE {versions.kind} AS SELECT * REPLACE (properties::JSON AS properties) FROM version_rows"
    )
    connection.unregister("version_rows")


def _create_serving(connection: duckdb.DuckDBPyConnection, serving: ServingPair) -> None:
    connection.execute("CREATE TABLE serving (model_version INTEGER, index_version INTEGER)")
    connection.execute("INSERT INTO serving VALUES (?, ?)", [serving.model_version, serving.index_version])


def describe_versions(versions: Versions, serving: int | None) -> list[dict[str, Any]]:
    """One row a version, oldest first: what was last said of it in the log, and its manifest's properties."""
    entries = versions.entries()
    current = entries[-1].current if entries else None
    newest = {entry.version: entry for entry in entries}
    # A draft that a dead run left behind is only ever spoken of when it is collected.
    named = {entry.version for entry in entries if entry.action != "collect"}
    newest = {version: entry for version, entry in newest.items() if version in named}
    rows = []
    for version, manifest in zip(sorted(newest), versions.manifests(sorted(newest)), strict=True):
        entry = newest[version]
        rows.append(
            {
                "version": version,
                "status": STATUS.get(entry.action, "accepted"),
                "is_current": version == current,
                "is_serving": version == serving,
                "created_at": manifest.created_at,
                "changed_at": entry.at,
                "reason": entry.reason,
                "properties": json.dumps(manifest.properties),
            }
        )
    return rows


def _relation(table: Table, found: Sequence[TableFile], *, located: bool = False) -> str:
    """The table's committed files as something to select from; typed and empty where there are none.

    `located` adds each row's place: filename and file_row_number.
    """
    if not found:
        columns = [f"NULL::{_sql_type(f.type)} AS {f.name}" for f in table.schema]
        columns += ["NULL::VARCHAR AS filename", "NULL::BIGINT AS file_row_number"] if located else []
        return f"(SELECT {', '.join(columns)} WHERE false)"
    options = f"hive_partitioning = {'true' if table.partition_by else 'false'}"
    options += ", filename = true, file_row_number = true" if located else ""
    return f"read_parquet({listed(file.url for file in found)}, {options})"


def _widened(table: Table, found: Sequence[TableFile]) -> str:
    """As `_relation`, where the files of earlier versions may lack columns: those read as null."""
    typed = _relation(table, [])
    if not found:
        return typed
    urls = listed(file.url for file in found)
    return f"(FROM {typed} UNION ALL BY NAME FROM read_parquet({urls}, union_by_name = true))"


def listed(urls: Iterable[str]) -> str:
    """Files as DuckDB's `read_parquet` takes them."""
    return "[" + ", ".join(map(_quoted, urls)) + "]"


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


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _extension(name: str) -> Path:
    """The extension's file inside its PyPI wheel: nothing is downloaded at run time."""
    root = package_files(f"duckdb_extension_{name}") / "extensions" / f"v{duckdb.__version__}"
    return Path(str(root / f"{name}.duckdb_extension"))
