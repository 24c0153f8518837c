"""Which errors are written for whoever runs Vitrine: each is one line that says what to do."""

from __future__ import annotations

from index.errors import IndexingError
from lake.errors import LakeError
from model.errors import ModelError
from tasks.errors import TaskError


class SettingsError(Exception):
    """A setting has a value that can't be used; the message names it."""


class PrefectUnavailable(Exception):
    """No Prefect server answers; the message says which, and what to do."""


EXPECTED = (IndexingError, LakeError, ModelError, PrefectUnavailable, SettingsError, TaskError)


def for_people(error: Exception) -> Exception | None:
    """The error as one that is written for people; None where it is a defect, whose traceback matters."""
    if isinstance(error, EXPECTED):
        return error
    import httpx

    away = isinstance(error, httpx.TransportError) or (
        isinstance(error, httpx.HTTPStatusError) and error.response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR
    )
    if not away:
        return None
    from prefect.settings import PREFECT_API_URL

    why = " ".join(str(error).split()) or type(error).__name__
    return PrefectUnavailable(
        f"the Prefect server at {PREFECT_API_URL.value()} went away ({why}); what was committed stays: start the "
        "server and run this again"
    )
