"""How results are shown to people, and to programs as JSON."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, TextIO, cast

from rich.console import Console

from vitrine.cli.printable import printable

if TYPE_CHECKING:
    import pyarrow as pa

MOST_ROWS = 100  # of a table on a terminal; --json prints them all
MOST_CELL = 200  # characters: a key must stay whole


class _Stderr:
    """Standard error, which may vanish with its terminal or its reader: a night goes on without either.

    No class of io, whose objects are flushed once more where they end, which may be after the interpreter's modules.
    """

    @property
    def _stream(self) -> TextIO:
        # While bars are shown, rich stands before it.
        stream: TextIO = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
        return stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


class _Console(Console):
    """A console for text that others wrote, keys and reasons: it shows what a terminal would carry out."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(printable(each) if isinstance(each, str) else each for each in objects), **options)


console = _Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
to_stderr = _Console(file=cast(TextIO, _Stderr()), highlight=False, soft_wrap=True, markup=False, emoji=False)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, default=_as_text)
    # JSON spells the control characters below a space; the others, inside strings all, are spelled the same way here.
    print("".join(each if each.isprintable() or each == "\n" else _spelled(each) for each in text))  # noqa: T201


def _spelled(character: str) -> str:
    """A character as JSON spells it, in one \\u or, beyond the first plane, two."""
    return json.dumps(character)[1:-1]


def to_rows(table: pa.Table) -> list[dict[str, Any]]:
    """A table as rows. Of columns with one name, which SQL allows, the later ones are numbered."""
    names: list[str] = []
    for name in table.column_names:
        taken = {*names, *table.column_names}
        numbered = (new for number in itertools.count(1) if (new := f"{name}_{number}") not in taken)
        names.append(next(numbered) if name in names else name)
    rows: list[dict[str, Any]] = table.rename_columns(names).to_pylist()
    return rows


def print_rows(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str] | None = None,
    title: str = "",
    decimals: int | None = None,
) -> None:
    """Rows as a table, or one block a row where a table would be wider than the terminal."""
    names = list(columns or (rows[0].keys() if rows else ()))
    if title:
        console.print(title, style="bold")
    if not rows:
        console.print("no rows")
        return
    shown = [[cell(row[name], decimals=decimals) for name in names] for row in rows[:MOST_ROWS]]
    widths = [max(map(len, column)) for column in zip(names, *shown, strict=True)]
    if console.is_terminal and sum(widths) + 2 * len(widths) > console.width:
        _print_blocks(names, shown)
    else:
        numbers = [all(isinstance(row[name], int | float | None) for row in rows) for name in names]
        _print_table(names, shown, widths, numbers)
    if len(rows) > MOST_ROWS:
        console.print(f"… {len(rows) - MOST_ROWS} more rows; --json prints them all")


def _print_table(
    names: Sequence[str], shown: Sequence[Sequence[str]], widths: Sequence[int], right: Sequence[bool]
) -> None:
    for number, cells in enumerate([names, *shown]):
        padded = [
            text.rjust(width) if is_right else text.ljust(width)
            for text, width, is_right in zip(cells, widths, right, strict=True)
        ]
        console.print("  ".join(padded).rstrip(), style="dim" if number == 0 else None)


def _print_blocks(names: Sequence[str], shown: Sequence[Sequence[str]]) -> None:
    width = max(map(len, names))
    for number, cells in enumerate(shown):
        if number:
            console.print()
        for name, text in zip(names, cells, strict=True):
            console.print(f"{name:<{width}}  {text}")


def print_fields(fields: Mapping[str, Any], title: str = "") -> None:
    """Names and values, one a line."""
    if title:
        console.print(title, style="bold")
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        console.print(f"  {name:<{width}}  {cell(value, most=200)}")


def cell(value: Any, most: int = MOST_CELL, decimals: int | None = None) -> str:
    """A value as a person reads it in a table; floats of four digits that count, or of so many decimals."""
    if value is None:
        return "–"
    if isinstance(value, float):
        digits = ".4g" if decimals is None else f".{decimals}f"
        return f"{value:{digits}}" if math.isfinite(value) else str(value)
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    if isinstance(value, list) and len(value) > 4:
        return f"[{', '.join(cell(item) for item in value[:3])}, … {len(value)}]"
    text = printable(str(value).replace("\n", " "))
    return text if len(text) <= most else text[: most - 1] + "…"


def _plain(value: Any) -> Any:
    """The value with dataclasses and containers as JSON's own; JSON knows no NaN, so that becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _as_text(value: Any) -> str:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        return bytes(value).hex()
    return str(value)
