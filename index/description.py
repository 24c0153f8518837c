"""`index.json`: what a version consists of and how it is searched. Nothing else of a version is opened first."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from index.errors import CorruptIndex, NotAnIndex
from index.spec import IndexSpec

FORMAT = 1
DESCRIPTION = "index.json"
_PATH = re.compile(r"(\.\./[0-9]+/)?\w[\w.-]*")  # what the description names is opened: nothing may lead elsewhere


@dataclass(frozen=True)
class IndexShard:
    """One shard of a version: `path` is that of its files without their endings, from the version's directory."""

    path: str
    rows: int  # the deleted ones too

    def files(self, spec: IndexSpec) -> tuple[str, ...]:
        """Vectors, keys and, unless flat, codes."""
        codes = () if spec.kind == "flat" else (f"{self.path}.codes.zst",)
        return (f"{self.path}.vectors.npy", f"{self.path}.keys.parquet", *codes)


@dataclass(frozen=True)
class CodebookHistory:
    """What is known of the codebook since it was trained, to tell when it no longer fits.

    Distances are mean squared ones to the nearest centroid; an imbalance of 1 means that all lists are equally
    long. The last three change from version to version.
    """

    path: str  # of the codebook's file, from the version's directory
    version: int  # that trained it
    reason: str  # why
    trained_rows: int
    coarse_distance: float  # of the training's rows
    imbalance: float = 1.0  # of the lists when they were new
    imbalance_now: float = 1.0
    added_rows: int = 0  # encoded since
    added_distance: float = 0.0  # of those


@dataclass(frozen=True)
class IndexDescription:
    """What `index.json` says: the parts, the shards, the rows that search answers from, and how to search them.

    `recall` is what was measured at this nprobe and rerank_factor; empty before measuring. `look_version` made the
    vectors; `fingerprint` is the caller's name for the exact rows that went in.
    """

    spec: IndexSpec
    rows: int  # that are not deleted
    shards: tuple[IndexShard, ...]
    look_version: int
    fingerprint: str
    nprobe: int = 32
    rerank_factor: int = 4
    recall: dict[str, float] = field(default_factory=dict)
    codebook: CodebookHistory | None = None  # None in a flat index
    deleted: str | None = None  # name of the table of deleted rows; None: there are none

    def __post_init__(self) -> None:
        rules = {
            "rows is a count": self.rows >= 0,
            "rows need a shard": self.rows == 0 or len(self.shards) > 0,
            "shards hold the rows": sum(shard.rows for shard in self.shards) >= self.rows,
            "nprobe is at least 1": self.nprobe >= 1,
            "rerank_factor is at least 1": self.rerank_factor >= 1,
            "files lie in this version's folder or in another's": all(map(_PATH.fullmatch, self._paths())),
            "all but a flat index have a codebook": (self.codebook is None) == (self.spec.kind == "flat"),
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise ValueError(f"{broken[0]}: {self}")

    def _paths(self) -> list[str]:
        """Every path that the description names, from the version's directory."""
        codebook = () if self.codebook is None else (self.codebook.path,)
        return [*(shard.path for shard in self.shards), *codebook, *(() if self.deleted is None else (self.deleted,))]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read the dictionary that `asdict` makes.

        Raises:
            KeyError, TypeError, ValueError: a field is missing, of the wrong type or impossible.
        """
        known = {each.name: values[each.name] for each in fields(cls)}
        for name in ("rows", "look_version", "nprobe", "rerank_factor"):
            if type(known[name]) is not int:
                raise TypeError(f"{name}: expected an integer, found {known[name]!r}")
        parts = {
            "spec": IndexSpec.from_dict(values["spec"]),
            "shards": tuple(IndexShard(**shard) for shard in values["shards"]),
            "recall": {name: float(value) for name, value in dict(values["recall"]).items()},
            "codebook": None if values["codebook"] is None else CodebookHistory(**values["codebook"]),
        }
        return cls(**known | parts)


def render_description(description: IndexDescription) -> bytes:
    """What `index.json` holds."""
    values = {"format": FORMAT, **asdict(description)}
    return (json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def write_description(directory: Path, description: IndexDescription) -> str:
    """Write `index.json`; return the file's name."""
    (directory / DESCRIPTION).write_bytes(render_description(description))
    return DESCRIPTION


def read_description(directory: Path) -> IndexDescription:
    """Read and check `index.json`.

    Raises:
        NotAnIndex: there is none, or it has a format that this code does not know.
        CorruptIndex: it is not what `write_description` wrote.
    """
    try:
        return parse_description((directory / DESCRIPTION).read_bytes(), str(directory / DESCRIPTION))
    except FileNotFoundError as error:
        raise NotAnIndex(f"no {DESCRIPTION} in {directory}") from error


def parse_description(data: bytes, what: str) -> IndexDescription:
    """Check the bytes of an `index.json`, which `what` names in errors.

    Raises:
        NotAnIndex: of a format that this code does not know.
        CorruptIndex: not what `render_description` made.
    """
    try:
        values = json.loads(data)
    except ValueError as error:
        raise CorruptIndex(f"{what} is not JSON: {error}") from error
    stored_format = values.get("format") if isinstance(values, dict) else None
    if stored_format != FORMAT:
        raise NotAnIndex(f"{what}: expected format {FORMAT}, found {stored_format!r}; update Vitrine if it is newer")
    try:
        return IndexDescription.from_dict(values)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptIndex(f"{what}: {error!r}") from error
