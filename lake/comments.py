"""What each view, column and macro of the catalogue holds, as comments that any DuckDB client shows."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files as package_files

import duckdb

from lake.places import quoted

# Of this database only: a connection may have others attached.
_VIEWS = """
    SELECT table_name, column_name, data_type FROM duckdb_columns()
    WHERE NOT internal AND database_name = current_database() ORDER BY table_name, column_index
"""
_KINDS = """
    SELECT table_name, 'TABLE' FROM duckdb_tables() WHERE NOT internal AND database_name = current_database() UNION ALL
    SELECT view_name, 'VIEW' FROM duckdb_views() WHERE NOT internal AND database_name = current_database()
"""
_MACROS = """
    SELECT function_name, parameters FROM duckdb_functions()
    WHERE NOT internal AND function_type = 'table_macro' AND database_name = current_database()
    ORDER BY function_name
"""


@dataclass(frozen=True)
class Column:
    """A column of a view."""

    name: str
    type: str
    comment: str


@dataclass(frozen=True)
class Described:
    """A view with its columns, or a macro with its parameters."""

    name: str
    kind: str  # view or macro
    comment: str
    columns: tuple[Column, ...] = ()
    parameters: tuple[str, ...] = ()


def describe(connection: duckdb.DuckDBPyConnection) -> list[Described]:
    """The views and then the macros of a connection to the catalogue, each by name."""
    text = (package_files("lake") / "views" / "comments.toml").read_text(encoding="utf-8")
    views, macros, columns = (tomllib.loads(text)[part] for part in ("views", "macros", "columns"))
    found: dict[str, list[Column]] = {}
    for view, name, kind in connection.execute(_VIEWS).fetchall():
        comment = columns.get(f"{view}.{name}") or columns[name]
        found.setdefault(view, []).append(Column(name, kind, comment))
    described = [Described(name, "view", views[name], tuple(held)) for name, held in found.items()]
    called = connection.execute(_MACROS).fetchall()
    return described + [
        Described(name, "macro", macros[name], parameters=tuple(parameters)) for name, parameters in called
    ]


def write_comments(connection: duckdb.DuckDBPyConnection) -> None:
    """Put the comments into the database that the connection has open."""
    kinds = dict(connection.execute(_KINDS).fetchall())
    for each in describe(connection):
        kind = "MACRO TABLE" if each.kind == "macro" else kinds[each.name]
        connection.execute(f"COMMENT ON {kind} {each.name} IS {quoted(each.comment)}")
        for column in each.columns:
            connection.execute(f"COMMENT ON COLUMN {each.name}.{column.name} IS {quoted(column.comment)}")
