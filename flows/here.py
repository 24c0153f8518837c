"""A run asked for here and now: in this process, or as a flow run where PREFECT_API_URL names a server.

Nothing of Prefect is imported where no server is named.
"""

from __future__ import annotations

import logging
import os
import tomllib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from flows.errors import PrefectUnavailable
from tasks.runner import Inline, LeaseTerms, Runner

if TYPE_CHECKING:
    from flows.settings import Settings

Summary_co = TypeVar("Summary_co", covariant=True)

QUIET = {
    # Prefect's chatter is not the user's business; a failed run says why in one line of ours.
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
}


class Runnable(Protocol[Summary_co]):
    """What a run is asked for by: a flow's parameters."""

    @property
    def settings(self) -> Settings:
        """The settings, with this run's own values in place of theirs."""

    def run(self, runner: Runner) -> Summary_co:
        """Carry it out."""

    def flow(self) -> Any:
        """The flow that does so on a Prefect server."""


def run_here(parameters: Runnable[Summary_co]) -> Summary_co:
    """Run in this process, or on the server that PREFECT_API_URL names. Raises PrefectUnavailable, and what runs."""
    url = api_url()
    if url is None:
        return parameters.run(Inline(parameters.settings.config(LeaseTerms)))
    with _quietly(), _server(url):
        summary: Summary_co = parameters.flow()(parameters)
        return summary


def api_url() -> str | None:
    """The Prefect server that is named: by the environment, or else by the active profile (`prefect config set`)."""
    if "PREFECT_API_URL" in os.environ:
        return os.environ["PREFECT_API_URL"] or None
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    path = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml")).expanduser()
    with suppress(OSError, ValueError):
        profiles = tomllib.loads(path.read_text(encoding="utf-8"))
        active = os.environ.get("PREFECT_PROFILE", profiles.get("active"))
        url = profiles.get("profiles", {}).get(active, {}).get("PREFECT_API_URL")
        return str(url) if url else None
    return None


@contextmanager
def _quietly() -> Iterator[None]:
    """What Prefect logs and warns of is kept from the terminal; what the user has set stays. Before it is imported."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore")  # other people's deprecations are not the user's business either
    if os.environ["PREFECT_LOGGING_LEVEL"] == QUIET["PREFECT_LOGGING_LEVEL"]:
        for name in ("prefect", "prefect.flow_runs", "prefect.task_runs", "prefect._internal"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it says each request to the server
    yield


@contextmanager
def _server(url: str) -> Iterator[None]:
    """Have the server answer while the block runs. Raises PrefectUnavailable where it does not."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url}), without_heartbeats():
        with get_client(sync_client=True) as client:
            problem = client.api_healthcheck()
        if problem is not None:
            raise PrefectUnavailable(
                f"the Prefect server at {url} does not answer: start it, or run without one (PREFECT_API_URL= )"
            )
        yield


@contextmanager
def without_heartbeats() -> Iterator[None]:
    """No heartbeats of flow runs: nobody watches a run here and now, and each flow waits a second for its thread."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield
