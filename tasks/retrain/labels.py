"""Labels: read a CSV or Parquet file, check every row, fix the snapshot that a training run uses."""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from lake import catalogue
from lake.errors import LakeError
from lake.lake import Lake
from tasks.errors import LabelsError
from tasks.objects import read_object
from tasks.shards import Shard, write_shard

COLUMNS = ("image_key", "label", "product_id", "weight", "category", "strength")  # the first two must be there
LABEL = r"^([0-9](\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
NUMBER = r"^\+?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
NAMED_ROWS = 3  # in an error
MOST_SHOWN = 200  # characters of a header in an error


@dataclass(frozen=True)
class LabelSnapshot:
    """The labels of one training run, checked and fixed."""

    shard: Shard  # image_key, label, strength, weight, category, product
    sha256: str  # of the file as it was read
    labelled: int
    unlabelled: int
    undecodable: int  # labels of pictures that the lake rejected


def snapshot_labels(lake: Lake, labels: str, run_id: str) -> LabelSnapshot:
    """Read and check the labels against the lake. Raises LabelsError naming the rows; nothing is trained then."""
    data = read_labels_object(labels)
    table = parse_labels(data, labels)
    pictures = _look_up(lake, table["image_key"])
    unknown = pc.invert(pictures["is_known"])
    if _any(unknown):
        wrong = table["image_key"].filter(unknown)
        raise LabelsError(
            f"{labels}: {len(wrong)} of {table.num_rows} labels are for pictures that the lake does not know: "
            f"{_named(wrong)}; ingest them first, or correct image_key (the path below the source)"
        )
    # A picture of no product is a product of its own content.
    product = pc.coalesce(table["product_id"], pictures["product_id"], pictures["sha256"])
    columns = table.select(["image_key", "label", "strength", "weight", "category"]).append_column("product", product)
    kept = columns.filter(pc.and_(table["label"].is_valid(), pictures["sha256"].is_valid()))
    shard = write_shard(lake.store, run_id, "labels", 0, kept)
    labelled = table.num_rows - table["label"].null_count
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
    """The labels, every row checked.

    Columns: image_key; label, the share of positive in [0, 1] (double, null: none); strength, how strong what the
    label says is, in any unit of 0 or more (double, null: not known), which no training reads; product_id; weight;
    category.

    Raises:
        LabelsError: no CSV or Parquet, a column missing, a key twice, a label outside [0, 1], a weight or a strength
            that is no number.
    """
    table = _read(data, name)
    if table.num_rows == 0:
        raise LabelsError(f"{name} has no rows")
    keys = _text(table, "image_key", name)
    _check_keys(keys, name)
    return pa.table(
        {
            "image_key": keys,
            "label": _labels(_text(table, "label", name), keys, name),
            "product_id": _text(table, "product_id", name),
            "strength": _numbers(_text(table, "strength", name), keys, "strengths", name),
            "weight": _weights(_text(table, "weight", name), keys, name),
            "category": _text(table, "category", name),
        }
    )


def _read(data: bytes, name: str) -> pa.Table:
    """The columns that labels have, whatever other columns lie beside them."""
    if not data.strip():
        raise LabelsError(f"{name} is empty: expected the columns image_key and label")
    kind = "Parquet" if data[:4] == b"PAR1" else "CSV"
    try:
        if kind == "Parquet":
            columns = _expected_columns(pq.read_schema(io.BytesIO(data)).names, name)
            return pq.read_table(io.BytesIO(data), columns=columns)
        lines = csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline=""))
        header: list[str] = next((line for line in lines if line), [])
        return _read_csv(data, _expected_columns(header, name))
    except (pa.ArrowException, OSError, csv.Error, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise LabelsError(f"{name} can't be read as {kind} (labels are CSV or Parquet): {first}") from error


def _expected_columns(header: list[str], name: str) -> list[str]:
    """Those of `COLUMNS` that the file has. Raises LabelsError where one is missing or stands there twice."""
    if not {"image_key", "label"} <= set(header):
        shown = ", ".join(header).strip(", ") or "none"
        raise LabelsError(f"{name}: expected the columns image_key and label, found {shown[:MOST_SHOWN]}")
    twice = [column for column in COLUMNS if header.count(column) > 1]
    if twice:
        raise LabelsError(f"{name}: the column {twice[0]} stands there {header.count(twice[0])} times; keep one")
    return [column for column in COLUMNS if column in header]


def _read_csv(data: bytes, columns: list[str]) -> pa.Table:
    if b"\n" not in data.strip() and b"\r" not in data.strip():  # the header alone, which pyarrow calls empty
        return pa.table({column: pa.nulls(0, pa.string()) for column in columns})
    # Every column as text: a key such as 0012 must stay 0012.
    options = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(columns, pa.string()),
        include_columns=columns,  # another column's type, guessed from its first rows, may not fit the later ones
        strings_can_be_null=True,
        null_values=[""],
    )
    parsing = pa.csv.ParseOptions(newlines_in_values=True)
    return pa.csv.read_csv(io.BytesIO(data), parse_options=parsing, convert_options=options)


