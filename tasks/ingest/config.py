"""What decides a picture's row, and how much of ingest is in flight."""

from __future__ import annotations

import json
import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass

from tasks.config import DecodingConfig, ShardConfig


def _one_group(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    if groups != 1:
        raise ValueError(f"expected one group, the product's id, found {groups}")
    return pattern


def _as_in_gitignore(patterns: tuple[str, ...]) -> tuple[str, ...]:
    from pathspec import GitIgnoreSpec

    try:
        GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise ValueError(f"not as .gitignore spells patterns: {error}") from error
    return patterns


def _lines(patterns: object) -> object:
    """An environment variable's: one a line, as in the file, or a list as JSON."""
    if not isinstance(patterns, str):
        return patterns
    return json.loads(patterns) if patterns.startswith("[") else patterns.splitlines()


Patterns = Annotated[tuple[str, ...], BeforeValidator(_lines), AfterValidator(_as_in_gitignore)]
Pattern = Annotated[str, AfterValidator(_one_group)]


@dataclass(frozen=True, kw_only=True)
class IngestConfig(ShardConfig, DecodingConfig):
    """What decides a picture's row, and how much is in flight."""

    product_id_pattern: Pattern | None = Field(
        default=None,
        description="Regular expression on the image key; its one group is the product's id. By default the one that "
        "the lake was last given.",
    )
    exclude: Patterns = Field(
        default=(), description="Keys that are passed over, as .gitignore spells them: @eaDir/ or /thumbs/*.jpg."
    )
    max_deleted_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Stop where more than this share of the live pictures vanished or turned undecodable at once.",
    )
    max_object_bytes: int = Field(
        default=64 * 2**20, ge=1, description="Largest object that is fetched, bytes; a larger one is rejected."
    )
    max_pixels: int = Field(
        default=200_000_000, ge=1, description="Largest picture that is decoded, pixels; a larger one is rejected."
    )
    decode_bytes: int = Field(
        default=2**30, ge=1, description="Most memory of all large pictures that are decoded at once, bytes."
    )
    decode_seconds: float = Field(
        default=120.0, gt=0, description="Longest that one picture is decoded; one that takes longer is rejected."
    )
    fetch_threads: int | None = Field(
        default=None, ge=1, description="Objects of a shard in flight; by default 64 from S3 and 4 from a directory."
    )
    bytes_in_flight: int = Field(
        default=128 * 2**20, ge=1, description="Most bytes of a shard's objects that wait to be decoded."
    )
