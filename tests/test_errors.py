"""Which errors are one line for people, and which are defects whose traceback matters."""

from __future__ import annotations

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.errors import PrefectUnavailable, SettingsError, for_people
from index.errors import IndexingError
from lake.errors import LakeError
from model.errors import ModelError
from tasks.errors import TaskError

REQUEST = httpx.Request("POST", "http://prefect.example:4200/api/flow_runs/")


@pytest.mark.parametrize("kind", [IndexingError, LakeError, ModelError, PrefectUnavailable, SettingsError, TaskError])
def test_our_own_errors_are_for_people(kind: type[Exception]) -> None:
    error = kind("what to do")
    assert for_people(error) is error


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("[Errno 111] Connection refused", request=REQUEST),
        httpx.ReadTimeout("", request=REQUEST),
        httpx.HTTPStatusError("Bad Gateway", request=REQUEST, response=httpx.Response(502)),
    ],
)
def test_a_server_that_went_away_is_named(error: Exception) -> None:
    with temporary_settings({PREFECT_API_URL: "http://prefect.example:4200/api"}):
        known = for_people(error)
    assert isinstance(known, PrefectUnavailable)
    assert str(known).startswith("the Prefect server at http://prefect.example:4200/api went away (")
    assert "\n" not in str(known)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a defect"),
        httpx.HTTPStatusError("a request of ours is wrong", request=REQUEST, response=httpx.Response(422)),
    ],
)
def test_a_defect_keeps_its_traceback(error: Exception) -> None:
    assert for_people(error) is None
