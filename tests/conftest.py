"""Fixtures that several test files share: roots to store things under, servers, real pictures."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.bucket import fresh_bucket

# Before torch and faiss are imported: threads that spin while they wait starve the others on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the other core has a worker of its own

settings.register_profile("vitrine", deadline=None)  # a busy machine is slow, and not wrong
settings.load_profile("vitrine")

pytest_plugins = ["tests.command_line"]


# Files that wait for servers more than they compute: each list is one worker's, while the others compute.
ONE_AFTER_ANOTHER = (
    ("test_cli.py", "test_deployments.py", "test_here.py", "test_nightly.py", "test_runner.py"),  # on one server
    ("test_crashes.py", "test_readme.py", "test_schedule.py"),  # each starts its own
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that wait for servers come first: begun last, they would keep one worker while the others have nothing."""
    slow = {item.path for item in items if item.get_closest_marker("prefect")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """A file is one worker's, for its fixtures; so are the files that come one after another."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            file = Path(nodeid.split("::", maxsplit=1)[0]).name
            return next((files[0] for files in ONE_AFTER_ANOTHER if file in files), file)

    return Scheduling(config, log)


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
    with fresh_bucket() as uri:
        yield uri


@pytest.fixture
def s3_root(s3_bucket: str) -> str:
    """A fresh prefix on the real S3 server."""
    return f"{s3_bucket}/{uuid.uuid4().hex[:8]}"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment in which boto3 finds only what the test gives it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


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


@dataclass(frozen=True)
class PrefectServer:
    """A real Prefect server of this test session."""

    api_url: str
    environment: dict[str, str]  # for subprocesses that are to use it


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A Prefect server with a database of its own; flows in this process use it too."""
    home = tmp_path_factory.mktemp("prefect")
    port = _free_port()
    api_url = f"http://127.0.0.1:{port}/api"
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "PREFECT_LOGGING_LEVEL": "WARNING"}
    environment = {**os.environ, **quiet, "PREFECT_HOME": str(home), "PREFECT_API_URL": api_url}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (
        (home / "server.log").open("w") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server,
    ):
        try:
            _wait_for(f"{api_url}/health", server, home / "server.log")
            from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_LEVEL, temporary_settings

            from flows.here import without_heartbeats

            here = temporary_settings({PREFECT_API_URL: api_url, PREFECT_LOGGING_LEVEL: "CRITICAL"})
            with here, without_heartbeats():
                yield PrefectServer(api_url, environment)
        finally:
            server.terminate()
            server.wait(30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 (our own server)
                return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(f"the Prefect server did not start:\n{log.read_text()[-2000:]}")
