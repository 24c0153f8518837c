"""Where an S3 root is and how to speak to it, resolved by boto3 once a process and environment.

boto3 knows who we are (profiles, SSO, roles, region, endpoint) and takes keys that obstore's paths can't spell; bytes
move through obstore. Making boto3's session and client costs a tenth of a second of CPU and more, so roots that were
opened are kept, under everything that decides how they are reached: other variables or another credentials file give
another root, and credentials that expire are refreshed by the session that is kept.
"""

from __future__ import annotations

import atexit
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from obstore.store import S3Store

from lake.answers import Answer, bare_etag
from lake.errors import LakeError
from lake.listing import FOLDER_MARKER, LISTING, Passed, PassedOver

MOST_CUTS = 16  # into which a long listing is cut at once
STALL_SECONDS = 30  # without a byte of an answer: it is asked for again, from there on
REQUEST_SECONDS = 3600  # for one answer, its body included, however slow the link
CONNECT_SECONDS = 10
RETRY_SECONDS = 60  # no further attempt after so long; between attempts obstore waits longer each time, by chance
ROOTS_KEPT = 16
# obstore asks boto3 for credentials five minutes before this is over: boto3's own rule, which is to refresh them 10 to
# 15 minutes before they expire, then holds for obstore too.
CREDENTIALS_KEPT = timedelta(minutes=10)
CREDENTIALS_WITHOUT_EXPIRY = timedelta(minutes=30)  # after which such a program's are taken as expired

Environment = tuple[object, ...]


@dataclass(frozen=True)
class S3Session:
    """How S3 is reached in one environment: endpoint (None: the region's usual one), region and credentials."""

    endpoint: str | None
    region: str
    boto: Any  # boto3.session.Session
    client: Any  # boto3's, of any bucket; threads may share it


