"""Objects under one root URI: a local directory or an S3 prefix, the same calls for both.

Bytes move through obstore; boto3 resolves who we are (profiles, SSO, roles, region, endpoint).
The only conditional write used anywhere is put-if-absent: it is the one that every store has.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import obstore
import pyarrow as pa
from obstore import exceptions
from obstore.store import LocalStore, MemoryStore, S3Store

from lake.errors import LakeError, ObjectExists, ObjectNotFound, StoreUnavailable
from lake.listing import LISTING, from_obstore, in_ranges, walk

logger = logging.getLogger(__name__)

LIST_CHUNK = 1000  # objects a page: S3's own page size
MOST_CUTS = 16  # into which a long S3 listing is cut at once
REQUEST_SECONDS = 30  # for one answer, its body included: a server that stalls is asked again
RETRY_SECONDS = 60  # no further attempt after so long; between attempts obstore waits longer each time, by chance


@dataclass(frozen=True)
class ObjectInfo:
    """What a listing says about one object."""

    path: str
    size_bytes: int
    etag: str
    last_modified: datetime


@dataclass(frozen=True)
class S3Location:
    """Where an S3 root is and how to speak to it, resolved through boto3."""

    bucket: str
    prefix: str
    endpoint: str | None
    region: str
    session: Any  # boto3.session.Session

    @property
    def allow_http(self) -> bool:
        """True where the endpoint is plain http (a server on one's own network)."""
        return self.endpoint is not None and self.endpoint.startswith("http://")

    def get(self, path: str) -> bytes:
        """An object whose key obstore can't spell. Raises what obstore would."""
        try:
            answer = self._client.get_object(Bucket=self.bucket, Key=self._key(path))
            return bytes(answer["Body"].read())
        except self._client.exceptions.NoSuchKey as error:
            raise FileNotFoundError(path) from error

    def pages(self, prefix: str, *, after: str) -> Iterator[pa.RecordBatch]:
        """The objects below the prefix whose keys come after `after`, in pages."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket,
            Prefix=self._key(f"{prefix}/" if prefix else ""),
            StartAfter=self._key(after) if after else "",
        )
        start = len(self._key(""))
        for page in pages:
            rows = [
                (found["Key"][start:], found["Size"], found["ETag"].strip('"'), found["LastModified"])
                for found in page.get("Contents", [])
            ]
            columns = [[row[column] for row in rows] for column in range(len(LISTING))]
            yield pa.record_batch(columns, schema=LISTING)

    def cuts(self, prefix: str, after: str, until: str | None) -> list[str]:
        """Folders between two keys, at which a listing may be cut; those of the highest level that has several."""
        start = len(self._key(""))
        inside = prefix.count("/") + 1 if prefix else 0
        for depth in range(inside, after.count("/") + 1):
            above = "".join(f"{part}/" for part in after.split("/")[:depth])
            page = self._client.list_objects_v2(
                Bucket=self.bucket, Prefix=self._key(above), Delimiter="/", StartAfter=self._key(after)
            )
            ahead = sorted(found["Prefix"][start:] for found in page.get("CommonPrefixes", []))
            ahead = [folder for folder in ahead if folder > after and (until is None or folder < until)]
            if len(ahead) > 1:
                return ahead[:: -(-len(ahead) // MOST_CUTS)]
        return []

    def _key(self, path: str) -> str:
        return f"{self.prefix}/{path}" if self.prefix else path

    @cached_property
    def _client(self) -> Any:
        return self.session.client("s3", endpoint_url=self.endpoint, region_name=self.region)

    def credentials(self) -> dict[str, str]:
        """The session's credentials as they are now: access_key_id, secret_access_key and perhaps a token."""
        from botocore.exceptions import BotoCoreError

        try:
            frozen = self.session.get_credentials().get_frozen_credentials()
        except BotoCoreError as error:  # a role or an SSO login that ended
            raise LakeError(f"no usable AWS credentials for s3://{self.bucket}: {error}") from error
        found = {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "session_token": frozen.token,
        }
        return {name: value for name, value in found.items() if value}


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
        """The object's bytes. Raises ObjectNotFound."""
        with _translated(self.uri, path):
            if self.directory is not None:
                return (self.directory / path).read_bytes()
            if self.s3 is not None and _is_odd(path):
                return self.s3.get(path)
            return bytes(obstore.get(self._backend, path).bytes())

    def put(self, path: str, data: bytes | Path) -> None:
        """Write the object whole; readers see the old bytes or the new, never a part."""
        with _translated(self.uri, path):
            obstore.put(self._backend, path, data)

    def put_new(self, path: str, data: bytes) -> None:
        """Write the object only where there is none. Raises ObjectExists."""
        with _translated(self.uri, path):
            obstore.put(self._backend, path, data, mode="create", use_multipart=False)

    def exists(self, path: str) -> bool:
        """Whether there is an object at exactly this path."""
        try:
            with _translated(self.uri, path):
                if self.directory is not None:
                    return (self.directory / path).is_file()
                obstore.head(self._backend, path)
        except ObjectNotFound:
            return False
        return True

    def listing(self, prefix: str = "") -> Iterator[pa.RecordBatch]:
        """Every object below the prefix, in pages of LISTING that are fetched as they are consumed.

        A directory's come in a stable order; a long S3 listing comes in several ranges at once.
        """
        with _translated(self.uri, prefix):
            if self.directory is not None:
                yield from walk(self.directory, prefix, LIST_CHUNK)
            elif self.s3 is None:
                yield from self._after(prefix, "")
            else:
                yield from in_ranges(partial(self._after, prefix), partial(self.s3.cuts, prefix))

    def _after(self, prefix: str, after: str) -> Iterator[pa.RecordBatch]:
        try:
            found = obstore.list(
                self._backend, prefix or None, offset=after or None, chunk_size=LIST_CHUNK, return_arrow=True
            )
            for page in found:
                listed = from_obstore(page)
                after = listed["path"][-1].as_py()
                yield listed
        except exceptions.InvalidPathError:
            if self.s3 is None:
                raise
            # One key such as "a//b.jpg" stops obstore's listing; boto3 takes any key.
            yield from self.s3.pages(prefix, after=after)

    def pages(self, prefix: str = "") -> Iterator[list[ObjectInfo]]:
        """The same listing, object by object."""
        for page in self.listing(prefix):
            yield [ObjectInfo(*row) for row in zip(*(column.to_pylist() for column in page), strict=True)]

    def names(self, prefix: str) -> list[str]:
        """The paths of the objects below the prefix, sorted."""
        return sorted(found.path for page in self.pages(prefix) for found in page)

    def folders(self, prefix: str) -> list[str]:
        """The names of the folders right below the prefix, sorted; what lies in them is not listed."""
        with _translated(self.uri, prefix):
            if self.directory is not None:
                path = self.directory / prefix
                return sorted(each.name for each in path.iterdir() if each.is_dir()) if path.is_dir() else []
            found = obstore.list_with_delimiter(self._backend, f"{prefix}/" if prefix else None)
            return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found["common_prefixes"])

    def delete(self, paths: list[str]) -> None:
        """Remove the objects; one that is gone already is no error."""
        for path in paths:
            try:
                with _translated(self.uri, path):
                    obstore.delete(self._backend, path)
            except ObjectNotFound:
                continue

    def check(self) -> None:
        """Ask the root one cheap question. Raises LakeError where it does not answer as a root should."""
        with _translated(self.uri, ""):
            for _ in self._after("", "") if self.directory is None else walk(self.directory, "", 1):
                break

    @property
    def storage_options(self) -> dict[str, str]:
        """How delta-rs reaches the same root; asked afresh, since a role's credentials expire."""
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
    return Store(directory.as_uri(), LocalStore(prefix=directory), directory=directory, s3=None)


