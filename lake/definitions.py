"""The statements of `lake/views/*.sql`, their macros made to name nothing but what they define themselves.

DuckDB looks names in a view up in the view's own database, and names in a macro up in the caller's: of an attached
catalogue.duckdb a macro would find none of its views. So each macro brings those that it asks along, as WITH.
"""

from __future__ import annotations

import re
from importlib.resources import files as package_files

_CREATE = re.compile(r"CREATE (VIEW|MACRO) (\w+)(?:\((.*?)\))?\s+AS\s+(?:TABLE\s+)?(.*)", re.DOTALL)


class Definitions:
    """The views and macros so far, of which later ones may speak."""

    def __init__(self) -> None:
        self._views: dict[str, str] = {}
        self._macros: dict[str, tuple[str, str]] = {}  # the one parameter of those that views call, and the body

    def statements(self, name: str, **words: str | int) -> list[str]:
        """What `lake/views/NAME.sql` creates, the words in braces filled in."""
        text = (package_files("lake") / "views" / f"{name}.sql").read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
        templates = "\n".join(lines).split(";\n")
        return [self._create(template.strip().removesuffix(";"), words) for template in templates if template.strip()]

    def _create(self, template: str, words: dict[str, str | int]) -> str:
        match = _CREATE.fullmatch(template)
        assert match is not None, template  # noqa: S101 (our own files)
        kind, name, parameters, body = match.groups()
        if kind == "VIEW":
            self._views[name] = self._without_calls(body).format(**words)
            return template.format(**words)
        self._macros[name] = parameters, body
        needed = self._needed(body)
        views = ", ".join(f"{view} AS NOT MATERIALIZED ({self._views[view]})" for view in needed)
        body = body.format(**words)
        return f"CREATE MACRO {name}({parameters}) AS TABLE {f'WITH {views} ' if needed else ''}{body}"

    def _without_calls(self, body: str) -> str:
        """The body with the macro that it calls in place of the call."""

        def called(match: re.Match[str]) -> str:
            parameter, inner = self._macros[match[1]]
            given = re.sub(rf"\b{parameter}\b", match[2], inner)
            return f"FROM ({given})"

        names = "|".join(self._macros)
        return re.sub(rf"FROM ({names})\(([^)]*)\)", called, body) if names else body

    def _needed(self, body: str) -> list[str]:
        """The views that a body speaks of, and those that these speak of, each after those that it needs."""
        named = {name for name in self._views if _speaks_of(body, name)}
        for name in reversed(self._views):
            if name in named:
                named |= {other for other in self._views if _speaks_of(self._views[name], other)}
        return [name for name in self._views if name in named]


def _speaks_of(body: str, view: str) -> bool:
    return re.search(rf"\b(?:FROM|JOIN)\s+{view}\b", body) is not None
