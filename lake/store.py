"""Objects under one root URI: a local directory or an S3 prefix, the same calls for both.

Bytes move through obstore on S3 and are plain files in a directory (`lake/directory.py`). The only conditional write
used anywhere is put-if-absent: it is the one that every store has.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import obstore
import pyarrow as pa
from obstore import exceptions
from obstore.store import MemoryStore

from lake import answers
from lake import directory as files
from lake.answers import Answer, read_file
from lake.errors import LakeError, ObjectNotFound, StoreUnavailable
from lake.listing import Passed, PassedOver, from_obstore, in_ranges, is_exact
from lake.retries import ATTEMPTS, pause
from lake.s3 import S3Location, locate
from lake.store_errors import by_cause, translated
from lake.walking import walk

LIST_CHUNK = 1000  # objects a page: S3's own page size
OBSTORE_SECONDS = 3.0  # what broke off sooner, it has not tried again


@dataclass(frozen=True)
class ObjectInfo:
    """What a listing says about one object."""

    path: str
    size_bytes: int
    etag: str
    last_modified: datetime


class Store:
    """A root URI and the bytes below it. Paths are relative to the root, with `/` between their parts."""

    def __init__(self, uri: str, backend: Any, *, directory: Path | None, s3: S3Location | None) -> None:
        self.uri = uri
        self._backend = backend
        self.directory = directory
        self.s3 = s3

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def url(self, path: str = "") -> str:
        """The path as other engines (delta-rs, DuckDB) name it."""
        if self.directory is not None:
            return str(self.directory / path) if path else str(self.directory)
        return f"{self.uri}/{path}" if path else self.uri

    def get(self, path: str) -> bytes:
        """The object's bytes. Raises as `read`."""
        return self.read(path).data

    def read(self, path: str) -> Answer:
        """The object with its etag of this moment. Raises ObjectNotFound, ObjectUnreadable, StoreUnavailable."""
        with translated(self.uri, path):
            if self.directory is not None:
                return read_file(files.inside(self.directory, path))
            if self.s3 is not None and _is_odd(path):
                return self.s3.read(path)
            return answers.from_obstore(obstore.get(self._backend, path))

    def put(self, path: str, data: bytes | Path, *, durable: bool = True) -> None:
        """Write the object whole; readers see the old bytes or the new, never a part.

        A directory's file is on the disk when this returns, unless it need not be `durable`: it is of no use to
        anyone once this run has died.
        """
        with translated(self.uri, path):
            if self.directory is not None:
                files.write(files.inside(self.directory, path), data, durable=durable)
            else:
                obstore.put(self._backend, path, data)

    def put_new(self, path: str, data: bytes) -> None:
        """Write the object only where there is none. Raises ObjectExists."""
        with translated(self.uri, path):
            if self.directory is not None:
                files.write(files.inside(self.directory, path), data, new=True)
            else:
                obstore.put(self._backend, path, data, mode="create", use_multipart=False)

    def settle(self, path: str) -> None:
        """Have an object that another engine wrote on the disk; elsewhere than in a directory it is."""
        if self.directory is not None:
            with translated(self.uri, path):
                files.sync(files.inside(self.directory, path))

    def exists(self, path: str) -> bool:
        """Whether there is an object at exactly this path."""
        try:
            with translated(self.uri, path):
                if self.directory is not None:
                    return files.inside(self.directory, path).is_file()
                obstore.head(self._backend, path)
        except ObjectNotFound:
            return False
        return True

    def listing(self, prefix: str = "", passed: Passed | None = None) -> Iterator[pa.RecordBatch]:
        """Every object below the prefix, in pages of LISTING that are fetched as they are consumed.

        A directory's come in a stable order; a long S3 listing comes in several ranges at once, whose threads tell
        `passed` what is passed over. Without it a folder that can't be listed fails the listing.
        """
        with translated(self.uri, prefix):
            if self.directory is not None:
                yield from walk(str(self.directory), prefix, LIST_CHUNK, passed)
            elif self.s3 is None:
                yield from self._after(prefix, "")
            else:
                yield from in_ranges(partial(self._after, prefix, passed=passed), partial(self.s3.cuts, prefix))

    def _after(self, prefix: str, after: str, *, passed: Passed | None = None) -> Iterator[pa.RecordBatch]:
        """The pages after a key; one whose body breaks off, which obstore gives up at once, is asked for again."""
        failures = 0
        while True:
            asked = time.monotonic()
            try:
                pages = obstore.list(
                    self._backend, prefix or None, offset=after or None, chunk_size=LIST_CHUNK, return_arrow=True
                )
                for page in pages:
                    listed = from_obstore(page)
                    before, after, failures = after, listed["path"][-1].as_py(), 0
                    if passed is None or self.s3 is None or is_exact(listed, before):
                        yield listed
                    else:
                        until = max(listed["path"].to_pylist())
                        yield from self.s3.pages(prefix, after=before, until=until, passed=passed)
            except exceptions.InvalidPathError:
                if self.s3 is None:
                    raise
                # One key such as "a//b.jpg" stops obstore's listing; boto3 takes any key.
                yield from self.s3.pages(prefix, after=after, passed=passed)
            except exceptions.GenericError as error:
                failures += 1
                patient = time.monotonic() - asked > OBSTORE_SECONDS  # it has tried again itself
                if patient or failures == ATTEMPTS or type(by_cause(error, "", "", "")) is not StoreUnavailable:
                    raise
                pause(failures - 1)
                continue
            return

    def pages(self, prefix: str = "") -> Iterator[list[ObjectInfo]]:
        """The same listing, object by object."""
        for page in self.listing(prefix):
            yield [ObjectInfo(*row) for row in zip(*(column.to_pylist() for column in page), strict=True)]

    def names(self, prefix: str) -> list[str]:
        """The paths of the objects below the prefix, sorted."""
        return sorted(each.path for page in self.pages(prefix) for each in page)

    def folders(self, prefix: str) -> list[str]:
        """The names of the folders right below the prefix, sorted; what lies in them is not listed."""
        with translated(self.uri, prefix):
            if self.directory is not None:
                path = self.directory / prefix
                return sorted(each.name for each in path.iterdir() if each.is_dir()) if path.is_dir() else []
            listing = obstore.list_with_delimiter(self._backend, f"{prefix}/" if prefix else None)
            return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in listing["common_prefixes"])

    def delete(self, paths: list[str]) -> None:
        """Remove the objects; one that is gone already is no error."""
        for path in paths:
            try:
                with translated(self.uri, path):
                    if self.directory is not None:
                        files.remove(self.directory, files.inside(self.directory, path))
                    else:
                        obstore.delete(self._backend, path)
            except ObjectNotFound:
                continue

    def delete_empty_folders(self, prefix: str, before: datetime) -> None:
        """Remove a directory's empty folders below the prefix that are as old; elsewhere there are none."""
        if self.directory is not None:
            with translated(self.uri, prefix):
                files.remove_empty_folders(self.directory / prefix, before.timestamp())

    def check(self) -> None:
        """Ask the root one cheap question. Raises LakeError where it does not answer as a root should."""
        with translated(self.uri, ""):
            for _ in self._after("", "") if self.directory is None else walk(str(self.directory), "", 1, _ignored):
                break

    @property
    def storage_options(self) -> dict[str, str]:
        """How delta-rs reaches the same root, with the credentials of this moment: a role's expire."""
        if self.s3 is None:
            return {}
        options = {f"aws_{name}": value for name, value in self.s3.credentials().items()}
        options |= {"aws_region": self.s3.region, "aws_conditional_put": "etag"}
        if self.s3.endpoint:
            options |= {"aws_endpoint": self.s3.endpoint, "aws_virtual_hosted_style_request": "false"}
        if self.s3.allow_http:
            options["aws_allow_http"] = "true"
        return options


