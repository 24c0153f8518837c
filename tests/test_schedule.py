"""What is left to Prefect, on the locked packages: schedules, automations, limits, cancellation, late runs, artifacts.

A package that Prefect's bounds let in can still break its server's services, which say so in the server's log alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from lake.lake import open_lake
from tasks.draw_catalogue import draw_catalogue
from tasks.models import init_model
from tests.conftest import _free_port, _wait_for
from tests.small_lake import SMALL_MODEL

pytestmark = pytest.mark.prefect

PROJECT = Path(__file__).parents[1]
SECONDS = 240  # a bound for a busy machine: a quiet one waits for the next minute and some seconds

# The real services, looking more often than they do by themselves.
QUICK = {
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
}

FLOWS = """
import time

import httpx
from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.concurrency.sync import concurrency
from prefect.settings import PREFECT_API_URL


def taken():
    return httpx.get(f"{PREFECT_API_URL.value()}/v2/concurrency_limits/gpu").raise_for_status().json()["active_slots"]


@flow
def hold_a_slot():
    get_run_logger().info("a line of the run's log")
    before = taken()
    with concurrency("gpu", strict=True):
        held, second = taken(), "got"
        try:
            with concurrency("gpu", strict=True, timeout_seconds=1):
                pass
        except TimeoutError:
            second = "waited in vain"
    create_table_artifact([{"before": before, "held": held, "second": second, "after": taken()}], key="slots")
    create_markdown_artifact("# A heading", key="text", description="what it is")
    create_link_artifact("https://example.org/page", key="link")


@flow
def work_on(until_cancelled: bool):
    while until_cancelled:
        time.sleep(0.1)


@flow
def follow():
    pass
"""

DEPLOYMENTS = """
name: parts
deployments:
  - name: hold
    entrypoint: parts.py:hold_a_slot
    work_pool: {name: vitrine}
  - name: work-on
    entrypoint: parts.py:work_on
    work_pool: {name: vitrine}
    concurrency_limit: {limit: 1, collision_strategy: ENQUEUE}
  - name: unattended
    entrypoint: parts.py:follow
    work_pool: {name: unattended}
  - name: follow
    entrypoint: parts.py:follow
    work_pool: {name: vitrine}
    triggers:
      - type: event
        expect: [prefect.flow-run.Completed]
        match_related:
          prefect.resource.name: hold
          prefect.resource.role: deployment
