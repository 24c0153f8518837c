"""Small helpers of every page: filling in a template, and words, numbers and pictures as a page shows them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

LONGEST_TEXT = 300  # characters of a key or a fact


def fill_in(template: Path, **words: Any) -> str:
    """The template's HTML. All that is filled in is escaped unless it is Markup; a word that is missing is an error."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template.read_text(encoding="utf-8")).render(**words)
    # A key may hold half a surrogate pair or a NUL, which no document may.
    return page.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


def shortened(text: str) -> str:
    """The text, or its beginning where it is longer than LONGEST_TEXT."""
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"


def signed(number: float, spelling: str = "+.3f") -> str:
    """The number with a true minus sign."""
    return format(number, spelling).replace("-", "−")


def percent(share: float) -> float:
    """A share as a place on a strip from 0 to 100, rounded for CSS."""
    return round(100 * min(1.0, max(0.0, share)), 2)


def facts(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Terms and their values in words; those of an inner mapping bear its name in front."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        term = before + str(name).replace("_", " ")
        rows += facts(value, f"{term}: ") if isinstance(value, Mapping) else [(term, _in_words(value))]
    return rows


def _in_words(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:g}"
        case _:
            return shortened(str(value))


def jpeg_uri(jpeg: bytes) -> str:
    """The picture as an address that asks no network."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
