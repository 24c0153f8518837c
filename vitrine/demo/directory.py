"""Where a demo may draw: an empty directory, or one that an earlier demo made."""

from __future__ import annotations

import shutil
from pathlib import Path

from lake.errors import LakeError

MADE_BY = ".vitrine-demo"  # marks a directory that the demo may draw anew


def make_room(directory: Path) -> None:
    """An empty directory. One that an earlier demo made is drawn anew; any other is left alone."""
    if directory.exists() and any(directory.iterdir()):
        if not (directory / MADE_BY).exists():
            raise LakeError(f"{directory} is not empty and no demo made it: name another directory")
        shutil.rmtree(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MADE_BY).touch()
    except OSError as error:
        raise LakeError(f"{directory} can't be written: {error.strerror}") from error
