"""Where catalogue.duckdb finds the lake's files: beside itself, where a client says, or where it was written for.

A view's files must be constants when it is bound, so a view can't ask which file it was read from. It can ask two
things: a variable of the client's, and the temporary directory, which DuckDB names after the file that it opened. An
attached file is known from `duckdb_databases()` alone, which a query may ask and a list of files may not: there the
files are named as they lay when the catalogue was written, and a condition of every view holds that against the path.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

CATALOGUE = "catalogue.duckdb"
VARIABLE = "vitrine_lake"  # a client's: the lake's root, in SET VARIABLE
MARK = "written_for"  # a table, by whose comment a catalogue knows itself among attached databases

_SAID = f"getvariable('{VARIABLE}')"
_SPILL = "current_setting('temp_directory')"  # FILE.tmp of a file that was opened, not attached
_IS_OPENED = f"regexp_extract({_SPILL}, '[^/]*$') = '{CATALOGUE}.tmp'"
_FOLDER = "coalesce(nullif(regexp_replace(min(path), '/?[^/]*$', ''), ''), '.')"  # of what is attached
_BESIDE = f"regexp_replace({_SPILL}, '[^/]*$', '')"


@dataclass(frozen=True)
class Place:
    """The root that a catalogue is written for. `fixed`: its files are there, wherever the catalogue itself lies."""

    root: str
    fixed: bool = False

    def files(self, paths: Iterable[str]) -> str:
        """The files at these paths below the root, as a list that `read_parquet` takes."""
        root = f"CASE WHEN {_SAID} IS NOT NULL THEN rtrim({_SAID}, '/') || '/'"
        root += "" if self.fixed else f" WHEN {_IS_OPENED} THEN {_BESIDE}"
        root += f" ELSE {quoted(self.root + '/')} END"
        # One expression for any number of files: lambdas are spelled differently from version to version.
        return f"string_split({root} || replace({quoted(chr(10).join(paths))}, chr(10), chr(10) || {root}), chr(10))"

    @property
    def check(self) -> str:
        """A condition that is true, or an error where an attached catalogue would read another lake's files."""
        if self.fixed:
            return "true"
        return f"""(
            SELECT CASE WHEN count(*) = 0 OR {_SAID} IS NOT NULL OR {_IS_OPENED} THEN true ELSE error(
                {quoted(f"this catalogue was written for {self.root} and is attached from ")} || min(path) ||
                ': SET VARIABLE {VARIABLE} = ' || chr(39) || {_FOLDER} || chr(39) || ' reads the files there, ' ||
                '`vitrine catalogue --lake ' || {_FOLDER} || '` writes a catalogue for them; where it is the same ' ||
                'lake, ATTACH it by its whole path'
            ) END
            FROM duckdb_databases() JOIN duckdb_tables() AS marked USING (database_oid)
            WHERE table_name = '{MARK}' AND marked.comment = {quoted(self.mark)}
              AND {_plain("path")} <> {_plain(quoted(f"{self.root}/{CATALOGUE}"))}
        )"""

    @property
    def mark(self) -> str:
        """The comment of the table that marks a catalogue of this place."""
        return f"The lake that this catalogue was written for: {self.root}"


def _plain(path: str) -> str:
    """A path without empty parts and dots between its slashes."""
    return f"regexp_replace({path}, '/(\\./|/)+', '/', 'g')"


def quoted(text: str) -> str:
    """A text as SQL spells it."""
    return "'" + text.replace("'", "''") + "'"
