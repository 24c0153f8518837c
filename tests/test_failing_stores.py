"""Stores that refuse, fill up, break off or answer late: one line each that says what to do, nothing thrown away."""

from __future__ import annotations

import os
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from deltalake import DeltaTable

from lake.cache import copy_into
from lake.catalogue import connect, prepare
from lake.errors import LakeError, StoreUnavailable
from lake.lake import Lake, open_lake
from lake.schemas import IMAGES
from lake.scratch import PREFIX, scratch
from lake.store import Store, open_store
from lake.store_errors import one_line
from tasks.runner import Inline
from tasks.runs import running
from tests.command_line import Run, failure_of
from tests.small_lake import SmallLake

KEYS = [f"{number:04d}.jpg" for number in range(2500)]


class Odd(BaseHTTPRequestHandler):
    """An S3 server that answers with errors, or lists KEYS and breaks off within some answers."""

    error: ClassVar[tuple[int, str, str] | None] = None
    breaks_off: ClassVar[set[int]] = set()
    asked: ClassVar[int] = 0
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        Odd.asked += 1
        if self.error is not None:
            status, code, message = self.error
            xml = "<?xml version='1.0'?>"
            self.answer(status, f"{xml}\n<Error><Code>{code}</Code><Message>{message}</Message></Error>")
            return
        after = self.path.partition("start-after=")[2].partition("&")[0].removeprefix("p%2F")
        token = self.path.partition("continuation-token=")[2].partition("&")[0]
        keys = [key for key in KEYS if key > (token or after)][:1000]
        more = bool(keys) and keys[-1] != KEYS[-1]
        contents = "".join(
            f"<Contents><Key>p/{key}</Key><Size>1</Size><ETag>e</ETag>"
            "<LastModified>2026-07-01T12:00:00.000Z</LastModified></Contents>"
            for key in keys
        )
        next_ = f"<NextContinuationToken>{keys[-1]}</NextContinuationToken>" if more else ""
        self.answer(
            200, f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{contents}{next_}</ListBucketResult>"
        )

    def answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/xml")
        self.end_headers()
        if status == 200 and Odd.asked in self.breaks_off:
            self.wfile.write(body.encode()[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
        else:
            self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def odd(aws: pytest.MonkeyPatch) -> Iterator[Store]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    aws.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    aws.setenv("AWS_ACCESS_KEY_ID", "key")
    aws.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    Odd.error, Odd.breaks_off, Odd.asked = None, set(), 0
    yield open_store("s3://shop/p", check=False)
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (400, "ExpiredToken", "the credentials for s3://shop/p have expired (ExpiredToken: as it is): get new ones"),
        (400, "TokenRefreshRequired", "the credentials for s3://shop/p have expired"),
        (403, "RequestTimeTooSkewed", "clock is wrong"),
        (403, "AccessDenied", "was denied: check the credentials"),
        (403, "InvalidObjectState", "is archived (InvalidObjectState): restore it"),
        (403, "AllAccessDisabled", "the server says AllAccessDisabled: as it is"),
    ],
)
def test_what_a_server_refuses_is_said_with_its_reason_and_once(odd: Store, status: int, code: str, says: str) -> None:
    Odd.error = status, code, "as\nit   is"
    with pytest.raises(LakeError) as caught:
        odd.get("a.jpg")
    assert says in str(caught.value)
    assert str(caught.value).isprintable() and "<" not in str(caught.value)
    assert not isinstance(caught.value, StoreUnavailable)  # asking again would not help


@pytest.mark.parametrize("breaks_off", [{1}, {2}, {1, 2}, {2, 4}, {3, 4, 5}])
def test_a_listing_that_breaks_off_goes_on_where_it_was(odd: Store, breaks_off: set[int]) -> None:
    Odd.breaks_off = breaks_off
    assert odd.names("") == KEYS


def test_a_listing_that_always_breaks_off_ends_in_an_error(odd: Store) -> None:
    Odd.breaks_off = set(range(1000))
    with pytest.raises(StoreUnavailable, match="did not answer"):
        odd.names("")


# Commits whose answer is lost, late or no


def images() -> pa.Table:
    return pa.Table.from_pylist([{"image_key": "a", "status": "ok"}], schema=IMAGES)


@pytest.mark.parametrize("landed", [True, False])
@pytest.mark.parametrize("error", [OSError("connection reset by peer"), OSError("error decoding response body")])
def test_a_commit_whose_answer_is_lost_happens_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, landed: bool, error: OSError
) -> None:
    lake = open_lake(str(tmp_path / "lake"), create=True)
    write = DeltaTable.create_write_transaction
    failed: list[bool] = []

    def unheard(table: DeltaTable, *arguments: Any, **options: Any) -> None:
        if landed or failed:
            write(table, *arguments, **options)
        if not failed:
            failed.append(True)
            raise error

    monkeypatch.setattr(DeltaTable, "create_write_transaction", unheard)
    lake.images.commit([lake.images.write_part(images(), "part")], application_id="run")
    assert [file.rows for file in lake.images.files()] == [1]