def _text(table: pa.Table, column: str, name: str) -> pa.Array:
    """A column as trimmed text, null where it is empty or not there."""
    if column not in table.column_names:
        return pa.nulls(table.num_rows, pa.string())
    values = table[column].combine_chunks()
    kind = values.type
    try:
        if pa.types.is_dictionary(kind):
            values = values.dictionary_decode()
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.int8())
        text = values.cast(pa.string())
    except pa.ArrowException as error:
        raise LabelsError(f"{name}: the column {column} holds {kind}, expected text or numbers") from error
    if column != "image_key":
        text = pc.utf8_trim_whitespace(text)
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _check_keys(keys: pa.Array, name: str) -> None:
    if keys.null_count:
        first = pc.index(keys.is_null(), True).as_py()
        raise LabelsError(f"{name}: {keys.null_count} rows have no image_key, the first is row {first + 1}")
    counted = keys.value_counts()
    twice = counted.field("values").filter(pc.greater(counted.field("counts"), 1))
    if len(twice):
        raise LabelsError(f"{name}: {len(twice)} keys have more than one label: {_named(twice)}; keep one row each")


def _labels(values: pa.Array, keys: pa.Array, name: str) -> pa.Array:
    wrong = pc.invert(pc.fill_null(pc.match_substring_regex(values, LABEL), True))
    if not _any(wrong):
        labels = values.cast(pa.float64())
        wrong = pc.fill_null(pc.greater(labels, 1.0), False)
    if _any(wrong):
        first = _named(keys.filter(wrong), values.filter(wrong))
        raise LabelsError(f"{name}: {_sum(wrong)} labels are not from 0 to 1 or empty: {first}")
    return labels


def _weights(values: pa.Array, keys: pa.Array, name: str) -> pa.Array:
    weights = pc.fill_null(_numbers(values, keys, "weights", name), 1.0).cast(pa.float32())
    if not pc.max(weights).as_py():
        raise LabelsError(f"{name}: every weight is 0, so nothing would be learned")
    return weights


def _numbers(values: pa.Array, keys: pa.Array, what: str, name: str) -> pa.Array:
    """As double, null where empty. Raises LabelsError for what is no number of 0 or more that float32 holds."""
    wrong = pc.invert(pc.fill_null(pc.match_substring_regex(values, NUMBER), True))
    if not _any(wrong):
        numbers = values.cast(pa.float64())
        wrong = pc.invert(pc.fill_null(pc.is_finite(numbers.cast(pa.float32())), True))
    if _any(wrong):
        first = _named(keys.filter(wrong), values.filter(wrong))
        raise LabelsError(f"{name}: {_sum(wrong)} {what} are no numbers of 0 or more: {first}")
    return numbers


def _look_up(lake: Lake, keys: pa.ChunkedArray) -> pa.Table:
    """One row a key, in their order: its sha256 and product_id where it was ever decoded, and whether it is known."""
    labelled = pa.table({"image_key": keys, "row": pa.array(np.arange(len(keys)))})
    with catalogue.workbench(lake) as sql:
        sql.register("labelled", labelled)
        return sql.execute(
            """
            SELECT row, decoded.sha256, decoded.product_id, known.image_key IS NOT NULL AS is_known
            FROM labelled
            LEFT JOIN (SELECT image_key, sha256, product_id FROM decoded_ever) AS decoded USING (image_key)
            LEFT JOIN (SELECT DISTINCT image_key FROM image_history) AS known USING (image_key) ORDER BY row
            """
        ).to_arrow_table()


def _any(flags: Any) -> bool:
    return bool(pc.any(flags).as_py())


def _sum(flags: Any) -> int:
    return int(pc.sum(flags).as_py() or 0)


def _named(keys: Any, values: Any = None) -> str:
    """The first keys, each with its value where values are given."""
    first = [repr(key) for key in keys[:NAMED_ROWS].to_pylist()]
    if values is not None:
        first = [f"{key} has {value!r}" for key, value in zip(first, values[:NAMED_ROWS].to_pylist(), strict=True)]
    return ", ".join([*first, *(["…"] if len(keys) > NAMED_ROWS else [])])
