"""The pictures' source: which of its objects are taken for pictures, and what makes it unusable."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from lake.errors import ObjectNotFound
from lake.store import Store, open_store
from model.pictures.formats import PICTURE_SUFFIXES
from tasks.errors import SourceError

UNREADABLE_SUFFIXES = frozenset({".svg", ".psd", ".eps"})


def are_pictures(listed: pa.RecordBatch) -> pa.BooleanArray:
    """Which objects of a listing are taken for pictures by their names: a picture's suffix, or none at all.

    What a web server is asked may follow the suffix (`mug.jpg?v=167`). Of which kind a picture is, its bytes say.

    Pictures of kinds that are not read here count, too: they are pictures to their owner, and are rejected with a
    reason rather than passed over.
    """
    paths = listed["path"]
    suffixed = pc.match_substring_regex(paths, _PICTURE_NAME, ignore_case=True)
    # An empty object without a suffix is how S3 browsers mark a folder.
    bare = pc.and_(pc.match_substring_regex(paths, _NO_SUFFIX), pc.greater(listed["size_bytes"], 0))
    hidden = pc.match_substring_regex(paths, _HIDDEN)
    return pc.and_not(pc.or_(suffixed, bare), hidden)


_PICTURE_NAME = rf"(?:{'|'.join(map(re.escape, sorted(PICTURE_SUFFIXES | UNREADABLE_SUFFIXES)))})(?:[?#&;:@!%][^/]*)?$"
_NO_SUFFIX = r"(?:^|/)(?:[^/.]+|[^/]*\.)$"
_HIDDEN = r"(?:^|/)\."


def open_source(source: str) -> Store:
    """The pictures' store. Raises SourceError where there is none."""
    try:
        return open_store(source)
    except ObjectNotFound as error:
        raise SourceError(f"the source {source} does not exist: expected a directory or s3://bucket/prefix") from error


def require_pictures(source: str) -> None:
    """Raise SourceError where the source is not there or holds no picture; stops listing at the first one."""
    skipped = 0
    for page in open_source(source).listing():
        if any(are_pictures(page).to_pylist()):
            return
        skipped += page.num_rows
    raise no_pictures(source, skipped)


def no_pictures(source: str, skipped: int) -> SourceError:
    """The error of a source without a picture among so many skipped objects."""
    passed = f"; {skipped} objects there have other names" if skipped else ""
    return SourceError(f"the source {source} has no pictures{passed}: expected files such as .jpg, .png or .webp")
