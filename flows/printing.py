"""How results are shown to people, and to programs as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

MOST_ROWS = 100  # of a table on a terminal; --json prints them all
MOST_CELL = 60  # characters

console = Console(highlight=False, soft_wrap=True)
to_stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(_plain(value), indent=2, ensure_ascii=False, default=_as_text))  # noqa: T201 (the output of the command)


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None, title: str = "") -> None:
    """Rows as a table; long cells are shortened and many rows cut, which is said."""
    names = list(columns or (rows[0].keys() if rows else ()))
    if not names:
        console.print("no rows")
        return
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in names:
        numbers = all(isinstance(row[name], int | float) for row in rows if row[name] is not None)
        table.add_column(name, justify="right" if numbers and rows else "left", overflow="fold")
    for row in rows[:MOST_ROWS]:
        table.add_row(*(cell(row[name]) for name in names))
    console.print(table)
    if len(rows) > MOST_ROWS:
        console.print(f"… {len(rows) - MOST_ROWS} more rows; --json prints them all")


def print_fields(fields: Mapping[str, Any], title: str = "") -> None:
    """Names and values, one a line."""
    if title:
        console.print(f"[bold]{title}[/bold]")
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        console.print(f"  {name:<{width}}  {cell(value, most=200)}", markup=False)


def cell(value: Any, most: int = MOST_CELL) -> str:
    """A value as a person reads it in a table."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    if isinstance(value, list) and len(value) > 4:
        return f"[{', '.join(cell(item) for item in value[:3])}, … {len(value)}]"
    text = str(value).replace("\n", " ")
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