@pytest.mark.parametrize("read", ["transaction_version", "get_add_actions"])
def test_a_table_whose_log_breaks_off_once_it_is_open_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    lake = open_lake(str(tmp_path / "lake"), create=True)
    reads, failures = getattr(DeltaTable, read), [1, 1]

    def stumbling(table: DeltaTable, *arguments: Any, **options: Any) -> object:
        if failures:
            failures.pop()
            raise OSError("error decoding response body")
        return reads(table, *arguments, **options)

    monkeypatch.setattr(DeltaTable, read, stumbling)
    lake.images.commit([lake.images.write_part(images(), "part")], application_id="run")
    assert [file.rows for file in lake.images.files()] == [1]


def test_credentials_that_expire_once_a_table_is_open_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = open_lake(str(tmp_path / "lake"), create=True)

    def expired(_table: DeltaTable, _application_id: str) -> None:
        raise OSError(
            "Kernel error -> 403 Forbidden\n <Error><Code>ExpiredToken</Code><Message>it ended</Message></Error>"
        )

    monkeypatch.setattr(DeltaTable, "transaction_version", expired)
    with pytest.raises(LakeError, match=r"have expired \(ExpiredToken: it ended\)") as raised:
        lake.images.commit([lake.images.write_part(images(), "part")], application_id="run")
    assert "\n" not in str(raised.value)


def test_a_table_that_can_not_be_opened_at_first_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = open_lake(str(tmp_path / "lake"), create=True)
    lake.images.commit([lake.images.write_part(images(), "part")], application_id="run")
    opened, failures = DeltaTable.__init__, [1, 1]

    def stumbling(table: DeltaTable, *arguments: Any, **options: Any) -> None:
        if failures:
            failures.pop()
            raise OSError("error decoding response body")
        opened(table, *arguments, **options)

    monkeypatch.setattr(DeltaTable, "__init__", stumbling)
    assert len(lake.images.files()) == 1


def test_what_delta_says_in_many_lines_becomes_one() -> None:
    text = (
        "Generic LocalFileSystem error\n          \x1b[31m↳\x1b[0m Unable to copy data to file\n           \x1b[31m↳"
        "\x1b[0m Something odd (os error 99)\n   0: <unknown>\n   1: clone3\n             at ./x.c:1:2\n"
    )
    assert one_line(text) == "Generic LocalFileSystem error: Unable to copy data to file: Something odd (os error 99)"


# Full disks


@pytest.mark.parametrize("number", [28, 27, 30, 122])
def test_a_disk_that_takes_no_more_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    lake = open_lake(str(tmp_path / "lake"), create=True)
    part = lake.images.write_part(images(), "part")

    def full(*_: object, **__: object) -> None:
        raise OSError(f"Generic LocalFileSystem error\n  \x1b[31m↳\x1b[0m Unable to copy (os error {number})")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", full)
    with pytest.raises(LakeError, match="can't be written") as caught:
        lake.images.commit([part], application_id="run")
    assert type(caught.value) is LakeError
    assert str(caught.value).isprintable()


def test_a_run_whose_catalogue_could_not_be_written_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = open_lake(str(tmp_path / "lake"), create=True)

    def full(*_: object) -> None:
        raise LakeError("catalogue.duckdb can't be written: no space left on the device")

    with monkeypatch.context() as patched, pytest.raises(LakeError, match="no space left"):
        patched.setattr("tasks.runs.write_catalogue", full)
        with running(lake, "score-catalogue", Inline()):
            pass
    with connect(lake) as sql:
        rows = sql.execute("SELECT status, error FROM runs").fetchall()
    assert rows == [("failed", "catalogue.duckdb can't be written: no space left on the device")]


# Temporary directories


def test_no_temporary_directory_is_one_line(run: Run, small: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = run("sql", "SELECT 1", "--lake", small.uri, TMPDIR="/proc/nowhere")
    assert ended.code in (0, 1)  # Python falls back to /tmp

    def none(**_: object) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "mkdtemp", none)
    with pytest.raises(LakeError, match="set TMPDIR"), scratch():
        pass


