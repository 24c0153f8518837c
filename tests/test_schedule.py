"""What is left to Prefect, on the locked packages: schedules, automations, limits, cancellation, late runs, artifacts.

A package that Prefect's bounds let in can still break its server's services, which say so in the server's log alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.installation import Installation, installed
from tests.small_lake import init_lake
from vitrine.demo.draw_catalogue import draw_catalogue

pytestmark = pytest.mark.prefect

PROJECT = Path(__file__).parents[1]
# The real services, looking more often than they do by themselves.
QUICK = {
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
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
def work_on(parameters: dict):
    while parameters["until_cancelled"]:
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


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One server and one worker for all tests; the night's schedule is every minute from here on."""
    directory = tmp_path_factory.mktemp("schedule")
    draw_catalogue(directory / "pictures", products=6, views=2, size=64)
    init_lake(str(directory / "lake"))
    (directory / "parts.py").write_text(FLOWS)
    (directory / "prefect.yaml").write_text(DEPLOYMENTS)
    places = {"VITRINE_LAKE": str(directory / "lake"), "VITRINE_SOURCE": str(directory / "pictures")}
    with installed(directory, places | QUICK) as here:
        here.post("/work_pools/", {"name": "unattended", "type": "process"})
        here.unschedule("nightly")
        here.prefect("deploy", "--all", directory=directory)
        every_minute = {"schedule": {"cron": "* * * * *", "timezone": "UTC"}, "active": True}
        here.post(f"/deployments/{here.deployment('nightly')}/schedules", [every_minute])
        yield here


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
    line = "a line of the run's log"
    installation.wait_until(lambda: line in installation.lines(held), line)


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
    assert installation.lake.serving().index_version == 1
    assert len(nights("Scheduled")) > 10  # the scheduler plans an hour ahead


def test_the_pages_of_the_server_are_served(installation: Installation) -> None:
    root = installation.url
    page = httpx.get(root, trust_env=False, follow_redirects=True).raise_for_status()
    (script, *_) = re.findall(r'src="(/[^"]+\.js)"', page.text)
    assert "javascript" in httpx.get(root + script, trust_env=False).raise_for_status().headers["content-type"]


def test_the_services_of_the_server_log_no_error(installation: Installation) -> None:
    """Last: whatever the tests above made the server do."""
    records = re.split(r"^(?=\d\d:\d\d:\d\d\.\d{3} \| |[A-Z]+: )", installation.log, flags=re.MULTILINE)
    errors = [record for record in records if re.match(r"\S+ \| (?:ERROR|CRITICAL)|(?:ERROR|CRITICAL): ", record)]
    # That SQLite lets one write at a time is no defect: whoever was refused asks again.
    assert [error for error in errors if "database is locked" not in error] == []