def open_store(uri: str, *, create: bool = False, check: bool = True) -> Store:
    """The store at a URI: `s3://bucket/prefix`, `file:///…`, `memory://` or a directory's path.

    Raises LakeError where the place does not exist (with `create`, a local directory is made), can't be
    reached or can't be read.
    """
    if uri.startswith("s3://"):
        store = _open_s3(uri)
    elif uri.startswith("memory://"):
        return Store("memory://", MemoryStore(), directory=None, s3=None)
    elif "://" in uri and not uri.startswith("file://"):
        scheme = uri.split("://", 1)[0]
        raise LakeError(f"{scheme}:// is not supported: expected s3://bucket/prefix, file:///path or a directory")
    else:
        store = _open_directory(uri, create=create)
    if check:
        store.check()
    return store


def _open_directory(uri: str, *, create: bool) -> Store:
    if uri.startswith("file://"):
        # Not urlsplit: it would cut the path at a # or a ?, which a directory's name may have.
        host, slash, rest = uri.removeprefix("file://").partition("/")
        if host not in ("", "localhost"):
            raise LakeError(f"{uri} names the host {host!r}: a local URI has three slashes, file:///path")
        path = Path(unquote(slash + rest))
    else:
        path = Path(os.path.expanduser(uri))  # noqa: PTH111 — Path's own raises where the user is unknown
    directory = path.absolute()
    try:
        if directory.exists() and not directory.is_dir():
            raise LakeError(f"{directory} is a file: expected a directory or s3://bucket/prefix")
        if not directory.exists() and not create:
            raise ObjectNotFound(f"{directory} does not exist")
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        verb = "created" if create else "opened"
        raise LakeError(f"{directory} can't be {verb}: {error.strerror}") from error
    directory = directory.resolve()
    return Store(directory.as_uri(), None, directory=directory, s3=None)


def _open_s3(uri: str) -> Store:
    match = re.fullmatch(r"s3://([A-Za-z0-9][A-Za-z0-9._-]+)(?:/(.*))?", uri)
    if match is None:
        raise LakeError(f"{uri!r} is not an S3 URI: expected s3://bucket/prefix")
    location = locate(match[1], (match[2] or "").strip("/"))
    return Store(location.uri, location.backend, directory=None, s3=location)


def _ignored(_: PassedOver) -> None:
    """Nobody asked for it."""


def _is_odd(path: str) -> bool:
    """Whether obstore's paths don't allow the key: empty, `.` or `..` parts, control characters."""
    return not path.isprintable() or any(part in ("", ".", "..") for part in path.split("/"))
