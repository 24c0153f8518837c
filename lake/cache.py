"""Where versions' files lie on this machine: a local lake's where they are, a remote lake's in a cache directory.

Files are copied whole under another name first, so that several processes may share a cache; whether a copy is still
what it was is for the reader to verify (`lake/versions.py`).
"""

from __future__ import annotations

import hashlib
import re
import uuid
from contextlib import suppress
from pathlib import Path

from lake.errors import LakeError
from lake.log import Kind
from lake.manifest import Manifest
from lake.store import Store

_PARTIAL = re.compile(r"\.[0-9a-f]{32}$")


def versions_below(cache: Path, store: Store, kind: Kind) -> Path:
    """The directory that has one directory a version, of this lake and kind."""
    if store.directory is not None:
        return store.directory / kind / "versions"
    return cache / hashlib.sha256(store.uri.encode()).hexdigest()[:16] / kind


def version_below(versions: Path, version: int) -> Path:
    """A version's directory, which may not be there."""
    return versions / f"{version:06d}"


def copy_into(path: Path, data: bytes) -> None:
    """Write a file of the cache whole; whoever has an old one open keeps it. Raises LakeError where that fails."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise LakeError(
            f"the cache {path.parent} can't be written ({error.strerror}): make room, or set VITRINE_CACHE to a "
            "directory that can"
        ) from error


def forget_older(versions: Path, manifest: Manifest) -> None:
    """Remove what lies in older versions' directories and this manifest does not name.

    Newer versions, which a rebuild may be measuring, are left alone, and what another process is just copying.
    """
    version = manifest.version
    kept = {version_below(versions, each.held_by(version)) / each.name for each in manifest.files}
    folders = versions.iterdir() if versions.is_dir() else ()
    older = [folder for folder in folders if folder.name.isdigit() and int(folder.name) < version]
    for path in {path for folder in older for path in folder.iterdir()} - kept:
        if not _PARTIAL.search(path.name):
            path.unlink(missing_ok=True)
