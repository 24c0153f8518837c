"""What a sealed version holds: every file's name, size and sha256, and whatever its maker says of it.

A manifest may name files that lie in an earlier version's folder. They stay as long as a version that names them
(`lake/collection.py`); a collected version keeps its manifest and loses the rest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime

from lake.errors import CorruptFile

MANIFEST = "manifest.json"
# A name becomes a path on the machine of whoever reads the version: nothing in it may lead elsewhere, on any system.
_NAME = re.compile(r"[^\s./\\:*?\"<>|%#][^/\\:*?\"<>|%#]*(/[^\s./\\:*?\"<>|%#][^/\\:*?\"<>|%#]*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_plain(name: str) -> bool:
    """Whether a name can be that of a version's file: parts between slashes, none hidden, absolute or upwards."""
    return len(name) <= 200 and name.isprintable() and _NAME.fullmatch(name) is not None


def path_in(holder: int, name: str) -> str:
    """Where a file in the folder of version `holder` lies, seen from any other version's folder."""
    return f"../{holder:06d}/{name}"


@dataclass(frozen=True)
class FileRecord:
    """One file of a version, as it was when the version was sealed."""

    name: str
    size_bytes: int
    sha256: str
    stored_in: int | None = None  # the version whose folder holds it; None: the version's own

    def __post_init__(self) -> None:
        if not is_plain(self.name):
            raise ValueError(f"{self.name!r} is no name of a version's file")
        if self.size_bytes < 0 or not _SHA256.fullmatch(self.sha256) or self.held_by(1) < 1:
            raise ValueError(f"{self.name}: expected a size, a sha256 and the number of a version")

    def held_by(self, version: int) -> int:
        """The version whose folder holds this file of `version`."""
        return version if self.stored_in is None else self.stored_in

    def path_from(self, version: int) -> str:
        """Where the file lies, seen from `version`'s folder."""
        holder = self.held_by(version)
        return self.name if holder == version else path_in(holder, self.name)

    def check(self, what: str, size_bytes: int, sha256: str) -> None:
        """Raise CorruptFile, of `what`, unless size and hash are those of the record."""
        if (size_bytes, sha256) != (self.size_bytes, self.sha256):
            raise CorruptFile(
                f"{what} is damaged: expected {self.size_bytes} bytes with sha256 {self.sha256[:12]}…, "
                f"found {size_bytes} with {sha256[:12]}…; roll back to another version"
            )


@dataclass(frozen=True)
class Manifest:
    """What a version holds: its files and whatever its maker says of it."""

    version: int
    created_at: AwareDatetime
    files: tuple[FileRecord, ...]
    properties: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a document."""
        files = [{name: value for name, value in asdict(each).items() if value is not None} for each in self.files]
        created_at = self.created_at.isoformat()
        return {"version": self.version, "created_at": created_at, "files": files, "properties": self.properties}


def sha256_of_file(path: Path) -> str:
    """The file's sha256, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
