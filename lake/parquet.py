"""How the tables' rows become Parquet bytes: small to store, and quick to read some of."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lake.errors import CorruptFile, ObjectNotFound
from lake.store import Store
from lake.store_errors import one_line


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
        write_page_checksum=True,
        write_statistics=[name for name in _leaves(rows.schema) if name != "pixels"],
    )
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


def check_parquet(store: Store, path: str, size_bytes: int, rows: int) -> None:
    """Read a part whole. Raises CorruptFile where its size, its rows or the checksum of a page is another."""
    try:
        data = store.get(path)
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            read = sum(file.read_row_group(number).num_rows for number in range(file.num_row_groups))
    except ObjectNotFound as error:
        raise CorruptFile(str(error)) from error
    except (OSError, pa.ArrowException) as error:
        raise CorruptFile(f"{path} is damaged: {one_line(str(error))}") from error
    if (len(data), read) != (size_bytes, rows):
        raise CorruptFile(
            f"{path} is damaged: expected {size_bytes} bytes with {rows} rows, found {len(data)} with {read}"
        )


def _leaves(schema: pa.Schema) -> list[str]:
    return [path for f in schema for path in _leaf_paths(f.name, f.type)]


def _leaf_paths(prefix: str, kind: pa.DataType) -> list[str]:
    if pa.types.is_list(kind):
        return _leaf_paths(f"{prefix}.list.element", kind.value_type)
    if pa.types.is_struct(kind):
        return [path for f in kind for path in _leaf_paths(f"{prefix}.{f.name}", f.type)]
    return [prefix]


def round_to_bfloat16(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Float32 values rounded (to nearest, ties to even) to what bfloat16 holds, still as float32.

    The low 16 bits become zero, which zstd stores for nearly nothing.
    """
    floats = np.ascontiguousarray(values, dtype=np.float32)
    bits = floats.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    rounded = np.where(np.isnan(floats), np.uint32(0x7FC00000), rounded)  # the sum makes of some an infinity or a zero
    result: NDArray[np.float32] = (rounded & np.uint32(0xFFFF0000)).view(np.float32)
    return result
