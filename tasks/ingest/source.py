"""The pictures' source: which of its objects are taken for pictures, what is passed over, what makes it unusable."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc
from pathspec import GitIgnoreSpec

from lake.errors import ObjectNotFound, ObjectUnreadable, StoreUnavailable
from lake.listing import UNREADABLE, PassedOver
from lake.store import Store, open_store
from model.pictures.formats import PICTURE_SUFFIXES
from tasks.errors import SourceError

UNREADABLE_SUFFIXES = frozenset({".svg", ".psd", ".eps"})

# Kinds of what is passed over by its name; `lake.listing` has those that a listing tells.
EXCLUDED = "excluded"
HIDDEN = "hidden"
NO_PICTURE = "no picture by its name"
TWICE = "listed twice"


def are_pictures(listed: pa.RecordBatch) -> pa.BooleanArray:
    """Which objects of a listing are taken for pictures by their names: a picture's suffix, or none at all.

    What a web server is asked may follow the suffix (`mug.jpg?v=167`). Of which kind a picture is, its bytes say.

    Pictures of kinds that are not read here count, too: they are pictures to their owner, and are rejected with a
    reason rather than passed over.
    """
    return pc.and_not(_bear_a_pictures_name(listed), _are_hidden(listed))


def _bear_a_pictures_name(listed: pa.RecordBatch) -> pa.BooleanArray:
    suffixed = pc.match_substring_regex(listed["path"], _PICTURE_NAME, ignore_case=True)
    # An empty object without a suffix is how S3 browsers mark a folder.
    bare = pc.and_(pc.match_substring_regex(listed["path"], _NO_SUFFIX), pc.greater(listed["size_bytes"], 0))
    return pc.or_(suffixed, bare)


def _are_hidden(listed: pa.RecordBatch) -> pa.BooleanArray:
    return pc.match_substring_regex(listed["path"], _HIDDEN)


_PICTURE_NAME = rf"(?:{'|'.join(map(re.escape, sorted(PICTURE_SUFFIXES | UNREADABLE_SUFFIXES)))})(?:[?#&;:@!%][^/]*)?$"
_NO_SUFFIX = r"(?:^|/)(?:[^/.]+|[^/]*\.)$"
_HIDDEN = r"(?:^|/)\."


class Source:
    """A source of pictures and the patterns of what in it is none of the catalogue's."""

    def __init__(self, uri: str, exclude: Sequence[str] = ()) -> None:
        self.uri = uri
        self._exclude = exclude

    @cached_property
    def store(self) -> Store:
        """Where the pictures lie. Raises SourceError where there is nothing."""
        return open_source(self.uri)

    @cached_property
    def _excluded(self) -> GitIgnoreSpec | None:
        return GitIgnoreSpec.from_lines(self._exclude) if self._exclude else None

    def pictures(self, passed: Passed) -> Iterator[pa.RecordBatch]:
        """The objects that are taken for pictures, in pages of LISTING; `passed` counts all others."""
        for page in self.store.listing(passed=self._told(passed)):
            yield self._sorted(page, passed)

    def _told(self, passed: Passed) -> Passed:
        """What is told of what the listing itself passes over, as far as that is not excluded."""
        return _NotExcluded(passed, self._excluded) if self._excluded is not None else passed

    def _sorted(self, page: pa.RecordBatch, passed: Passed) -> pa.RecordBatch:
        """The page's pictures."""
        if self._excluded is not None:
            excluded = pa.array(map(self._excluded.match_file, page["path"].to_pylist()), pa.bool_())
            page = passed.without(page, excluded, EXCLUDED)
        page = passed.without(page, _are_hidden(page), HIDDEN)
        return passed.without(page, pc.invert(_bear_a_pictures_name(page)), NO_PICTURE)


