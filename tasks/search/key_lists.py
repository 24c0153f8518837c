"""Lists of keys that a search is to answer among: read as people and their programs write them, found in the index.

A file holds one key a line: plain text in UTF-8 or UTF-16, or one column of a spreadsheet or database, with quotes, a
header or other columns beside it; or it is a Parquet table.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from index.arrays import Mask
from index.errors import UnknownKey
from index.key_table import MISSING
from index.searching import Searcher
from index.similar_keys import similar_keys
from lake.errors import LakeError

COLUMN = "image_key"
DELIMITERS = ",;\t"
ENCODINGS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
SHOWN = 3  # keys that are named in a message


@dataclass(frozen=True)
class KeyCounts:
    """What a list of keys turned out to hold."""

    listed: int  # different keys
    repeated: int  # lines that name a key once more
    unknown: int  # different keys that the index does not hold
    examples: tuple[str, ...]  # some of those


@dataclass(frozen=True)
class ListedKeys:
    """The pictures of a list: one bool a row of the index, and what the list held."""

    mask: Mask
    counts: KeyCounts


def read_keys(path: Path) -> tuple[str, ...]:
    """The lines of a file that lists keys, or its column `image_key`; empty lines and the header left out.

    Raises:
        LakeError: it can't be read, is no text, or is a Parquet table without that column.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LakeError(f"{path} can't be read: {error.strerror}") from error
    lines = _of_parquet(path, data) if data.startswith(b"PAR1") else _of_text(path, data)
    return tuple(line for line in lines if line.strip())


def find_listed(searcher: Searcher, keys: Iterable[str]) -> ListedKeys:
    """Find the keys in an index: each as it is or, where there is none such, without blanks and quotes around it.

    Raises:
        UnknownKey: the index holds none of them, though some are listed.
    """
    lines = list(keys)
    rows = searcher.rows_of(lines)
    for reading in (str.strip, _unquoted, lambda line: _unquoted(line).strip()):
        left = np.flatnonzero(rows == MISSING)
        rows[left] = searcher.rows_of([reading(lines[line]) for line in left.tolist()])
    known = np.unique(rows[rows != MISSING])
    unknown = list(dict.fromkeys(_unquoted(lines[line]) for line in np.flatnonzero(rows == MISSING).tolist()))
    if unknown and not len(known):
        raise UnknownKey(_none_of_them(searcher, unknown))
    mask = np.zeros(len(searcher), dtype=np.bool_)
    mask[known] = True
    listed = len(known) + len(unknown)
    return ListedKeys(mask, KeyCounts(listed, len(lines) - listed, len(unknown), tuple(unknown[:SHOWN])))


def _of_parquet(path: Path, data: bytes) -> list[str]:
    try:
        table = parquet.ParquetFile(io.BytesIO(data))
        if COLUMN not in table.schema_arrow.names:
            raise LakeError(f"{path} has no column {COLUMN}, only {', '.join(table.schema_arrow.names)}")
        keys: list[str] = table.read([COLUMN])[COLUMN].drop_null().cast(pa.string()).to_pylist()
        return keys
    except pa.ArrowException as error:
        raise LakeError(f"{path} is no Parquet table of keys: {error}") from error


def _of_text(path: Path, data: bytes) -> list[str]:
    encoding = next((name for mark, name in ENCODINGS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise LakeError(f"{path} is not {encoding.upper()} text: {error.reason}; save it as UTF-8") from error
    # Not splitlines: it cuts at characters that names may hold.
    lines = text.replace("\r\n", "\n").split("\n" if "\n" in text else "\r")
    for delimiter in DELIMITERS:
        names = [name.strip().lower() for name in next(csv.reader(lines[:1], delimiter=delimiter), [])]
        if len(names) > 1 and COLUMN in names:
            rows = csv.reader(lines[1:], delimiter=delimiter)
            return [row[names.index(COLUMN)] for row in rows if len(row) > names.index(COLUMN)]
    return lines[_unquoted(lines[0]).strip().lower() == COLUMN :]


def _unquoted(line: str) -> str:
    """A line without the blanks around it, and what a spreadsheet or database means by it where it is in quotes."""
    bare = line.strip()
    return bare[1:-1].replace('""', '"') if len(bare) > 1 and bare[0] == bare[-1] == '"' else bare


def _none_of_them(searcher: Searcher, unknown: list[str]) -> str:
    alike = similar_keys(unknown[0], searcher.table[COLUMN])
    hint = f"similar keys: {', '.join(map(repr, alike))}" if alike else "no key is like it"
    count = "the one key" if len(unknown) == 1 else f"any of the {len(unknown)} keys"
    return f"the index does not hold {count} to search among, such as {unknown[0]!r} ({hint})"