def test_a_full_temporary_directory_is_one_line() -> None:
    with pytest.raises(LakeError, match=r"is full .*set TMPDIR"), scratch():
        raise OSError(28, "No space left on device")
    with pytest.raises(OSError, match="another"), scratch():
        raise OSError(5, "another")


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old = time.time() - 86_400
    for name in (f"{PREFIX}abcdefgh", "vitrine-data", f"{PREFIX}abcdefgh-mine", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"")
        os.utime(tmp_path / name, (old, old))
    (tmp_path / f"{PREFIX}youngone").mkdir()
    with scratch() as first:
        os.utime(first, (old, old))
        with scratch():
            assert first.is_dir()  # old, and at work
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["other", "vitrine-data", f"{PREFIX}abcdefgh-mine", f"{PREFIX}youngone"]


def test_a_cache_that_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LakeError, match=r"the cache .* can't be written .*VITRINE_CACHE"):
        copy_into(tmp_path / "file" / "cache" / "x", b"")


def test_a_home_that_can_not_be_written_stops_nobody(fresh: Run, small: SmallLake) -> None:
    home = "/dev/null"
    ended = fresh("status", "--json", HOME=home, PREFECT_HOME=f"{home}/prefect", VITRINE_LAKE=small.uri)
    assert (ended.code, ended.err) == (0, "")
    ended = fresh(
        "score",
        HOME=home,
        PREFECT_HOME=f"{home}/prefect",
        VITRINE_LAKE=small.uri,
        PREFECT_API_URL="http://127.0.0.1:9/api",
    )
    assert ended.code == 1
    assert "PREFECT_HOME" in failure_of(ended) or "does not answer" in failure_of(ended)


# Private certificate authorities


def certificates(folder: Path, called: str = "a private authority") -> tuple[Path, Path]:
    """A new authority's certificate, and a file with a key and a certificate that it signed for localhost."""
    now = datetime.now(UTC)

    def made(name: str, key: rsa.RSAPrivateKey, signed_by: rsa.RSAPrivateKey, *, authority: bool) -> bytes:
        builder = x509.CertificateBuilder(
            issuer_name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, called)]),
            subject_name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]),
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - timedelta(days=1),
            not_valid_after=now + timedelta(days=1),
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        return builder.sign(signed_by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    authority, server = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "authority.pem").write_bytes(made(called, authority, authority, authority=True))
    signed = made("localhost", server, authority, authority=False)
    (folder / "server.pem").write_bytes(server.private_bytes(*pem) + signed)
    return folder / "authority.pem", folder / "server.pem"


class NothingThere(BaseHTTPRequestHandler):
    """An S3 server without objects."""

    def do_GET(self) -> None:
        body = b"<Error><Code>NoSuchKey</Code></Error>"
        if "list-type" in self.path:
            body = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
        self.send_response(200 if "list-type" in self.path else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server's URL, and the certificate of the authority that vouches for it."""
    authority, own = certificates(tmp_path_factory.mktemp("tls"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), NothingThere)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://localhost:{server.server_port}", authority
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("variables", [("AWS_CA_BUNDLE",), ("SSL_CERT_FILE",), ("SSL_CERT_FILE", "AWS_CA_BUNDLE"), ()])
def test_every_engine_trusts_a_private_authority_where_one_variable_names_it(
    aws: pytest.MonkeyPatch, tls: tuple[str, Path], tmp_path: Path, variables: tuple[str, ...]
) -> None:
    url, authority = tls
    (tmp_path / "another.pem").write_bytes(certificates(tmp_path, "another")[0].read_bytes())
    aws.setenv("SSL_CERT_FILE", str(tmp_path / "another.pem"))  # as it was, for whoever comes after this test
    aws.delenv("SSL_CERT_FILE")
    for name, value in {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}.items():
        aws.setenv(name, value)
    for name, file in zip(variables, (authority, tmp_path / "another.pem"), strict=False):
        aws.setenv(name, str(file))
    store = open_store("s3://shop/p", check=False)
    assert store.s3 is not None
    engines: dict[str, Callable[[], object]] = {
        "obstore": partial(store.get, "a"),
        "boto3": partial(store.get, "a//b"),
        "delta-rs": Lake(store).images.version,
        "DuckDB": partial(in_duckdb, store),
    }
    for name, ask in engines.items():
        try:
            ask()
        except Exception as error:
            trusted = "not trusted" not in str(error) and "SSL" not in str(error)
            assert trusted == bool(variables), (name, error)


def in_duckdb(store: Store) -> None:
    with duckdb.connect() as sql:
        prepare(sql, store)
        sql.execute("FROM read_parquet('s3://shop/p/a.parquet')")


def test_authorities_that_are_not_there_are_one_line(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_CA_BUNDLE", "/nowhere/ca.pem")
    with pytest.raises(LakeError, match=r"/nowhere/ca.pem can't be read \(No such file.*correct AWS_CA_BUNDLE"):
        open_store("s3://shop/p", check=False)
