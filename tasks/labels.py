"""Labels: read a CSV or Parquet file, check every row, fix the snapshot that a training run uses."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from lake import catalogue
from lake.errors import LakeError
from lake.lake import open_lake
from tasks.errors import LabelsError
from tasks.models import read_object
from tasks.units import unit
from tasks.workspace import Shard, write_shard

NAMED_ROWS = 3  # in an error


@dataclass(frozen=True)
class LabelSnapshot:
    """The labels of one training run, checked and fixed."""

    shard: Shard  # image_key, label, weight, group
    sha256: str  # of the file as it was read
    labelled: int
    unlabelled: int
    undecodable: int  # labels of pictures that the lake rejected


@unit
def snapshot_labels(lake_uri: str, labels: str, run_id: str) -> LabelSnapshot:
    """Read and check the labels against the lake. Raises LabelsError naming the rows; nothing is trained then."""
    data = read_labels_object(labels)
    table = parse_labels(data, labels)
    lake = open_lake(lake_uri)
    known = pa.table({"image_key": table["image_key"], "row": pa.array(np.arange(table.num_rows))})
    with catalogue.connect(lake) as sql:
        sql.register("wanted", known)
        found = sql.execute(
            """
            SELECT row, wanted.image_key, pictures_ever.sha256, pictures_ever.product_id,
                   rejected.image_key IS NOT NULL AS is_rejected
            FROM wanted LEFT JOIN pictures_ever USING (image_key) LEFT JOIN rejected USING (image_key) ORDER BY row
            """
        ).to_arrow_table()
    decoded = found["sha256"].is_valid()
    unknown = [
        row
        for row, (here, rejected) in enumerate(zip(decoded.to_pylist(), found["is_rejected"].to_pylist(), strict=True))
        if not here and not rejected
    ]
    if unknown:
        raise LabelsError(
            f"{labels}: {len(unknown)} of {table.num_rows} labels are for pictures that the lake does not know: "
            f"{_named(table, unknown)}; ingest them first, or correct image_key (the path below the source)"
        )
    chosen = _chosen(table, found)
    kept = chosen.filter(chosen["label"].is_valid()).filter(decoded.filter(chosen["label"].is_valid()))
    shard = write_shard(lake.store, run_id, "labels", 0, kept)
    labelled = int(pa.compute.sum(table["label"].is_valid()).as_py() or 0)
    return LabelSnapshot(
        shard=shard,
        sha256=hashlib.sha256(data).hexdigest(),
        labelled=kept.num_rows,
        unlabelled=table.num_rows - labelled,
        undecodable=labelled - kept.num_rows,
    )


def read_labels_object(labels: str) -> bytes:
    """The labels file's bytes. Raises LabelsError where there is none."""
    try:
        return read_object(labels)
    except LakeError as error:
        raise LabelsError(f"the labels can't be read: {error}") from error


def parse_labels(data: bytes, name: str) -> pa.Table:
    """The labels as columns image_key, label (int64, null: none), product_id and weight, every row checked.

    Raises:
        LabelsError: no CSV or Parquet, a column missing, a key twice, a value outside 0, 1 and empty.
    """
    table = _read(data, name)
    missing = {"image_key", "label"} - set(table.column_names)
    if missing:
        raise LabelsError(
            f"{name}: expected the columns image_key and label, found {', '.join(table.column_names) or 'none'}"
        )
    if table.num_rows == 0:
        raise LabelsError(f"{name} has no rows")
    keys = _text(table["image_key"])
    _check_keys(keys, name)
    columns = {"image_key": keys, "label": _labels(_text(table["label"]), keys, name)}
    rows = table.num_rows
    has_product = "product_id" in table.column_names
    columns["product_id"] = _text(table["product_id"]) if has_product else pa.nulls(rows, pa.string())
    has_weight = "weight" in table.column_names
    columns["weight"] = (
        _weights(_text(table["weight"]), keys, name) if has_weight else pa.array(np.ones(rows, np.float32))
    )
    return pa.table(columns)


def _read(data: bytes, name: str) -> pa.Table:
    try:
        if data[:4] == b"PAR1":
            return pq.read_table(io.BytesIO(data))
        data.decode("utf-8")
        header = data.split(b"\n", 1)[0].decode("utf-8-sig").strip().split(",")
        # Every column as text: a key such as 0012 must stay 0012.
        options = pa.csv.ConvertOptions(
            column_types={column.strip().strip('"'): pa.string() for column in header},
            strings_can_be_null=True,
            null_values=[""],
        )
        return pa.csv.read_csv(io.BytesIO(data), convert_options=options)
    except (pa.ArrowInvalid, pa.ArrowException, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise LabelsError(f"{name} is neither CSV nor Parquet: {first}") from error


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string())


def _check_keys(keys: pa.ChunkedArray, name: str) -> None:
    empty = [row for row, key in enumerate(keys.to_pylist()) if not key]
    if empty:
        raise LabelsError(f"{name}: {len(empty)} rows have no image_key, the first is row {empty[0] + 2}")
    counted = keys.value_counts().to_pylist()
    twice = [found["values"] for found in counted if found["counts"] > 1]
    if twice:
        named = ", ".join(map(repr, twice[:NAMED_ROWS]))
        raise LabelsError(f"{name}: {len(twice)} keys have more than one label: {named}; keep one row each")


def _labels(column: pa.ChunkedArray, keys: pa.ChunkedArray, name: str) -> pa.Array:
    allowed = {None: None, "": None, "0": 0, "1": 1, "0.0": 0, "1.0": 1}
    values = [None if value is None else value.strip() for value in column.to_pylist()]
    wrong = [row for row, value in enumerate(values) if value not in allowed]
    if wrong:
        found = ", ".join(f"{keys[row].as_py()!r} has {values[row]!r}" for row in wrong[:NAMED_ROWS])
        raise LabelsError(f"{name}: {len(wrong)} labels are not 0, 1 or empty: {found}")
    return pa.array([allowed[value] for value in values], pa.int64())


def _weights(column: pa.ChunkedArray, keys: pa.ChunkedArray, name: str) -> pa.Array:
    try:
        weights = np.array([1.0 if value is None else float(value) for value in column.to_pylist()], np.float32)
    except ValueError as error:
        raise LabelsError(f"{name}: a weight is no number: {error}") from error
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        key = keys[int(wrong[0])].as_py()
        raise LabelsError(f"{name}: {len(wrong)} weights are not 0 or more, the first for {key!r}")
    return pa.array(weights)


def _chosen(table: pa.Table, found: pa.Table) -> pa.Table:
    """The columns that training reads; a picture's group is its product, else its content."""
    group = pa.compute.coalesce(table["product_id"], found["product_id"], found["sha256"])
    return pa.table(
        {"image_key": table["image_key"], "label": table["label"], "weight": table["weight"], "group": group}
    )


def _named(table: pa.Table, rows: list[int]) -> str:
    keys: list[Any] = [table["image_key"][row].as_py() for row in rows[:NAMED_ROWS]]
    return ", ".join(map(repr, keys)) + (", …" if len(rows) > NAMED_ROWS else "")
