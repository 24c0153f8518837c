"""Prefect for a run here and now: quiet, and with a temporary server where none is configured.

`prepare` must be called before Prefect is imported: it reads its settings then.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from flows.errors import PrefectUnavailable

START_SECONDS = 180  # the first start on a machine creates the database, and busy machines are slow

DEFAULTS = {
    # Its chatter is not the user's business; a failed run says why in one line of ours.
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}

SERVER = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


def prepare() -> None:
    """Set what a run from the command line needs; what the user has set stays."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


@contextmanager
def server() -> Iterator[None]:
    """Have a Prefect server answer while the block runs, a temporary one where none is configured.

    Raises PrefectUnavailable.
    """
    prepare()
    warnings.simplefilter("ignore")  # other people's deprecations are not the user's business either
    from prefect.settings import PREFECT_API_URL

    if os.environ["PREFECT_LOGGING_LEVEL"] == DEFAULTS["PREFECT_LOGGING_LEVEL"]:
        for name in ("prefect", "prefect.flow_runs", "prefect.task_runs", "prefect._internal"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    configured = PREFECT_API_URL.value()
    if configured:
        _check_configured(configured)
        with without_heartbeats():
            yield
        return
    from prefect.settings import temporary_settings

    with _temporary_server() as url, temporary_settings({PREFECT_API_URL: url}), without_heartbeats():
        yield


@contextmanager
def without_heartbeats() -> Iterator[None]:
    """No heartbeats of flow runs: nobody watches a run here and now, and each flow waits a second for its thread."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def _check_configured(url: str) -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem is not None:
        raise PrefectUnavailable(
            f"the Prefect server at {url} does not answer: start it, or unset PREFECT_API_URL for a temporary one"
        )


@contextmanager
def _temporary_server() -> Iterator[str]:
    """A server of this run's own; its API's URL."""
    from flows import display

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.temporary_server", str(port)],
        env=os.environ | SERVER,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with display.waiting_for("starting Prefect"):
            _wait_until_it_answers(f"http://127.0.0.1:{port}/api/health", process)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        process.communicate()  # closes its standard input, at which it ends


def _wait_until_it_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    import httpx

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url, timeout=5, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    why = "it ended at once" if process.poll() is not None else f"it did not answer in {START_SECONDS} s"
    raise PrefectUnavailable(
        f"Prefect's temporary server could not be started ({why}): try `prefect server start` to see why, "
        "and set PREFECT_API_URL to a server that runs"
    )
