"""What does it cost that a local lake's files are on the disk before they are visible?

Commits a second with and without fsync, in turn, on the disk of the directory that is given:

    .venv/bin/python benchmarks/commits.py [DIRECTORY]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from unittest import mock

import pyarrow as pa

from lake.lake import Lake, open_lake
from lake.schemas import IMAGES

ROUNDS = 3
PICTURES = pa.Table.from_pylist(
    [{"image_key": f"{n:03d}.jpg", "status": "ok", "pixels": os.urandom(10_000)} for n in range(100)], schema=IMAGES
)


def commits(lake: Lake, number: int) -> None:
    """A part of 1 MB and its transaction."""
    part = lake.images.write_part(PICTURES, f"part-{number}")
    lake.images.commit([part], application_id=f"run-{number}")


def versions(lake: Lake, number: int) -> None:
    """A version of one file of 1 MB: its claim, its manifest, its log entry."""
    newest, draft = lake.models.newest(), lake.models.draft()
    draft.add("weights", os.urandom(1_000_000))
    draft.seal({"number": number})
    lake.models.append("register", draft.version, based_on=newest)


def rate(lake: Lake, first: int, work: Callable[[Lake, int], None], times: int = 15) -> float:
    """How many times a second."""
    began = time.perf_counter()
    for number in range(first, first + times):
        work(lake, number)
    return times / (time.perf_counter() - began)


def main() -> None:
    """Print both rates of both kinds of commit."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        lake = open_lake(folder, create=True)
        for work in (commits, versions):
            synced, unsynced = [], []
            for number in range(ROUNDS):
                synced.append(rate(lake, 1000 * number, work))
                with mock.patch("os.fsync"):
                    unsynced.append(rate(lake, 1000 * number + 500, work))
            print(f"{work.__name__}: {max(synced):.0f}/s synced, {max(unsynced):.0f}/s without")


if __name__ == "__main__":
    main()
