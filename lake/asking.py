"""Somebody's SQL over the lake: it reads the lake's committed files, and neither writes nor reaches anything else.

DuckDB itself refuses files, hosts, extensions and settings once a connection is locked. What it would still allow,
writing over one of the files that may be read, is no statement of the kinds that are carried out here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import duckdb

from lake.errors import LakeError

READING = ("SELECT", "EXPLAIN")  # also FROM, VALUES, WITH, SHOW, DESCRIBE, SUMMARIZE
IN_MEMORY = ("CREATE", "INSERT", "UPDATE", "DELETE", "MERGE_INTO", "ALTER", "DROP")  # helpers of a later statement
_EXPLAIN = re.compile(r"\s*EXPLAIN\b(\s*ANALYZE\b)?\s*(\([^)]*\))?", re.IGNORECASE)
_VARIABLE = re.compile(r"\s*SET\s+VARIABLE\b", re.IGNORECASE)


class NotAllowed(LakeError):
    """A statement that does more than read."""


def lock(connection: duckdb.DuckDBPyConnection, files: Iterable[str]) -> None:
    """From here on the connection reads these files, and no query gets it to do more."""
    connection.execute("SET python_enable_replacements = false")  # or names would be looked up among our variables
    connection.execute("SET allowed_paths = ?", [list(files)])
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def statements(connection: duckdb.DuckDBPyConnection, text: str) -> list[duckdb.Statement]:
    """The statements of the text, of a locked connection. Raises NotAllowed, duckdb.Error for what is no SQL."""
    found = connection.extract_statements(text)  # a locked one: IMPORT DATABASE would read files here
    for statement in found:
        _check(connection, statement)
    return found


def answers(statement: duckdb.Statement) -> bool:
    """Whether the statement gives rows that somebody asked for."""
    return statement.type.name in READING


def _check(connection: duckdb.DuckDBPyConnection, statement: duckdb.Statement) -> None:
    kind = statement.type.name
    if kind == "EXPLAIN":  # EXPLAIN ANALYZE carries out what it explains
        explained = connection.extract_statements(_EXPLAIN.sub("", statement.query, count=1))
        kind = "EXPLAIN" if [each.type.name for each in explained] == ["SELECT"] else "EXPLAIN of more than a SELECT"
    if kind not in READING + IN_MEMORY and not (kind == "SET" and _VARIABLE.match(statement.query)):
        raise NotAllowed(
            f"only reads are allowed here, found {kind.replace('_', ' ')}: --export FILE writes a result to a file, "
            "and any DuckDB opens catalogue.duckdb"
        )
