"""What `vitrine sql` does: somebody's statements, carried out where they reach the lake's files and nothing else."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import typer

from lake import catalogue
from lake.asking import NotAllowed, answers, statements
from lake.errors import LakeError
from lake.lake import Lake
from vitrine.cli.output import fail
from vitrine.cli.printing import to_rows

FORMATS = {".csv": "FORMAT csv, HEADER", ".parquet": "FORMAT parquet", ".json": "FORMAT json, ARRAY true"}

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Exported:
    """A file that an answer was written to."""

    file: str
    rows: int


def answer(lake: Lake, text: str) -> list[Rows]:
    """The rows of each statement that gives any. Ends the command where the text is no SQL, or does more than read."""
    with _asking(lake, text) as (connection, asked):
        results = ((connection.execute(statement), answers(statement)) for statement in asked)
        return [to_rows(result.to_arrow_table()) for result, is_answer in results if is_answer]


def export_answer(lake: Lake, text: str, file: Path) -> Exported:
    """Write the one answer of the text to a file, whole or not at all. Rows are never all in memory."""
    partial = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    with _asking(lake, text) as (connection, asked), duckdb.connect() as writer:
        if [answers(statement) for statement in asked].count(True) != 1 or not answers(asked[-1]):
            raise typer.BadParameter("--export writes one answer: expected one SELECT, as the last statement")
        for statement in asked:
            result = connection.execute(statement)
        writer.register("answer", result.to_arrow_reader())
        writer.execute("SET TimeZone = 'UTC'")
        target = str(partial).replace("'", "''")
        try:
            written = writer.execute(f"COPY answer TO '{target}' ({FORMATS[file.suffix.lower()]})").fetchone()
            partial.replace(file)
        except (duckdb.IOException, OSError) as error:
            raise LakeError(f"{file} can't be written: {str(error).splitlines()[0]}") from error
        finally:
            partial.unlink(missing_ok=True)
    return Exported(str(file), 0 if written is None else int(written[0]))


def require_suffix(file: Path) -> None:
    """Raise BadParameter for a file whose name says no format."""
    if file.suffix.lower() not in FORMATS:
        raise typer.BadParameter(f"--export: expected a file that ends in {', '.join(FORMATS)}, found {str(file)!r}")


@contextmanager
def _asking(lake: Lake, text: str) -> Iterator[tuple[duckdb.DuckDBPyConnection, Sequence[duckdb.Statement]]]:
    """A locked connection and the statements of the text; errors in SQL end the command in DuckDB's own words."""
    with catalogue.connect(lake, locked=True) as connection:
        try:
            asked = statements(connection, text)
            if not asked:
                raise typer.BadParameter("there is no statement in the query")
            yield connection, asked
        except (duckdb.Error, NotAllowed) as error:
            fail(f"SQL: {error}", lines=True)
        except OverflowError:
            fail("SQL: a date or time lies outside the years 1 to 9999: cast it to VARCHAR")
