"""README's block "On a schedule", pasted as it stands into a fresh shell."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from lake import catalogue
from lake.lake import open_lake
from tests.conftest import _free_port
from tests.small_lake import init_lake
from vitrine.demo.draw_catalogue import draw_catalogue, write_labels

pytestmark = pytest.mark.prefect

PROJECT = Path(__file__).parents[1]
SOURCE, PORT = "s3://my-shop/pictures", "4200"  # what the README says and a test can't use
SECONDS = 400  # a generous bound: a quiet machine takes a tenth of it


def block_below(heading: str) -> str:
    """The first fenced block below a heading of the README."""
    found = re.search(
        rf"^## {heading}\n.*?^```\n(.*?)^```", (PROJECT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert found is not None, f"README.md has no block below {heading!r}"
    return found[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A project's directory after `make install` and the block "Your own pictures", with a shop of a few pictures."""
    checkout = tmp_path / "a checkout"
    checkout.mkdir()
    (checkout / ".venv").symlink_to(sys.prefix)
    shutil.copy(PROJECT / "prefect.yaml", checkout)
    drawn = draw_catalogue(tmp_path / "pictures", products=12, views=2, size=64, seed=1)
    write_labels(checkout / "labels.csv", drawn)
    init_lake(str(checkout / "shop"))
    return checkout


@pytest.fixture
def fresh_shell(tmp_path: Path) -> dict[str, str]:
    """The environment of a user who never used Prefect."""
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return kept | {
        "HOME": str(home),
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_API_PORT": str(_free_port()),
    }


def test_the_block_on_a_schedule_works_pasted_into_a_fresh_shell(
    tmp_path: Path, checkout: Path, fresh_shell: dict[str, str]
) -> None:
    block = block_below("On a schedule")
    assert SOURCE in block
    assert PORT in block
    port = fresh_shell["PREFECT_SERVER_API_PORT"]
    log = tmp_path / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            ["bash", "-e", "-c", block.replace(SOURCE, str(tmp_path / "pictures")).replace(PORT, port)],
            env=fresh_shell,
            cwd=checkout,
            stdin=subprocess.DEVNULL,
            stdout=output,  # a file: the server and the worker hold it open after the shell's end
            stderr=output,
            start_new_session=True,
        ) as shell,
    ):
        try:
            assert shell.wait(SECONDS) == 0, log.read_text()[-4000:]
            answer = httpx.post(f"http://127.0.0.1:{port}/api/flow_runs/filter", json={}, trust_env=False)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)  # the server and the worker that the shell leaves behind
    ended = {run["name"]: run["state_type"] for run in answer.raise_for_status().json() if not run["auto_scheduled"]}
    assert set(ended.values()) == {"COMPLETED"}, log.read_text()[-4000:]
    lake = open_lake(str(checkout / "shop"))
    with catalogue.connect(lake) as sql:
        runs = sql.execute("SELECT flow, status FROM runs WHERE parent_run_id IS NULL ORDER BY started_at").fetchall()
        products = sql.execute("SELECT count(DISTINCT product_id) FROM images").fetchall()
    assert runs == [("nightly", "completed"), ("retrain-model", "completed")]
    assert products == [(12,)]
    assert lake.serving().index_version is not None
