"""Fixtures that several test files share: roots to store things under, servers, real pictures."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test must not see the VITRINE_… of whoever runs it."""
    for name in list(os.environ):
        if name.startswith("VITRINE_") and name != "VITRINE_TEST_S3":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """The URI of a fresh bucket on a real S3 server; emptied and removed afterwards."""
    if not os.environ.get("VITRINE_TEST_S3"):
        pytest.skip("no S3 server given: set VITRINE_TEST_S3=1 and AWS_ENDPOINT_URL with credentials")
    import boto3

    client = boto3.client("s3")
    name = f"vitrine-test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    yield f"s3://{name}"
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
        for found in page.get("Contents", []):
            client.delete_object(Bucket=name, Key=found["Key"])
    client.delete_bucket(Bucket=name)


@pytest.fixture
def s3_root(s3_bucket: str) -> str:
    """A fresh prefix on the real S3 server."""
    return f"{s3_bucket}/{uuid.uuid4().hex[:8]}"


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh root URI, once in a local directory and once on the real S3 server."""
    if request.param == "local":
        return str(tmp_path / "a lake's root")
    uri: str = request.getfixturevalue("s3_root")
    return uri


@pytest.fixture(scope="session")
def grocery() -> Path:
    """Real photographs of packaged products, several of each."""
    return _shared("grocery-packages")


@pytest.fixture(scope="session")
def bass() -> Path:
    """Two-colour pictures with human ratings of emotion."""
    return _shared("bass")


def _shared(name: str) -> Path:
    path = SHARED_DATA / name
    if not path.is_dir():
        pytest.skip(f"no {name} pictures beside the project ({path})")
    return path