def _open_s3(uri: str) -> Store:
    match = re.fullmatch(r"s3://([A-Za-z0-9][A-Za-z0-9._-]+)(?:/(.*))?", uri)
    if match is None:
        raise LakeError(f"{uri!r} is not an S3 URI: expected s3://bucket/prefix")
    location = resolve_s3(match[1], (match[2] or "").strip("/"))
    from obstore.auth.boto3 import Boto3CredentialProvider

    config: dict[str, Any] = {"region": location.region}
    if location.endpoint:
        config |= {"endpoint": location.endpoint, "virtual_hosted_style_request": False}
    backend = S3Store(
        location.bucket,
        prefix=location.prefix or None,
        config=cast(Any, config),
        client_options={"allow_http": location.allow_http, "timeout": timedelta(seconds=REQUEST_SECONDS)},
        retry_config={"max_retries": 6, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
        credential_provider=Boto3CredentialProvider(location.session),
    )
    root = f"s3://{location.bucket}" + (f"/{location.prefix}" if location.prefix else "")
    return Store(root, backend, directory=None, s3=location)


def resolve_s3(bucket: str, prefix: str) -> S3Location:
    """Region, endpoint and credentials as boto3 finds them (environment, profile, SSO, instance role)."""
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        session = boto3.session.Session()
        if session.get_credentials() is None:
            raise LakeError(
                f"no AWS credentials for s3://{bucket}: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or run `aws sso login`"
            )
        client = session.client("s3", region_name=session.region_name or "us-east-1")
    except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
        raise LakeError(f"no AWS session for s3://{bucket}: {error}") from error
    endpoint = str(client.meta.endpoint_url)
    is_aws = urlsplit(endpoint).netloc.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    return S3Location(bucket, prefix, None if is_aws else endpoint, str(client.meta.region_name), session)


def _is_odd(path: str) -> bool:
    """Whether obstore's paths don't allow the key: empty, `.` or `..` parts, control characters."""
    return not path.isprintable() or any(part in ("", ".", "..") for part in path.split("/"))


@contextmanager
def _translated(uri: str, path: str) -> Iterator[None]:
    """obstore's exceptions as ours, each message one line that says what to do."""
    where = f"{uri}/{path}" if path else uri
    try:
        yield
    except exceptions.AlreadyExistsError as error:
        raise ObjectExists(f"{where} exists already") from error
    except (exceptions.NotFoundError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        if "NoSuchBucket" in str(error):
            raise LakeError(f"the bucket of {uri} does not exist: create it, or correct the URI") from error
        raise ObjectNotFound(f"{where} does not exist") from error
    except (exceptions.PermissionDeniedError, PermissionError) as error:
        raise LakeError(
            f"access to {where} was denied: check the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID) and their "
            "permissions, or the directory's"
        ) from error
    except (exceptions.BaseError, OSError) as error:
        raise _generic(where, uri, error) from error


def _generic(where: str, uri: str, error: Exception) -> LakeError:
    text = str(error)
    for cause, message in _CAUSES.items():
        if re.search(cause, text):
            return LakeError(message.format(where=where, uri=uri, text=_first_line(text)))
    return StoreUnavailable(f"{where} did not answer: {_first_line(text)}")


_CAUSES = {
    "NoSuchBucket": "the bucket of {uri} does not exist: create it, or correct the URI",
    "External AWS credential provider": "no usable AWS credentials for {uri}: {text}",
    "Permission denied|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|Unauthenticated|os error 13": (
        "access to {where} was denied: check the credentials and their permissions"
    ),
    "Read-only file system|os error 30": "{where} can't be written: the file system is read-only",
    "No space left|os error 28": "{where} can't be written: no space left on the device",
    "Not a directory|os error 20": "{where} can't be written: a part of its path is a file",
}


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:300] if lines else "no reason given"
