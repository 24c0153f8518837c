"""A Prefect server, a worker and every deployment of prefect.yaml, as an operator has them; each can be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from lake.lake import Lake, open_lake
from lake.lease import held_by
from lake.presence import Writer
from tests.conftest import _free_port, _wait_for

PROJECT = Path(__file__).parents[1]
SECONDS = 240  # a bound for a busy machine
PREFECT = [sys.executable, "-m", "prefect"]


@dataclass
class Installation:
    """A server and a worker that live in one directory; the settings name a lake, a source and labels there."""

    directory: Path
    port: int
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    # One for all requests: each new client reads the certificates, which takes longer than the request.
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=60, trust_env=False))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def lake(self) -> Lake:
        return open_lake(self.environment["VITRINE_LAKE"])

    @property
    def log(self) -> str:
        """The server's log until now."""
        return (self.directory / "server.log").read_text()

    def start(self, *names: str) -> None:
        """Start the server or the worker; the server answers when this returns."""
        for name in names:
            command = {
                "server": [*PREFECT, "server", "start", "--port", str(self.port)],
                "worker": [*PREFECT, "worker", "start", "--pool", "vitrine", "--type", "process"],
            }[name]
            self.processes[name] = self._spawn(command, self.directory / f"{name}.log")
            if name == "server":
                _wait_for(f"{self.url}/api/health", self.processes[name], self.directory / "server.log")

    def _spawn(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("a") as output:
            return subprocess.Popen(
                command, env=self.environment, cwd=PROJECT, stdout=output, stderr=output, start_new_session=True
            )

    def kill(self, *names: str) -> None:
        """kill -9 of the one process; what it started lives on."""
        for name in names:
            process = self.processes.pop(name)
            process.kill()
            process.wait()

    def stop(self) -> None:
        """End everything, politely first."""
        self.client.close()
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def prefect(self, *arguments: str, directory: Path = PROJECT) -> str:
        """What a command of Prefect prints."""
        done = subprocess.run(
            [*PREFECT, "--no-prompt", *arguments],
            env=self.environment,
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def request(self, method: str, path: str, body: object = None) -> Any:
        """What the server's API answers."""
        deadline = time.monotonic() + SECONDS
        while True:
            answer = self.client.request(method, f"{self.url}/api{path}", json=body)
            # SQLite is locked for a moment: Prefect's own clients ask again, too.
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                answer.raise_for_status()
                return answer.json() if answer.content else None
            time.sleep(0.5)

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def post(self, path: str, body: object) -> Any:
        return self.request("POST", path, body)

    def deployment(self, name: str) -> str:
        """The id of a deployment."""
        (found,) = self.post("/deployments/filter", {"deployments": {"name": {"any_": [name]}}})
        return str(found["id"])

    def run(self, deployment: str, **parameters: Any) -> str:
        """Ask for a run of a deployment now; the run's id."""
        body = {"parameters": {"parameters": parameters}} if parameters else {}
        return str(self.post(f"/deployments/{self.deployment(deployment)}/create_flow_run", body)["id"])

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """The runs of a deployment."""
        found: list[dict[str, Any]] = self.post(
            "/flow_runs/filter", {"deployments": {"name": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}
        )
        return found

    def unschedule(self, deployment: str) -> None:
        """Take away a deployment's schedules, and with them the runs that are planned."""
        schedules = f"/deployments/{self.deployment(deployment)}/schedules"
        for schedule in self.get(schedules):
            self.request("DELETE", f"{schedules}/{schedule['id']}")

    def state(self, run: str) -> str:
        """The name of a run's state, such as Late; its type would be SCHEDULED."""
        return str(self.get(f"/flow_runs/{run}")["state_name"])

    def message(self, run: str) -> str:
        """What a run's state says."""
        return str(self.get(f"/flow_runs/{run}")["state"]["message"])

    def lines(self, run: str) -> list[str]:
        """The run's log, as Prefect's page shows it."""
        body = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
        return [line["message"] for line in self.post("/logs/filter", body)]

    def wait_until(self, happened: Callable[[], bool], what: str, every: float = 0.1) -> None:
        """Ask every so many seconds until it happened; fails with the end of the server's log where it does not."""
        deadline = time.monotonic() + SECONDS
        while not happened():
            assert time.monotonic() < deadline, f"no {what} in {SECONDS} s; the server says:\n{self.log[-3000:]}"
            time.sleep(every)

    def wait_for_state(self, run: str, *states: str) -> None:
        self.wait_until(lambda: self.state(run) in states, f"{' or '.join(states)} run", every=0.3)

    def writer(self, what: str) -> Writer:
        """The process of a run that holds the lease, once it does."""
        found: list[Writer] = []

        def writes() -> bool:
            writer = held_by(self.lake.store)
            found[:] = [writer] if writer is not None and writer.what == what and not writer.process_is_gone else []
            return bool(found)

        self.wait_until(writes, f"{what} that writes")
        return found[0]


@contextlib.contextmanager
def installed(directory: Path, settings: dict[str, str]) -> Iterator[Installation]:
    """A server and a worker of the pool "vitrine" with these settings, every deployment of prefect.yaml in place."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "VITRINE_"))}
    port = _free_port()
    environment = kept | settings | {
        "DO_NOT_TRACK": "1",
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_HOME": str(directory / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }  # fmt: skip
    here = Installation(directory, port, environment)
    try:
        here.start("server")
        here.post("/work_pools/", {"name": "vitrine", "type": "process"})
        here.prefect("deploy", "--all")
        here.start("worker")
        yield here
    finally:
        here.stop()
