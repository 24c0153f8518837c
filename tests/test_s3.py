"""A root on S3 is resolved once a process and environment, and again where anything that decides it has changed."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import boto3
import pytest
from botocore.credentials import RefreshableCredentials

from lake import s3
from lake.errors import LakeError
from lake.lake import Lake, open_lake
from lake.s3 import locate
from lake.store import open_store


class Built:
    """Counts the boto3 sessions and clients that are really made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sessions = self.clients = 0
        built = self

        class Counted(boto3.session.Session):  # type: ignore[misc]
            def __init__(self, *arguments: Any, **options: Any) -> None:
                built.sessions += 1
                super().__init__(*arguments, **options)

            def client(self, *arguments: Any, **options: Any) -> Any:
                built.clients += 1
                return super().client(*arguments, **options)

        monkeypatch.setattr(boto3.session, "Session", Counted)

    def since(self) -> tuple[int, int]:
        """Sessions and clients made since this was last asked."""
        counts = (self.sessions, self.clients)
        self.sessions = self.clients = 0
        return counts


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Built:
    return Built(monkeypatch)


@pytest.fixture
def keys(aws: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Keys that no other test has, so that nothing was opened with them before."""
    aws.setenv("AWS_ACCESS_KEY_ID", f"AKIA{uuid.uuid4().hex}")
    aws.setenv("AWS_SECRET_ACCESS_KEY", "example")
    return aws


def access_key(bucket: str = "bucket") -> str:
    return locate(bucket, "p").credentials()["access_key_id"]


# On the real server


@pytest.mark.s3
def test_a_lake_opened_again_makes_no_client_however_it_comes(
    s3_root: str, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_TEST", s3_root)  # as if in a process of its own
    lake = open_lake(s3_root, create=True)
    assert built.since() == (1, 1)
    lake.store.put("x", b"here")

    again = open_lake(s3_root)
    there: Lake = pickle.loads(pickle.dumps(lake.under(7)))  # noqa: S301 (our own)
    source = open_store(f"{s3_root}/source")  # another root of the same server
    source.put("y", b"there")

    assert built.since() == (0, 0)
    assert again.store.get("x") == there.store.get("x") == b"here"
    assert (there.uri, there.epoch, there.models.epoch) == (lake.uri, 7, 7)
    assert lake.store.get("source/y") == b"there"


@pytest.mark.s3
def test_another_access_key_is_another_store_and_the_first_stays_of_use(
    s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = open_store(s3_root)
    with monkeypatch.context() as patched:
        patched.setenv("AWS_ACCESS_KEY_ID", "of-nobody")
        with pytest.raises(LakeError, match="was denied"):
            open_store(s3_root)
        allowed.put("x", b"here")

    assert open_store(s3_root).get("x") == b"here"


@pytest.mark.s3
def test_odd_keys_of_two_roots_are_read_by_one_client_and_not_mixed_up(s3_root: str) -> None:
    client = boto3.client("s3")
    bucket, prefix = s3_root.removeprefix("s3://").split("/", 1)
    for folder in ("one", "two"):
        client.put_object(Bucket=bucket, Key=f"{prefix}/{folder}/a//b", Body=folder.encode())
    one, two = open_store(f"{s3_root}/one"), open_store(f"{s3_root}/two")

    assert (one.get("a//b"), two.get("a//b")) == (b"one", b"two")
    assert one.s3 is not None and two.s3 is not None
    assert one.s3.session is two.s3.session


# What the environment decides


def test_roots_of_one_environment_share_its_session(keys: pytest.MonkeyPatch, built: Built) -> None:
    roots = [locate("bucket", prefix) for prefix in ("p", "q", "p")]

    assert built.since() == (1, 1)
    assert roots[0] is roots[2] is not roots[1]
    assert (roots[0].uri, roots[1].uri) == ("s3://bucket/p", "s3://bucket/q")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ACCESS_KEY_ID", "AKIAOTHER"),
        ("AWS_SECRET_ACCESS_KEY", "other"),
        ("AWS_SESSION_TOKEN", "token"),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ENDPOINT_URL_S3", "http://minio:9000"),
        ("HTTPS_PROXY", "http://proxy:3128"),
    ],
)
def test_another_variable_is_another_session_and_the_old_one_comes_back_with_it(
    keys: pytest.MonkeyPatch, built: Built, name: str, value: str
) -> None:
    before = locate("bucket", "p")
    with keys.context() as patched:
        patched.setenv(name, value)
        assert locate("bucket", "p").session is not before.session
    built.since()

    assert locate("bucket", "p") is before
    assert built.since() == (0, 0)


def test_a_credentials_file_that_was_written_again_counts_at_once(aws: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def write(key: str) -> None:
        (tmp_path / "new").write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n")
        (tmp_path / "new").replace(tmp_path / "credentials")

    write("AKIA1")
    assert access_key() == "AKIA1"
    write("AKIA2")
    assert access_key() == "AKIA2"


def credential_process(directory: Path, expiry: str) -> Path:
    """The program that is asked for credentials; it hands out another key each time it is asked."""
    script = directory / "login.py"
    script.write_text(
        "import json, pathlib, sys\n"
        "count = pathlib.Path(sys.argv[1]); count.write_text(count.read_text() + 'x')\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': f'AKIA{len(count.read_text())}', 'SecretAccessKey': 's',\n"
        f"                  'SessionToken': 't'{expiry}}}))\n"
    )
    (directory / "count").write_text("")
    (directory / "config").write_text(
        f"[default]\ncredential_process = {sys.executable} {script} {directory / 'count'}\n"
    )
    return script


def test_credentials_that_expire_are_refreshed_in_the_store_that_is_kept(
    aws: pytest.MonkeyPatch, tmp_path: Path, built: Built
) -> None:
    script = credential_process(tmp_path, ", 'Expiration': '2001-01-01T00:00:00Z'")
    root = locate("bucket", "p")
    made = built.since()

    with pytest.raises(LakeError, match=r"no usable AWS credentials for s3://bucket: .*still expired"):
        root.credentials()
    script.write_text(script.read_text().replace("2001-01-01", "2101-01-01"))
    first = access_key()

    assert made == (1, 1)
    assert int(first.removeprefix("AKIA")) == len((tmp_path / "count").read_text()) > 1
    assert (locate("bucket", "p"), built.since()) == (root, (0, 0))


def test_a_program_that_names_no_expiry_is_asked_for_credentials_again(aws: pytest.MonkeyPatch, tmp_path: Path) -> None:
    credential_process(tmp_path, "")
    aws.setattr(s3, "CREDENTIALS_WITHOUT_EXPIRY", timedelta(minutes=14))  # which boto3 refreshes: 15 are no more left
    root = locate("bucket", "p")
    keys = [root.credentials()["access_key_id"] for _ in range(2)]
    assert len(set(keys)) == 2
    aws.setattr(s3, "CREDENTIALS_WITHOUT_EXPIRY", timedelta(minutes=30))
    assert root.credentials()["access_key_id"] not in keys
    assert len({root.credentials()["access_key_id"] for _ in range(3)}) == 1
    provider: Any = root.backend.credential_provider
    assert provider()["access_key_id"] == root.session.client._request_signer._credentials.access_key


def test_obstore_asks_for_credentials_again_before_boto3_lets_them_expire(keys: pytest.MonkeyPatch) -> None:
    asked_again_before_the_end = timedelta(minutes=5)  # in object_store, of every provider
    provider: Any = locate("bucket", "p").backend.credential_provider
    kept = provider()["expires_at"] - datetime.now(UTC) - asked_again_before_the_end
    assert kept < timedelta(seconds=RefreshableCredentials._mandatory_refresh_timeout)


def test_no_credentials_are_not_remembered(aws: pytest.MonkeyPatch) -> None:
    with pytest.raises(LakeError, match="no AWS credentials"):
        locate("bucket", "p")
    with pytest.raises(LakeError, match="no AWS credentials"):
        locate("bucket", "p")
    aws.setenv("AWS_ACCESS_KEY_ID", "AKIA3")
    aws.setenv("AWS_SECRET_ACCESS_KEY", "s")

    assert access_key() == "AKIA3"


def test_threads_that_open_a_root_at_once_share_one_client(keys: pytest.MonkeyPatch, built: Built) -> None:
    start = Barrier(8)

    def opened(_: int) -> int:
        start.wait(30)
        return id(locate("bucket", "p"))

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(opened, range(8)))) == 1
    assert built.since() == (1, 1)


FORKED = """
import os, threading
from lake import s3
from tests.test_s3 import Built
import pytest

with pytest.MonkeyPatch.context() as patched:
    built = Built(patched)
    mine = s3.locate("bucket", "p")
    assert built.since() == (1, 1)
    with s3._resolving:  # as if another thread were just opening one
        child = os.fork()
    if child == 0:
        theirs = s3.locate("bucket", "p")
        os._exit(0 if theirs is not mine and built.since() == (1, 1) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert s3.locate("bucket", "p") is mine
"""


def test_a_forked_process_opens_its_own(keys: pytest.MonkeyPatch) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", FORKED], env=environment, timeout=120, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
