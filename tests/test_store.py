"""One storage contract over memory, a local directory and real S3; what each error says."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lake.errors import LakeError, NoLake, ObjectExists, ObjectNotFound, StoreUnavailable
from lake.lake import Serving, open_lake
from lake.s3 import locate
from lake.store import LIST_CHUNK, Store, open_store

ROOTS = ["memory", "local", pytest.param("s3", marks=pytest.mark.s3)]
ORDINARY = ["plain.jpg", "a b/c d.jpg", "50%20off.jpg", "100%.jpg", "ünï/写真.jpg", "star*?.jpg", "it's {a}+b&c=d.jpg"]


@pytest.fixture(params=ROOTS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    uris: dict[str, Callable[[], str]] = {
        "memory": lambda: "memory://",
        "local": lambda: str(tmp_path / "a root's"),
        "s3": lambda: str(request.getfixturevalue("s3_root")),
    }
    return open_store(uris[request.param](), create=True)


# The contract


@pytest.mark.parametrize("path", ORDINARY)
def test_what_was_put_is_found_under_exactly_its_name(store: Store, path: str) -> None:
    store.put(path, b"bytes")

    assert store.get(path) == b"bytes"
    assert store.exists(path)
    assert store.names("") == [path]


def test_a_second_put_replaces_the_bytes_whole(store: Store) -> None:
    store.put("x", b"the first, longer")
    store.put("x", b"second")

    assert store.get("x") == b"second"


def test_a_local_file_is_put_as_its_bytes(store: Store, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(range(256)) * 50_000)

    store.put("copy", tmp_path / "source")

    assert store.get("copy") == bytes(range(256)) * 50_000


def test_put_new_never_overwrites(store: Store) -> None:
    store.put_new("log/1.json", b"first")

    with pytest.raises(ObjectExists, match=r"log/1\.json exists already"):
        store.put_new("log/1.json", b"second")
    assert store.get("log/1.json") == b"first"


def test_of_many_writers_put_new_lets_exactly_one_win(store: Store) -> None:
    def write(number: int) -> bool:
        try:
            store.put_new("log/1.json", b"%d" % number)
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(16)))

    assert sum(won) == 1
    assert store.get("log/1.json") == b"%d" % won.index(True)


def test_an_absent_object_is_told_apart_from_a_failing_store(store: Store) -> None:
    store.put("folder/file", b"")

    for path in ("absent", "absent/too", "folder", "folder/file/below"):
        assert not store.exists(path)
        with pytest.raises(ObjectNotFound, match="does not exist"):
            store.get(path)


def test_deleting_is_done_once_and_harmless_twice(store: Store) -> None:
    store.put("a", b"")
    store.put("b", b"")

    store.delete(["a", "absent"])
    store.delete(["a"])

    assert store.names("") == ["b"]


def test_a_prefix_names_a_folder_and_not_its_namesakes(store: Store) -> None:
    for path in ("models/1", "models/deep/2", "models-old/3", "model"):
        store.put(path, b"")

    assert store.names("models") == ["models/1", "models/deep/2"]
    assert store.names("absent") == []


def test_folders_right_below_a_prefix_are_named_without_what_lies_in_them(store: Store) -> None:
    for path in ("a/two/x", "a/one/deep/y", "a/file", "ab/other/z"):
        store.put(path, b"")
    assert store.folders("a") == ["one", "two"]
    assert store.folders("a/one") == ["deep"]
    assert store.folders("nothing") == []
    assert store.folders("") == ["a", "ab"]


def test_a_listing_tells_size_and_time_and_notices_a_change(store: Store) -> None:
    store.put("x", b"four")
    [[before]] = store.pages()
    time.sleep(0.01)
    store.put("x", b"five!")
    [[after]] = store.pages()

    assert (before.size_bytes, after.size_bytes) == (4, 5)
    assert abs(before.last_modified.timestamp() - time.time()) < 120
    assert before.etag != after.etag


@pytest.mark.parametrize("uri", ["memory://", "local"])
def test_a_long_listing_comes_in_bounded_pages_that_lose_nothing(uri: str, tmp_path: Path) -> None:
    store = open_store(uri if "://" in uri else str(tmp_path / uri), create=True)
    names = [f"{number % 7}/{number:05d}" for number in range(2 * LIST_CHUNK + 1)]
    for name in names:
        store.put(name, b"")

    pages = list(store.pages())

    assert max(map(len, pages)) <= LIST_CHUNK < sum(map(len, pages))
    assert sorted(each.path for page in pages for each in page) == sorted(names)


# Keys on S3 that other tools write


@pytest.fixture
def foreign(s3_root: str) -> Callable[..., None]:
    """Writes keys as any S3 client may, below the root."""
    import boto3

    client = boto3.client("s3")
    bucket, prefix = s3_root.removeprefix("s3://").split("/", 1)

    def write(*paths: str) -> None:
        for path in paths:
            client.put_object(Bucket=bucket, Key=f"{prefix}/{path}", Body=path.encode())

    return write


@pytest.mark.s3
def test_odd_keys_are_listed_and_read(s3_root: str, foreign: Callable[..., None]) -> None:
    odd = ["./x", "a//b.jpg", "a/../b.jpg", "/leading.jpg", "new\nline.jpg", "no\u00a0break.jpg"]
    foreign("0.jpg", *odd, "zz.jpg")
    store = open_store(s3_root)

    assert store.names("") == sorted(["0.jpg", *odd, "zz.jpg"])
    for path in odd:
        assert store.get(path) == path.encode()


@pytest.mark.s3
def test_an_odd_key_that_is_gone_is_not_found(s3_root: str, foreign: Callable[..., None]) -> None:
    foreign("x")

    with pytest.raises(ObjectNotFound):
        open_store(s3_root).get("a//gone.jpg")


@pytest.mark.s3
def test_an_odd_key_amid_a_prefix_neither_loses_nor_repeats_others(s3_root: str, foreign: Callable[..., None]) -> None:
    foreign("p/a.jpg", "p/b//c.jpg", "p/d.jpg", "q/e.jpg", "p")

    assert open_store(s3_root).names("p") == ["p/a.jpg", "p/b//c.jpg", "p/d.jpg"]


@pytest.mark.s3
def test_a_prefix_shared_with_a_neighbour_is_kept_apart(s3_root: str, foreign: Callable[..., None]) -> None:
    foreign("shop/a.jpg", "shop-2/b.jpg")

    assert open_store(f"{s3_root}/shop/").names("") == ["a.jpg"]


# Names in a local directory


@pytest.mark.parametrize("name", [*ORDINARY, "new\nline.jpg", "back\\slash.jpg", "draft#1", " space ", "~", "-"])
def test_any_local_name_is_listed_and_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"bytes")
    store = open_store(str(tmp_path))

    assert store.names("") == [name]
    assert store.get(name) == b"bytes"
    assert store.exists(name)


def test_links_are_followed_and_a_cycle_of_them_ends(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    (shop / "a").mkdir(parents=True)
    (shop / "a" / "x.jpg").write_bytes(b"x")
    (shop / "a" / "up").symlink_to(shop)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "y.jpg").write_bytes(b"y")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "elsewhere")
    (shop / "linked").symlink_to(tmp_path / "elsewhere")
    (shop / "z.jpg").symlink_to(shop / "a" / "x.jpg")

    assert open_store(str(shop)).names("") == ["a/x.jpg", "linked/y.jpg", "z.jpg"]


def test_what_holds_no_bytes_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "good.jpg").write_bytes(b"x")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "itself.jpg").symlink_to("itself.jpg")
    (tmp_path / "below-a-file.jpg").symlink_to(tmp_path / "good.jpg" / "x")
    os.mkfifo(tmp_path / "pipe.jpg")  # reading it would wait for ever

    assert open_store(str(tmp_path)).names("") == ["good.jpg"]


def test_a_name_that_is_not_utf8_is_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "good.jpg").write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad-\xff.jpg")).write_bytes(b"x")

    with caplog.at_level(logging.WARNING):
        names = open_store(str(tmp_path)).names("")

    assert names == ["good.jpg"]
    assert r"bad-\xff.jpg" in caplog.text
    assert "rename it" in caplog.text


def test_a_folder_removed_while_it_is_listed_is_passed_over(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        for number in range(LIST_CHUNK // 2):
            (tmp_path / name / f"{number}.jpg").touch()
    pages = open_store(str(tmp_path)).pages()
    first = next(pages)
    for path in (tmp_path / "c").iterdir():
        path.unlink()
    (tmp_path / "c").rmdir()

    assert len(first) + sum(map(len, pages)) == LIST_CHUNK


def test_a_copy_that_keeps_size_and_time_is_no_change(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "x.jpg").write_bytes(b"old")
    [[before]] = open_store(str(tmp_path / "shop")).pages()
    shutil.copytree(tmp_path / "shop", tmp_path / "copy")  # as `cp -a` and a remount: other inodes
    [[after]] = open_store(str(tmp_path / "copy")).pages()
    os.utime(tmp_path / "copy" / "x.jpg", ns=(0, 1))
    [[touched]] = open_store(str(tmp_path / "copy")).pages()

    assert before.etag == after.etag != touched.etag


@pytest.mark.parametrize("name", ["a b", "50%20off", "C#", "why?", "ünï"])
def test_a_file_uri_names_its_directory_back(tmp_path: Path, name: str) -> None:
    store = open_store(str(tmp_path / name), create=True)
    store.put("x", b"here")

    assert open_store(store.uri).get("x") == b"here"
    assert open_store(f"file://localhost{store.uri.removeprefix('file://')}").get("x") == b"here"


def test_a_hash_in_a_file_uri_is_not_cut_off(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()

    with pytest.raises(ObjectNotFound, match="shop#1"):
        open_store(f"file://{tmp_path}/shop#1")


# What a root that can't be used says


def said(uri: str, kind: type[LakeError] = LakeError, *, create: bool = False) -> str:
    """The one line that opening the root ends in."""
    with pytest.raises(kind) as caught:
        open_store(uri, create=create)
    message = str(caught.value)
    assert "\n" not in message.replace(uri, "")
    assert type(caught.value) is kind
    return message


def test_no_directory_is_said(tmp_path: Path) -> None:
    assert said(str(tmp_path / "none"), ObjectNotFound) == f"{tmp_path / 'none'} does not exist"
    assert not (tmp_path / "none").exists()


def test_a_file_instead_of_a_directory_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    for create in (False, True):
        message = said(str(tmp_path / "file"), create=create)
        assert message == f"{tmp_path / 'file'} is a file: expected a directory or s3://bucket/prefix"


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert said(str(tmp_path / "file" / "x"), create=True).endswith("can't be created: Not a directory")
    assert said(str(tmp_path / ("x" * 300)), create=True).endswith("can't be created: File name too long")
    assert said(str(tmp_path / ("x" * 300))).endswith("can't be opened: File name too long")


def test_an_unwritable_directory_is_said(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    store = open_store(str(root))
    root.chmod(0o500)
    try:
        if os.access(root, os.W_OK):
            pytest.skip("this user can write everywhere")
        with pytest.raises(LakeError, match="was denied"):
            store.put("x", b"")
    finally:
        root.chmod(0o700)


def test_a_file_where_a_folder_is_needed_is_said(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("models", b"a file")

    with pytest.raises(LakeError, match="can't be written: a part of its path is a file") as caught:
        store.put("models/x", b"")
    assert not isinstance(caught.value, StoreUnavailable)  # trying again would not help


def test_the_home_of_an_unknown_user_does_not_exist() -> None:
    assert "does not exist" in said("~nobody-of-that-name/x", ObjectNotFound)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("gs://bucket/x", "gs:// is not supported: expected s3://bucket/prefix, file:///path or a directory"),
        ("https://host/x", "https:// is not supported: expected s3://bucket/prefix, file:///path or a directory"),
        ("file://host/x", "file://host/x names the host 'host': a local URI has three slashes, file:///path"),
        ("s3://", "'s3://' is not an S3 URI: expected s3://bucket/prefix"),
        ("s3:///x", "'s3:///x' is not an S3 URI: expected s3://bucket/prefix"),
        ("s3://two words/x", "'s3://two words/x' is not an S3 URI: expected s3://bucket/prefix"),
    ],
)
def test_a_uri_of_another_kind_is_said(uri: str, message: str) -> None:
    assert said(uri, create=True) == message


def given_keys(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    aws.setenv("AWS_SECRET_ACCESS_KEY", "example")


@pytest.mark.usefixtures("aws")
def test_missing_credentials_are_said() -> None:
    assert said("s3://bucket/x") == (
        "no AWS credentials for s3://bucket: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
        "or run `aws sso login`"
    )


def test_half_of_the_credentials_is_said(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")

    assert "missing: AWS_SECRET_ACCESS_KEY" in said("s3://bucket/x")


def test_an_unknown_profile_is_said(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_PROFILE", "nobody")

    assert said("s3://bucket/x") == ("no AWS session for s3://bucket: The config profile (nobody) could not be found")


def test_credentials_that_ended_are_said_with_their_reason(aws: pytest.MonkeyPatch, tmp_path: Path) -> None:
    aws.setenv("AWS_PROFILE", "ended")
    (tmp_path / "config").write_text("[profile ended]\ncredential_process = false\nregion = eu-west-1\n")

    message = said("s3://bucket/x")

    assert "AWS" in message
    assert "custom-process" in message


def test_an_endpoint_that_is_no_url_is_said(aws: pytest.MonkeyPatch) -> None:
    given_keys(aws)
    aws.setenv("AWS_ENDPOINT_URL", "localhost:9000")

    assert said("s3://bucket/x") == "no AWS session for s3://bucket: Invalid endpoint: localhost:9000"


@pytest.mark.parametrize("prefix", ["x", "tokens", "assumed-credentials"])
def test_an_unreachable_endpoint_is_said_soon_and_may_be_tried_again(aws: pytest.MonkeyPatch, prefix: str) -> None:
    given_keys(aws)
    aws.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    begun = time.monotonic()

    message = said(f"s3://bucket/{prefix}", StoreUnavailable)

    assert message.startswith(f"s3://bucket/{prefix} did not answer")
    assert time.monotonic() - begun < 30


def test_amazon_needs_no_endpoint_and_others_are_named(aws: pytest.MonkeyPatch) -> None:
    given_keys(aws)
    aws.setenv("AWS_REGION", "eu-west-1")
    aws.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    amazon = locate("bucket", "p")
    aws.setenv("AWS_ENDPOINT_URL", "http://minio:9000")
    other = locate("bucket", "p")

    assert (amazon.endpoint, amazon.region, amazon.allow_http) == (None, "eu-west-1", False)
    assert (other.endpoint, other.region, other.allow_http) == ("http://minio:9000", "eu-west-1", True)


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
@pytest.mark.parametrize(
    "endpoint",
    [
        "https://bucket.vpce-1a2b3c4d-5e6f.s3.eu-west-1.vpce.amazonaws.com",
        "https://s3-fips.us-gov-west-1.amazonaws.com",
        "https://s3.cn-north-1.amazonaws.com.cn",
        "https://s3.us-west-2.amazonaws.com",
        "https://s3.dualstack.eu-west-1.amazonaws.com",
        "http://s3.eu-west-1.amazonaws.com",
    ],
)
def test_an_endpoint_of_amazon_that_is_not_the_regions_usual_one_is_kept(
    aws: pytest.MonkeyPatch, name: str, endpoint: str
) -> None:
    given_keys(aws)
    aws.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    aws.setenv(name, endpoint)
    store = open_store("s3://bucket/p", check=False)
    assert store.s3 is not None
    assert store.s3.endpoint == store.storage_options["aws_endpoint"] == endpoint
    config: Any = store.s3.backend.config
    assert config["endpoint"] == endpoint


@pytest.mark.parametrize(
    ("region", "variable", "endpoint"),
    [
        ("us-east-1", "", None),
        ("us-gov-west-1", "", None),
        ("cn-north-1", "", "https://s3.cn-north-1.amazonaws.com.cn"),
        ("eu-west-1", "AWS_USE_FIPS_ENDPOINT", "https://s3-fips.eu-west-1.amazonaws.com"),
        ("us-east-1", "AWS_USE_FIPS_ENDPOINT", "https://s3-fips.us-east-1.amazonaws.com"),
        ("us-east-1", "AWS_USE_DUALSTACK_ENDPOINT", "https://s3.dualstack.us-east-1.amazonaws.com"),
    ],
)
def test_where_other_clients_would_derive_another_endpoint_they_are_told_boto3s(
    aws: pytest.MonkeyPatch, region: str, variable: str, endpoint: str | None
) -> None:
    given_keys(aws)
    aws.setenv("AWS_DEFAULT_REGION", region)
    if variable:
        aws.setenv(variable, "true")
    assert locate("bucket", "p").endpoint == endpoint


@pytest.mark.s3
def test_a_bucket_that_is_not_there_is_said(s3_bucket: str) -> None:
    uri = f"{s3_bucket}-absent/x"

    expected = f"the bucket of {uri} does not exist: create it, or correct the URI"
    assert said(uri) == expected
    for create in (False, True):
        with pytest.raises(LakeError) as caught:
            open_lake(uri, create=create)
        assert str(caught.value) == expected


@pytest.mark.s3
@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_said(s3_root: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "wrong")

    assert said(s3_root).startswith(f"access to {s3_root} was denied: check the credentials")


# Opening a lake


def test_a_root_without_a_lake_is_told_apart(root: str) -> None:
    with pytest.raises(NoLake, match="there is no lake at"):
        open_lake(root)
    open_lake(root, create=True)

    assert open_lake(root).serving() == Serving(None, None, None)


def test_a_lake_of_a_later_layout_is_refused(root: str) -> None:
    open_lake(root, create=True).store.put("vitrine.json", b'{"format": 2}\n')

    with pytest.raises(LakeError, match="another layout than this Vitrine writes: update Vitrine"):
        open_lake(root, create=True)


@pytest.mark.parametrize("name", ["a*b", "a?b", "a[b]", "50%20off", "back\\slash", "new\nline"])
def test_a_path_that_engines_would_misread_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(LakeError, match="rename it"):
        open_lake(str(tmp_path / name), create=True)

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.s3
def test_a_hash_in_an_s3_prefix_is_refused_since_all_tables_would_meet_before_it(s3_root: str) -> None:
    with pytest.raises(LakeError, match="rename it"):
        open_lake(f"{s3_root}/a#b", create=True)


def test_a_session_token_reaches_delta(aws: pytest.MonkeyPatch) -> None:
    given_keys(aws)

    assert "session_token" not in locate("bucket", "").credentials()
    aws.setenv("AWS_SESSION_TOKEN", "token")
    assert locate("bucket", "").credentials()["session_token"] == os.environ["AWS_SESSION_TOKEN"]


# Servers that stall or stumble


class Stumbling(BaseHTTPRequestHandler):
    """Answers each object's first request as its name says, and any later one well."""

    asked: ClassVar[Counter[str]] = Counter()
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        first = self.asked[self.path] == 1
        if "dead" in self.path or (first and "stalls" in self.path):
            time.sleep(1.0)
            self.close_connection = True
            return
        status = 503 if first and "busy" in self.path else 200
        body = b"<Error/>" if status == 503 else b"the bytes"
        wanted = self.headers.get("Range")  # obstore asks for the rest of a body that broke off
        if wanted:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            status, whole, body = 206, len(body), body[start:]
        self.send_response(status)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Wed, 01 Jul 2026 12:00:00 GMT")
        self.send_header("ETag", '"1"')
        self.end_headers()
        if first and "trickles" in self.path:
            self.wfile.write(body[:2])
            self.wfile.flush()
            time.sleep(1.0)
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stumbling(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store on such a server, with short deadlines."""
    monkeypatch.setattr("lake.s3.REQUEST_SECONDS", 0.3)
    monkeypatch.setattr("lake.s3.RETRY_SECONDS", 1.0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stumbling)
    server.daemon_threads = True
    Stumbling.asked.clear()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    yield open_store("s3://shop/pictures", check=False)
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["busy", "stalls", "trickles"])
def test_an_object_whose_first_answer_fails_or_stalls_is_asked_for_again(stumbling: Store, name: str) -> None:
    assert stumbling.get(f"{name}.jpg") == b"the bytes"
    assert Stumbling.asked[f"/shop/pictures/{name}.jpg"] == 2


def test_an_object_that_never_answers_ends_in_an_error_at_its_deadline(stumbling: Store) -> None:
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="did not answer"):
        stumbling.get("dead.jpg")
    assert time.monotonic() - started < 8
    assert Stumbling.asked["/shop/pictures/dead.jpg"] > 1