@dataclass(frozen=True)
class S3Location:
    """A bucket and the prefix below which a root lies, with both ways to reach it."""

    bucket: str
    prefix: str
    session: S3Session
    backend: S3Store  # obstore's

    @property
    def uri(self) -> str:
        """The root's URI, without a slash at its end."""
        return f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    @property
    def endpoint(self) -> str | None:
        """The server's URL; None where every client finds it by the region."""
        return self.session.endpoint

    @property
    def region(self) -> str:
        """The region that requests are signed for."""
        return self.session.region

    @property
    def allow_http(self) -> bool:
        """True where the endpoint is plain http (a server on one's own network)."""
        return _is_plain_http(self.endpoint)

    def read(self, path: str) -> Answer:
        """The object whose key obstore can't spell. Raises FileNotFoundError, BotoCoreError, ClientError."""
        answer = self.session.client.get_object(Bucket=self.bucket, Key=self._key(path))
        return Answer(answer["Body"].read(), bare_etag(answer["ETag"]), answer["LastModified"])

    def pages(
        self, prefix: str, *, after: str, until: str | None = None, passed: Passed | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The objects below the prefix whose keys come after `after`, up to and with `until`, in pages of LISTING.

        A key that ends in a slash marks a folder and is passed over.
        """
        answers = self.session.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket,
            Prefix=self._key(f"{prefix}/" if prefix else ""),
            StartAfter=self._key(after) if after else "",
        )
        start = len(self._key(""))
        for answer in answers:
            listed = [(item["Key"][start:], item) for item in answer.get("Contents", [])]
            inside = [(key, item) for key, item in listed if until is None or key.rstrip("/") <= until]
            yield _page([(key, item) for key, item in inside if key and not key.endswith("/")])
            for key, _ in inside:
                if passed is not None and key.endswith("/"):
                    passed(PassedOver(key, FOLDER_MARKER))
            if len(inside) < len(listed):
                return

    def cuts(self, prefix: str, after: str, until: str | None) -> list[str]:
        """Folders between two keys, at which a listing may be cut; those of the highest level that has several."""
        start = len(self._key(""))
        inside = prefix.count("/") + 1 if prefix else 0
        for depth in range(inside, after.count("/") + 1):
            above = "".join(f"{part}/" for part in after.split("/")[:depth])
            answer = self.session.client.list_objects_v2(
                Bucket=self.bucket, Prefix=self._key(above), Delimiter="/", StartAfter=self._key(after)
            )
            ahead = sorted(item["Prefix"][start:] for item in answer.get("CommonPrefixes", []))
            ahead = [folder for folder in ahead if folder > after and (until is None or folder < until)]
            if len(ahead) > 1:
                return ahead[:: -(-len(ahead) // MOST_CUTS)]
        return []

    def _key(self, path: str) -> str:
        return f"{self.prefix}/{path}" if self.prefix else path

    def credentials(self) -> dict[str, str]:
        """The credentials as they are now: access_key_id, secret_access_key and perhaps a session_token.

        Raises LakeError where a role or an SSO login has ended.
        """
        from botocore.exceptions import BotoCoreError

        try:
            frozen = self.session.boto.get_credentials().get_frozen_credentials()
        except (BotoCoreError, RuntimeError) as error:  # RuntimeError: refreshed, and expired all the same
            raise LakeError(f"no usable AWS credentials for s3://{self.bucket}: {error}") from error
        named = {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "session_token": frozen.token,
        }
        return {name: value for name, value in named.items() if value}


def _page(items: list[tuple[str, dict[str, Any]]]) -> pa.RecordBatch:
    """Items of boto3's as a page of LISTING, each with the path that it is listed under."""
    rows = [(path, item["Size"], bare_etag(item["ETag"]), item["LastModified"]) for path, item in items]
    return pa.record_batch([[row[column] for row in rows] for column in range(len(LISTING))], schema=LISTING)


def locate(bucket: str, prefix: str) -> S3Location:
    """The root as boto3 reaches it now (environment, profile, SSO, instance role), resolved before or anew.

    Raises LakeError where there are no credentials or no valid settings.
    """
    from botocore.exceptions import BotoCoreError, NoCredentialsError

    authorities()
    try:
        with _resolving:  # a cache alone would let several threads resolve the same at once
            return _located(bucket, prefix, _environment())
    except NoCredentialsError as error:
        raise LakeError(
            f"no AWS credentials for s3://{bucket}: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or run `aws sso login`"
        ) from error
    except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
        raise LakeError(f"no AWS session for s3://{bucket}: {error}") from error


def authorities() -> str | None:
    """The file of the certificate authorities to trust: AWS_CA_BUNDLE's, SSL_CERT_FILE's, or one of both.

    boto3 reads the one, obstore and delta-rs the other, DuckDB neither: each is told of what is set. delta-rs can be
    told by the environment alone, so SSL_CERT_FILE is set for this process. Raises LakeError where a file can't be
    read.
    """
    named = [os.environ.get(name) for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE")]
    files = tuple(dict.fromkeys(name for name in named if name))
    try:
        bundle = _bundle(files) if files else None
    except OSError as error:
        raise LakeError(
            f"{error.filename} can't be read ({error.strerror}): correct AWS_CA_BUNDLE or SSL_CERT_FILE"
        ) from error
    if bundle is not None and bundle != os.environ.get("SSL_CERT_FILE"):
        os.environ["SSL_CERT_FILE"] = bundle
    return bundle


@lru_cache(maxsize=ROOTS_KEPT)
def _bundle(files: tuple[str, ...]) -> str:
    """One file that holds what these hold; of two it is a new one, which this process removes."""
    texts = [Path(file).read_text(encoding="utf-8") for file in files]
    if len(files) == 1 or texts[0] in texts[1]:
        return files[-1]
    descriptor, path = tempfile.mkstemp(prefix="vitrine-authorities-", suffix=".pem")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write("\n".join(texts))
    atexit.register(lambda: Path(path).unlink(missing_ok=True))
    return path


@lru_cache(maxsize=ROOTS_KEPT)
def _located(bucket: str, prefix: str, environment: Environment) -> S3Location:
    from obstore.auth.boto3 import Boto3CredentialProvider

    session = _session(environment)
    config: dict[str, Any] = {"region": session.region}
    if session.endpoint:
        config |= {"endpoint": session.endpoint, "virtual_hosted_style_request": False}
    backend = S3Store(
        bucket,
        prefix=prefix or None,
        config=cast(Any, config),
        client_options={
            "allow_http": _is_plain_http(session.endpoint),
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "read_timeout": timedelta(seconds=STALL_SECONDS),
            "timeout": timedelta(seconds=REQUEST_SECONDS),
        },
        retry_config={"max_retries": 6, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
        credential_provider=Boto3CredentialProvider(session.boto, ttl=CREDENTIALS_KEPT),
    )
    return S3Location(bucket, prefix, session, backend)


@lru_cache(maxsize=ROOTS_KEPT)
def _session(environment: Environment) -> S3Session:
    """What boto3 resolves in this environment. Raises botocore's errors, which are not kept."""
    import boto3
    import botocore.session
    from botocore.exceptions import NoCredentialsError

    core = botocore.session.get_session()
    core.register_component("credential_provider", _Renewing(core.get_component("credential_provider")))
    boto = boto3.session.Session(botocore_session=core)
    if boto.get_credentials() is None:
        raise NoCredentialsError
    client = boto.client("s3", region_name=boto.region_name or "us-east-1", verify=authorities())
    region = str(client.meta.region_name)
    endpoint = str(client.meta.endpoint_url).replace("aws-global", region)  # boto3's word for us-east-1, no host's name
    usual = "https://s3.amazonaws.com" if region == "us-east-1" else f"https://s3.{region}.amazonaws.com"
    return S3Session(None if endpoint == usual else endpoint, region, boto, client)


class _Renewing:
    """boto3's chain of credential providers, which also asks a `credential_process` again that names no expiry.

    boto3 would keep what it said for as long as the process lives, and such programs hand out what ends in an hour.
    """

    def __init__(self, providers: Any) -> None:
        self._providers = providers

    def load_credentials(self) -> Any:
        from botocore.credentials import RefreshableCredentials

        credentials = self._providers.load_credentials()
        if getattr(credentials, "method", None) != "custom-process" or isinstance(credentials, RefreshableCredentials):
            return credentials
        return RefreshableCredentials.create_from_metadata(_metadata(credentials), self._again, "custom-process")

    def _again(self) -> dict[str, str | None]:
        return _metadata(self._providers.load_credentials())


def _metadata(credentials: Any) -> dict[str, str | None]:
    """Credentials in the form that botocore refreshes from, with an expiry of our own."""
    frozen = credentials.get_frozen_credentials()
    expiry = datetime.now(UTC) + CREDENTIALS_WITHOUT_EXPIRY
    keys = {"access_key": frozen.access_key, "secret_key": frozen.secret_key, "token": frozen.token}
    return keys | {"expiry_time": expiry.isoformat()}


def _environment() -> Environment:
    """All that boto3 and obstore look up when a root is opened, in a form that can be compared."""
    names = sorted(name for name in os.environ if name.startswith("AWS_") or name.lower() in _OTHER_VARIABLES)
    files = (
        os.environ.get("AWS_CONFIG_FILE", "~/.aws/config"),
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    )
    return *((name, os.environ[name]) for name in names), *map(_state_of_file, files)


_OTHER_VARIABLES = frozenset(("home", "http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file"))


def _state_of_file(path: str) -> tuple[int, int, int] | None:
    """What changes when the file is written again or replaced; None where it can't be looked at."""
    try:
        status = Path(os.path.expanduser(path)).stat()  # noqa: PTH111 — Path's own raises where the user is unknown
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _is_plain_http(endpoint: str | None) -> bool:
    return endpoint is not None and endpoint.startswith("http://")


def _forget_the_parents() -> None:
    """In a forked process: its own roots and its own lock. The parent's connections are the parent's."""
    global _resolving  # noqa: PLW0603
    _resolving = threading.Lock()
    _located.cache_clear()
    _session.cache_clear()


_resolving = threading.Lock()
os.register_at_fork(after_in_child=_forget_the_parents)