class Passed:
    """Counts what is passed over by kind, and remembers the folders that can't be listed. Safe from any thread."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.unreadable: list[PassedOver] = []
        self._lock = threading.Lock()

    def __call__(self, one: PassedOver) -> None:
        """One name that the listing tells of."""
        with self._lock:
            self.kinds[one.kind] += 1
            if one.kind == UNREADABLE:
                self.unreadable.append(one)

    def without(self, page: pa.RecordBatch, mask: pa.BooleanArray, kind: str) -> pa.RecordBatch:
        """The page without the rows of the mask, which are of this kind."""
        count = pc.sum(mask).as_py() or 0
        if not count:
            return page
        self.some(page.filter(mask)["path"], kind)
        return page.filter(pc.invert(mask))

    def some(self, paths: pa.Array | list[str], kind: str) -> None:
        """Several of one kind."""
        with self._lock:
            self.kinds[kind] += len(paths)

    @property
    def count(self) -> int:
        """How many names are passed over."""
        return sum(self.by_kind().values())

    def by_kind(self) -> dict[str, int]:
        """How many of each kind. Folders that can't be listed are none: nobody knows what they hold."""
        return {kind: count for kind, count in sorted(self.kinds.items()) if kind != UNREADABLE}


class _NotExcluded(Passed):
    """Hands on what is not excluded; what is, is counted as that."""

    def __init__(self, passed: Passed, excluded: GitIgnoreSpec) -> None:
        super().__init__()
        self._passed = passed
        self._excluded = excluded

    def __call__(self, one: PassedOver) -> None:
        if self._excluded.match_file(one.path) or self._excluded.match_file(f"{one.path}/"):
            one = PassedOver(one.path, EXCLUDED)
        self._passed(one)


class Listed(Passed):
    """Remembers each of them, for whoever asks."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[PassedOver] = []

    def __call__(self, one: PassedOver) -> None:
        """One name that the listing tells of."""
        super().__call__(one)
        self.names.append(one)

    def some(self, paths: pa.Array | list[str], kind: str) -> None:
        """Several of one kind."""
        super().some(paths, kind)
        self.names.extend(PassedOver(path, kind) for path in pa.array(paths).to_pylist())


def open_source(source: str) -> Store:
    """The pictures' store. Raises SourceError where there is none."""
    try:
        return open_store(source)
    except ObjectNotFound as error:
        raise SourceError(f"the source {source} does not exist: expected a directory or s3://bucket/prefix") from error


def require_pictures(source: Source) -> None:
    """Raise SourceError where the source is not there or holds no picture; stops listing at the first one."""
    passed = Passed()
    if not any(page.num_rows for page in source.pictures(passed)):
        raise no_pictures(source.uri, passed)


def require_answers(source: Source, witnesses: Sequence[str] | None) -> None:
    """Raise where a source that handed out none of the pictures asked for is away as a whole.

    It is there where it lists something and, with `witnesses`, pictures that it had before, still hands out or refuses
    one of them. Raises StoreUnavailable, and LakeError where it refuses whoever asks.
    """
    if not any(page.num_rows for page in source.store.listing(passed=Passed())):
        raise StoreUnavailable(f"the source {source.uri} became empty while it was read: see that it is there")
    if witnesses is not None and not any(_is_answered(source, key) for key in witnesses):
        raise StoreUnavailable(f"none of the pictures of {source.uri} could be fetched: run it again when it answers")


def _is_answered(source: Source, key: str) -> bool:
    try:
        source.store.read(key)
    except StoreUnavailable:
        return False
    except (ObjectNotFound, ObjectUnreadable):
        return True
    return True


def passed_over(source: Source) -> list[PassedOver]:
    """Every name in the source that is not taken for a picture, and why."""
    passed = Listed()
    for _ in source.pictures(passed):
        pass
    return sorted(passed.names, key=lambda one: one.path)


def no_pictures(source: str, passed: Passed) -> SourceError:
    """The error of a source without a picture among all that was passed over."""
    others = f"; {passed.count} objects there have other names" if passed.count else ""
    first = passed.unreadable[0] if passed.unreadable else None
    unlisted = f"; {len(passed.unreadable)} folders can't be listed ({first.path}: {first.cause})" if first else ""
    return SourceError(
        f"the source {source} has no pictures{others}{unlisted}: expected files such as .jpg, .png or .webp"
    )
