"""Labels files: what is accepted, how each bad row is named, and what a training run gets of them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lake.lake import open_lake
from tasks.errors import LabelsError
from tasks.ingest.config import IngestConfig
from tasks.retrain.labels import LabelSnapshot, parse_labels, read_labels_object, snapshot_labels
from tasks.shards import read_shard
from tests.small_lake import PRODUCT_ID_PATTERN, ingest
from vitrine.demo.draw_catalogue import draw_catalogue

COLUMNS = ["image_key", "label", "product_id", "strength", "weight", "category"]


def parse(text: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = parse_labels(text.encode(), "labels.csv").to_pydict()
    return found


def refused(data: str | bytes) -> str:
    with pytest.raises(LabelsError) as caught:
        parse_labels(data.encode() if isinstance(data, str) else data, "labels.csv")
    message = str(caught.value)
    assert "labels.csv" in message and "\n" not in message
    return message


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


# What is accepted


def test_two_columns_suffice_and_the_others_get_their_defaults() -> None:
    table = parse_labels(b"image_key,label\na.jpg,1\nb.jpg,0\nc.jpg,\n", "labels.csv")
    assert table.schema == pa.schema(
        [
            ("image_key", pa.string()),
            ("label", pa.float64()),
            ("product_id", pa.string()),
            ("strength", pa.float64()),
            ("weight", pa.float32()),
            ("category", pa.string()),
        ]
    )
    assert table.to_pydict() == {
        "image_key": ["a.jpg", "b.jpg", "c.jpg"],
        "label": [1, 0, None],
        "strength": [None, None, None],
        "product_id": [None, None, None],
        "weight": [1.0, 1.0, 1.0],
        "category": [None, None, None],
    }


def test_columns_may_stand_in_any_order_beside_others() -> None:
    assert parse("who,weight,label,image_key,product_id\nAda,2,1,a,p\nBob,,0,b,\n") == {
        "image_key": ["a", "b"],
        "label": [1, 0],
        "strength": [None, None],
        "product_id": ["p", None],
        "weight": [2.0, 1.0],
        "category": [None, None],
    }


def test_another_column_whose_type_changes_late_does_not_matter() -> None:
    rows = "".join(f"{number},1,{number}\n" for number in range(120_000))  # more than one block of the CSV reader
    found = parse(f"image_key,label,note\n{rows}last,0,not a number\n")
    assert found["image_key"][-1] == "last"


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffimage_key,label\na,1\nb,0\n",
        "image_key,label\r\na,1\r\nb,0\r\n",
        '"image_key","label"\n"a","1"\n"b","0"\n',
        '\ufeff"image_key","label"\r\n"a",1\r\nb,"0"\r\n',
        "\nimage_key,label\n\na,1\n\nb,0\n\n",
        "image_key,label\na, 1\nb,0 \n",
        "image_key,label\na,1.0\nb,0.0",
    ],
    ids=["byte order mark", "CRLF", "quoted", "all three", "blank lines", "spaces", "floats"],
)
def test_a_spreadsheets_habits_are_read_as_meant(text: str) -> None:
    found = parse(text)
    assert found["image_key"] == ["a", "b"]
    assert found["label"] == [1, 0]


def test_keys_and_products_stay_the_text_they_are() -> None:
    found = parse("image_key,label,product_id\n0012,1,007\n1e3,0,1.50\ntrue,1,\n2024-01-01,0,NULL\nNA,1,nan\n")
    assert found["image_key"] == ["0012", "1e3", "true", "2024-01-01", "NA"]
    assert found["product_id"] == ["007", "1.50", None, "NULL", "nan"]


def test_a_key_may_hold_whatever_csv_can_quote() -> None:
    keys = ["a,b.jpg", 'a "b".jpg', "a\nb.jpg", " a b .jpg", "ä/产品/é.jpg"]
    rows = "".join('"' + key.replace('"', '""') + '",1\n' for key in keys)
    assert parse(f"image_key,label\n{rows}")["image_key"] == keys


@pytest.mark.parametrize(
    "labels",
    [
        pa.array([1, 0, None], pa.int64()),
        pa.array([1, 0, None], pa.uint8()),
        pa.array([1.0, 0.0, None], pa.float64()),
        pa.array([1.0, 0.0, None], pa.float32()),
        pa.array([True, False, None]),
        pa.array([1, 0, None]).cast(pa.decimal128(21, 2)),
        pa.array(["1", "0", ""]),
        pa.array(["1", "0", None], pa.large_string()),
        pa.array(["1", "0", None]).dictionary_encode(),
        pa.array([1, 0, None]).dictionary_encode(),
    ],
    ids=lambda labels: str(labels.type).split(",")[0],
)
def test_parquet_labels_may_be_of_any_type_that_holds_0_and_1(labels: pa.Array) -> None:
    found = parse_labels(parquet(image_key=["a", "b", "c"], label=labels), "labels.parquet")
    assert found["label"].to_pylist() == [1, 0, None]
    assert found["label"].type == pa.float64()


def test_parquet_without_any_label_is_read() -> None:
    assert parse_labels(parquet(image_key=["a", "b"], label=pa.nulls(2)), "x")["label"].to_pylist() == [None, None]


def test_parquet_in_several_row_groups_keeps_every_row_and_ignores_other_columns() -> None:
    sink = io.BytesIO()
    keys = [f"{number:05d}" for number in range(1000)]
    table = pa.table({"image_key": keys, "label": [number % 2 for number in range(1000)], "who": [["Ada"]] * 1000})
    pq.write_table(table, sink, row_group_size=64)
    found = parse_labels(sink.getvalue(), "labels.parquet")
    assert found.column_names == COLUMNS
    assert found["image_key"].to_pylist() == keys
    assert found["label"].to_pylist() == [0, 1] * 500


def test_an_empty_text_is_no_product_and_no_weight() -> None:
    found = parse_labels(parquet(image_key=["a", "b"], label=[1, 0], product_id=["", "p"], weight=["", "2"]), "x")
    assert found["product_id"].to_pylist() == [None, "p"]
    assert found["weight"].to_pylist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "weights", [pa.array([0.5, None, 2.0]), pa.array([0.5, None, 2], pa.float32()), pa.array(["0.5", "", "2e0"])]
)
def test_weights_are_float32_and_one_where_they_are_missing(weights: pa.Array) -> None:
    found = parse_labels(parquet(image_key=["a", "b", "c"], label=[1, 0, 1], weight=weights), "labels.parquet")
    assert found["weight"].type == pa.float32()
    assert found["weight"].to_pylist() == [0.5, 1.0, 2.0]


@given(
    rows=st.lists(
        st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\x00\r\n"), min_size=1).filter(str.strip)),
        min_size=1,
        unique=True,
    ),
    data=st.data(),
)
def test_csv_and_parquet_of_the_same_rows_read_the_same(rows: list[tuple[str]], data: st.DataObject) -> None:
    keys = [key for (key,) in rows]
    labels = data.draw(st.lists(st.sampled_from([None, 0, 1]), min_size=len(keys), max_size=len(keys)))
    lines = [
        '"' + key.replace('"', '""') + '",' + ("" if label is None else str(label))
        for key, label in zip(keys, labels, strict=True)
    ]
    from_csv = parse_labels("\n".join(["image_key,label", *lines]).encode(), "x")
    from_parquet = parse_labels(parquet(image_key=keys, label=pa.array(labels, pa.int64())), "x")
    assert from_csv.equals(from_parquet)
    assert from_csv.select(["image_key", "label"]).to_pydict() == {"image_key": keys, "label": labels}


# What is refused


@pytest.mark.parametrize("data", ["", "\n", "\n\r\n \n", "\ufeff"])
def test_an_empty_file_is_refused_as_empty(data: str) -> None:
    message = refused(data)
    assert "is empty" in message or "found none" in message


@pytest.mark.parametrize(
    "data", ["image_key,label", "image_key,label\n", "\ufeffimage_key,label\r\n", "image_key,label\n\n"]
)
def test_a_header_without_rows_is_refused(data: str) -> None:
    assert "has no rows" in refused(data)


def test_parquet_without_rows_is_refused() -> None:
    assert "has no rows" in refused(parquet(image_key=pa.array([], pa.string()), label=pa.array([], pa.int64())))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("key,label\na,1\n", "key, label"),
        ("image_key\na\n", "image_key"),
        ("image_key;label\na;1\n", "image_key;label"),
        ("Image_Key,Label\na,1\n", "Image_Key, Label"),
        ("a.jpg,1\nb.jpg,0\n", "a.jpg, 1"),
    ],
    ids=["another name", "no label", "semicolons", "capitals", "no header"],
)
def test_missing_columns_are_named_beside_those_found(text: str, found: str) -> None:
    assert f"expected the columns image_key and label, found {found}" in refused(text)


def test_parquet_without_the_columns_is_refused() -> None:
    assert "expected the columns image_key and label, found key" in refused(parquet(key=["a"]))


def test_a_column_that_stands_there_twice_is_refused() -> None:
    assert "the column label stands there 2 times" in refused("image_key,label,label\na,1,0\n")


@pytest.mark.parametrize(
    "data",
    [
        b"image_key,label\na,1\nb,0,1\n",
        b"image_key,label\na,1\nb\n",
        b'image_key,label\n"a,1\nb,0\n',
        b"image_key,label\n\xff\xfe.jpg,1\n",
        "image_key,label\na,1\n".encode("utf-16"),
        parquet(image_key=["a"], label=[1])[:-20],
        b"PAR1",
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        b"PK\x03\x04 a spreadsheet",
    ],
    ids=["too many cells", "too few", "open quote", "latin-1", "utf-16", "cut parquet", "magic only", "png", "zip"],
)
def test_what_is_neither_csv_nor_parquet_is_refused_in_one_line(data: bytes) -> None:
    assert "CSV" in (message := refused(data)) or "expected the columns" in message


def test_a_ragged_rows_text_is_shown() -> None:
    assert "b,0,1" in refused("image_key,label\na,1\nb,0,1\n")


@pytest.mark.parametrize("values", [pa.array([[1], [0]]), pa.array([b"\xff", b"\xfe"]), pa.array([{"x": 1}, {"x": 2}])])
@pytest.mark.parametrize("column", COLUMNS)
def test_a_parquet_column_that_is_no_text_or_number_is_named(column: str, values: pa.Array) -> None:
    columns: dict[str, Any] = {"image_key": ["a", "b"], "label": [1, 0]} | {column: values}
    assert f"the column {column} holds" in refused(parquet(**columns))


@pytest.mark.parametrize("value", ["2", "-1", "1.5", "positive", "true", "01", "1e1", "nan", "10", "-"])
def test_a_label_outside_0_to_1_and_empty_is_named_with_its_key(value: str) -> None:
    assert f"1 labels are not from 0 to 1 or empty: 'b' has '{value}'" in refused(f"image_key,label\na,1\nb,{value}\n")


@pytest.mark.parametrize("value", [2.0, 1.0000001, -1e-20, float("nan"), float("inf")])
def test_a_parquet_number_outside_0_to_1_is_never_rounded_into_it(value: float) -> None:
    assert "1 labels are not from 0 to 1 or empty: 'b'" in refused(parquet(image_key=["a", "b"], label=[1.0, value]))


@given(shares=st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=9))
def test_a_share_is_a_label_as_it_stands(shares: list[float | None]) -> None:
    keys = [str(row) for row in range(len(shares))]
    lines = "".join(f"{key},{'' if share is None else share}\n" for key, share in zip(keys, shares, strict=True))
    columns = pa.table({"image_key": keys, "label": pa.array(shares, pa.float64())})
    whole: Any = io.BytesIO()
    pq.write_table(columns, whole)
    for data in (f"image_key,label\n{lines}".encode(), whole.getvalue()):
        assert parse_labels(data, "labels")["label"].to_pylist() == shares


def test_strengths_are_numbers_or_empty() -> None:
    found = parse_labels(b"image_key,label,strength\na,1,0.25\nb,0,\nc,,7\n", "labels")
    assert found["strength"].to_pylist() == [0.25, None, 7.0]
    assert parse_labels(b"image_key,label\na,1\n", "labels")["strength"].to_pylist() == [None]
    said = refused("image_key,label,strength\na,1,strong\nb,0,-1\nc,1,1\n")
    assert "2 strengths are no numbers of 0 or more: 'a' has 'strong', 'b' has '-1'" in said


def test_of_many_wrong_labels_all_are_counted_and_three_are_named() -> None:
    text = "image_key,label\n" + "".join(f"{name},7\n" for name in "abcde")
    message = refused(text)
    assert "5 labels" in message
    assert message.count("has '7'") == 3


def test_a_key_with_two_labels_is_named() -> None:
    assert "2 keys have more than one label: 'a', 'b'" in refused("image_key,label\na,1\nb,0\na,0\nc,1\nb,0\na,1\n")


@pytest.mark.parametrize("data", ["image_key,label\na,1\n,0\n", parquet(image_key=["a", None], label=[1, 0])])
def test_a_row_without_a_key_is_refused_with_its_number(data: str | bytes) -> None:
    assert "1 rows have no image_key, the first is row 2" in refused(data)


@pytest.mark.parametrize("value", ["-1", "-0.5", "nan", "inf", "-inf", "heavy", "1_000", "1e39", "0x10"])
def test_a_weight_that_is_no_number_of_0_or_more_is_named_with_its_key(value: str) -> None:
    message = refused(f"image_key,label,weight\na,1,1\nb,0,{value}\n")
    assert f"1 weights are no numbers of 0 or more: 'b' has '{value}'" in message


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 1e39])
def test_a_parquet_weight_that_is_no_number_of_0_or_more_is_refused(value: float) -> None:
    assert "1 weights" in refused(parquet(image_key=["a", "b"], label=[1, 0], weight=[0.0, value]))


def test_weights_that_are_all_zero_are_refused() -> None:
    assert "every weight is 0" in refused("image_key,label,weight\na,1,0\nb,0,0.0\n")


# What a training run gets


@dataclass(frozen=True)
class Shop:
    lake_uri: str
    live: tuple[str, ...]
    deleted: str
    broken: str
    broken_and_deleted: str


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("labelled")
    source, lake_uri = folder / "pictures", str(folder / "lake")
    drawn = draw_catalogue(source, products=2, views=2, size=64, broken=0)
    (source / "broken.jpg").write_bytes(b"no picture")
    (source / "gone.jpg").write_bytes(b"no picture either")
    config = IngestConfig(product_id_pattern=PRODUCT_ID_PATTERN, fetch_threads=2, decode_threads=2)
    ingest(lake_uri, str(source), config)
    *live, deleted = [picture.image_key for picture in drawn]
    (source / deleted).unlink()
    (source / "gone.jpg").unlink()
    ingest(lake_uri, str(source), config)
    return Shop(lake_uri, tuple(live), deleted, "broken.jpg", "gone.jpg")


def snapshot(shop: Shop, path: Path, rows: Sequence[str], header: str = "image_key,label") -> LabelSnapshot:
    path.write_text("\n".join([header, *rows]) + "\n")
    return snapshot_labels(open_lake(shop.lake_uri), str(path), "a-run")


def test_a_snapshot_holds_the_labelled_pictures_with_their_products(shop: Shop, tmp_path: Path) -> None:
    first, second, third = shop.live
    path = tmp_path / "labels.csv"
    found = snapshot(shop, path, [f"{first},1", f"{second},", f"{third},0"])
    assert (found.labelled, found.unlabelled, found.undecodable) == (2, 1, 0)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    rows = read_shard(open_lake(shop.lake_uri).store, found.shard)
    assert rows.to_pydict() == {
        "image_key": [first, third],
        "label": [1, 0],
        "strength": [None, None],
        "weight": [1.0, 1.0],
        "category": [None, None],
        "product": [first.split("/")[1], third.split("/")[1]],
    }


def test_a_snapshot_groups_by_the_labels_own_product_first_and_by_content_last(shop: Shop, tmp_path: Path) -> None:
    rows = [f"{shop.live[0]},1,my-product,0.5", f"{shop.live[1]},0,,"]
    found = snapshot(shop, tmp_path / "l.csv", rows, "image_key,label,product_id,weight")
    table = read_shard(open_lake(shop.lake_uri).store, found.shard)
    assert table["product"].to_pylist() == ["my-product", shop.live[1].split("/")[1]]
    assert table["weight"].to_pylist() == [0.5, 1.0]


def test_pictures_without_any_product_are_grouped_by_content(tmp_path: Path) -> None:
    source, lake_uri = tmp_path / "pictures", str(tmp_path / "lake")
    [drawn, *_] = draw_catalogue(source, products=1, views=1, size=64, broken=0)
    data = (source / drawn.image_key).read_bytes()
    (source / "copy.jpg").write_bytes(data)
    ingest(lake_uri, str(source))
    (tmp_path / "l.csv").write_text(f"image_key,label\n{drawn.image_key},1\ncopy.jpg,1\n")
    found = snapshot_labels(open_lake(lake_uri), str(tmp_path / "l.csv"), "a-run")
    rows = read_shard(open_lake(lake_uri).store, found.shard)
    assert rows["product"].to_pylist() == [hashlib.sha256(data).hexdigest()] * 2


def test_labels_of_rejected_pictures_are_counted_and_left_out(shop: Shop, tmp_path: Path) -> None:
    found = snapshot(shop, tmp_path / "l.csv", [f"{shop.live[0]},1", f"{shop.broken},0"])
    assert (found.labelled, found.undecodable, found.shard.rows) == (1, 1, 1)


def test_labels_of_rejected_pictures_that_the_shop_dropped_are_still_known(shop: Shop, tmp_path: Path) -> None:
    found = snapshot(shop, tmp_path / "l.csv", [f"{shop.live[0]},1", f"{shop.broken_and_deleted},0"])
    assert (found.labelled, found.undecodable) == (1, 1)


def test_an_unlabelled_rejected_picture_counts_as_unlabelled(shop: Shop, tmp_path: Path) -> None:
    found = snapshot(shop, tmp_path / "l.csv", [f"{shop.live[0]},1", f"{shop.broken},"])
    assert (found.labelled, found.unlabelled, found.undecodable) == (1, 1, 0)


def test_a_label_stays_of_use_when_the_shop_drops_the_picture(shop: Shop, tmp_path: Path) -> None:
    found = snapshot(shop, tmp_path / "l.csv", [f"{shop.deleted},1"])
    assert (found.labelled, found.undecodable) == (1, 0)
    rows = read_shard(open_lake(shop.lake_uri).store, found.shard)
    assert rows["product"].to_pylist() == [shop.deleted.split("/")[1]]


def test_pictures_that_the_lake_never_saw_are_counted_and_named(shop: Shop, tmp_path: Path) -> None:
    rows = [f"{shop.live[0]},1", *(f"nowhere/{number}.jpg,0" for number in range(5))]
    with pytest.raises(LabelsError) as caught:
        snapshot(shop, tmp_path / "l.csv", rows)
    message = str(caught.value)
    assert "5 of 6 labels are for pictures that the lake does not know" in message
    assert "'nowhere/0.jpg', 'nowhere/1.jpg', 'nowhere/2.jpg', …" in message


def test_a_snapshot_of_no_labels_is_empty(shop: Shop, tmp_path: Path) -> None:
    found = snapshot(shop, tmp_path / "l.csv", [f"{key}," for key in shop.live])
    assert (found.labelled, found.unlabelled, found.shard.rows) == (0, 3, 0)


def test_the_rows_keep_the_files_order_however_many_they_are(shop: Shop, tmp_path: Path) -> None:
    keys = [shop.deleted, *reversed(shop.live), shop.broken]
    found = snapshot(shop, tmp_path / "l.csv", [f"{key},{number % 2}" for number, key in enumerate(keys)])
    rows = read_shard(open_lake(shop.lake_uri).store, found.shard)
    assert rows["image_key"].to_pylist() == keys[:-1]
    assert rows["label"].to_pylist() == [0, 1, 0, 1]


def test_a_labels_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path / "no folder" / "none.csv"):
        with pytest.raises(LabelsError, match=r"the labels can't be read: .*none\.csv does not exist"):
            read_labels_object(str(path))


def test_a_directory_is_no_labels_file(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="the labels can't be read"):
        read_labels_object(str(tmp_path))