"""


@dataclass(frozen=True)
class Installation:
    """A server, a worker, the deployment of the night and those above, a lake with a first model."""

    directory: Path
    api: httpx.Client
    environment: dict[str, str]

    @property
    def lake(self) -> str:
        return self.environment["VITRINE_LAKE"]

    @property
    def log(self) -> str:
        """The server's log until now."""
        return (self.directory / "server.log").read_text()

    def prefect(self, *arguments: str, directory: Path = PROJECT) -> str:
        """What a command of Prefect prints."""
        command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        done = subprocess.run(
            command, env=self.environment, cwd=directory, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """What the server answers; asked again, as Prefect's clients do, where SQLite let another write first."""
        deadline = time.monotonic() + SECONDS
        while (answer := self.api.request(method, path, json=body)).status_code == httpx.codes.SERVICE_UNAVAILABLE:
            assert time.monotonic() < deadline, f"the server refuses {method} {path} for {SECONDS} s"
            time.sleep(0.3)
        return answer.raise_for_status().json() if answer.content else None

    def get(self, path: str) -> Any:
        return self.ask("GET", path)

    def post(self, path: str, body: object) -> Any:
        return self.ask("POST", path, body)

    def deployment(self, name: str) -> str:
        """The id of a deployment."""
        (found,) = self.post("/deployments/filter", {"deployments": {"name": {"any_": [name]}}})
        return str(found["id"])

    def run(self, deployment: str, **parameters: object) -> str:
        """Ask for a run of a deployment now; the run's id."""
        asked = f"/deployments/{self.deployment(deployment)}/create_flow_run"
        return str(self.post(asked, {"parameters": parameters})["id"])

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """The runs of a deployment."""
        found: list[dict[str, Any]] = self.post(
            "/flow_runs/filter", {"deployments": {"name": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}
        )
        return found

    def state(self, run: str) -> str:
        """The name of a run's state, such as Late; its type would be SCHEDULED."""
        return str(self.get(f"/flow_runs/{run}")["state_name"])

    def wait_until(self, happened: Callable[[], bool], what: str) -> None:
        """Ask until it happened; fails with the end of the server's log where it does not."""
        deadline = time.monotonic() + SECONDS
        while not happened():
            assert time.monotonic() < deadline, f"no {what} in {SECONDS} s; the server says:\n{self.log[-3000:]}"
            time.sleep(0.3)

    def wait_for_state(self, run: str, state: str) -> None:
        self.wait_until(lambda: self.state(run) == state, f"{state} run")


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One server and one worker for all tests; nights are due every minute."""
    directory = tmp_path_factory.mktemp("schedule")
    (directory / "parts.py").write_text(FLOWS)
    (directory / "prefect.yaml").write_text(DEPLOYMENTS)
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "VITRINE_"))}
    environment = kept | QUICK | {
        "DO_NOT_TRACK": "1",
        "PREFECT_API_URL": url,
        "PREFECT_HOME": str(directory / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "VITRINE_LAKE": str(directory / "lake"),
        "VITRINE_SOURCE": str(directory / "pictures"),
    }  # fmt: skip
    prefect = [sys.executable, "-m", "prefect"]
    with (
        httpx.Client(base_url=url, timeout=60, trust_env=False) as api,
        _running([*prefect, "server", "start", "--port", str(port)], environment, directory / "server.log") as server,
    ):
        draw_catalogue(directory / "pictures", products=6, views=2, size=64)
        init_model(str(directory / "lake"), SMALL_MODEL)
        _wait_for(f"{url}/health", server, directory / "server.log")
        here = Installation(directory, api, environment)
        for pool in ("vitrine", "unattended"):
            here.post("/work_pools/", {"name": pool, "type": "process"})
        here.prefect("deploy", "--name", "nightly")
        schedules = f"/deployments/{here.deployment('nightly')}/schedules"
        (every_night,) = here.get(schedules)
        every_minute = {"schedule": {"cron": "* * * * *", "timezone": "UTC"}, "active": True}
        here.ask("PATCH", f"{schedules}/{every_night['id']}", every_minute)
        here.prefect("deploy", "--all", directory=directory)
        start = [*prefect, "worker", "start", "--pool", "vitrine", "--type", "process"]
        with _running(start, environment, directory / "worker.log"):
            yield here


@contextlib.contextmanager
def _running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process while the block runs; what it started ends with it."""
    with (
        log.open("w") as output,
        subprocess.Popen(
            command, env=environment, cwd=PROJECT, stdout=output, stderr=output, start_new_session=True
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def held(installation: Installation) -> str:
    """A completed run that held the one slot of the limit "gpu" and wrote artifacts."""
    installation.prefect("gcl", "create", "gpu", "--limit", "1")
    run = installation.run("hold")
    installation.wait_for_state(run, "Completed")
    return run


def _artifact(installation: Installation, key: str) -> dict[str, Any]:
    found: dict[str, Any] = installation.get(f"/artifacts/{key}/latest")
    return found


def test_a_global_concurrency_limit_lets_one_run_in_and_is_free_again(installation: Installation, held: str) -> None:
    assert json.loads(_artifact(installation, "slots")["data"]) == [
        {"before": 0, "held": 1, "second": "waited in vain", "after": 0}
    ]
    inspected = json.loads(installation.prefect("gcl", "inspect", "gpu", "--output", "json"))
    assert (inspected["limit"], inspected["active"], inspected["active_slots"]) == (1, True, 0)
    assert installation.state(held) == "Completed"


def test_a_runs_artifacts_are_read_back_as_they_were_written(installation: Installation, held: str) -> None:
    text, link = _artifact(installation, "text"), _artifact(installation, "link")
    assert (text["type"], text["data"], text["description"]) == ("markdown", "# A heading", "what it is")
    assert link["data"] == "[https://example.org/page](https://example.org/page)"
    assert {artifact["flow_run_id"] for artifact in (text, link, _artifact(installation, "slots"))} == {held}


def test_the_lines_of_a_run_reach_the_server(installation: Installation, held: str) -> None:
    def lines() -> list[str]:
        found = installation.post("/logs/filter", {"logs": {"flow_run_id": {"any_": [held]}}})
        return [line["message"] for line in found]

    installation.wait_until(lambda: "a line of the run's log" in lines(), "line of the run's log")


def test_a_cancelled_run_is_ended_and_the_next_gets_its_place(installation: Installation) -> None:
    first = installation.run("work-on", until_cancelled=True)
    installation.wait_for_state(first, "Running")
    second = installation.run("work-on", until_cancelled=False)
    installation.wait_for_state(second, "AwaitingConcurrencySlot")
    installation.prefect("flow-run", "cancel", first)
    installation.wait_for_state(first, "Cancelled")
    installation.wait_for_state(second, "Completed")


def test_a_run_that_no_worker_takes_becomes_late(installation: Installation) -> None:
    installation.wait_for_state(installation.run("unattended"), "Late")


def test_a_trigger_runs_a_deployment_when_a_run_of_another_completes(installation: Installation, held: str) -> None:
    # Not after a night of the schedule below: of a run that was planned less than 5 minutes ago Prefect takes up no
    # event for 15 minutes, for it waits that long for the event of the planning, which the scheduler never sends.
    installation.wait_until(lambda: bool(installation.runs("follow")), f"run after {held}")
    (followed,) = installation.runs("follow")
    assert followed["created_by"]["type"] == "AUTOMATION"
    installation.wait_for_state(followed["id"], "Completed")


def test_a_night_that_is_due_is_made_by_the_worker(installation: Installation) -> None:
    def nights(state: str) -> list[dict[str, Any]]:
        return [run for run in installation.runs("nightly") if run["state_name"] == state]

    installation.wait_until(lambda: bool(nights("Completed")), "completed night")
    night = nights("Completed")[0]
    assert night["auto_scheduled"]
    assert datetime.fromisoformat(night["expected_start_time"]).second == 0  # when the schedule says
    assert open_lake(installation.lake).serving().index_version == 1
    assert len(nights("Scheduled")) > 10  # the scheduler plans an hour ahead


def test_the_pages_of_the_server_are_served(installation: Installation) -> None:
    root = str(installation.api.base_url).removesuffix("/api/")
    page = httpx.get(root, trust_env=False, follow_redirects=True).raise_for_status()
    (script, *_) = re.findall(r'src="(/[^"]+\.js)"', page.text)
    assert "javascript" in httpx.get(root + script, trust_env=False).raise_for_status().headers["content-type"]


def test_the_services_of_the_server_log_no_error(installation: Installation) -> None:
    """Last: whatever the tests above made the server do."""
    records = re.split(r"^(?=\d\d:\d\d:\d\d\.\d{3} \| |[A-Z]+: )", installation.log, flags=re.MULTILINE)
    errors = [record for record in records if re.match(r"\S+ \| (?:ERROR|CRITICAL)|(?:ERROR|CRITICAL): ", record)]
    # That SQLite lets one write at a time is no defect: whoever was refused asks again.
    assert [error for error in errors if "database is locked" not in error] == []
