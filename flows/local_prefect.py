"""Prefect for a run here and now: quiet, and with a temporary server where none is configured.

`prepare` must be called before Prefect is imported: it reads its settings then.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

DEFAULTS = {
    # Without a server of one's own, Prefect starts a temporary one; on a busy machine that takes a while.
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    # Its chatter is not the user's business; a failed run says why in one line of ours.
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}


def prepare() -> None:
    """Set what a run from the command line needs; what the user has set stays."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


@contextmanager
def server() -> Iterator[None]:
    """Have a Prefect server answer while the block runs, a temporary one where none is configured."""
    prepare()
    warnings.simplefilter("ignore")  # other people's deprecations are not the user's business either
    from flows import display

    with display.waiting_for("waiting for Prefect"):
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            client.api_healthcheck()
    for name in ("prefect", "prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with without_heartbeats():
        yield


@contextmanager
def without_heartbeats() -> Iterator[None]:
    """No heartbeats of flow runs: nobody watches a run here and now, and each flow waits a second for its thread."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield
