"""A run asked for here and now, in this process or on a server: its end by a signal, its errors as one line."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.here import api_url
from lake import catalogue
from lake.lake import open_lake
from tests.conftest import PrefectServer
from tests.small_lake import build, init_lake
from vitrine.demo.draw_catalogue import draw_catalogue

VITRINE = [sys.executable, "-m", "vitrine"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """No Prefect server configured, and a database of the test's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "VITRINE_"))}
    return kept | {"PREFECT_HOME": str(tmp_path / "prefect")}


def test_ctrl_c_in_a_terminal_ends_a_run_soon_and_says_so(tmp_path: Path, environment: dict[str, str]) -> None:
    draw_catalogue(tmp_path / "pictures", products=100, views=4, size=96, broken=0)
    lake = tmp_path / "lake"
    init_lake(str(lake))
    environment["VITRINE_SHARD_PICTURES"] = "8"
    command = [*VITRINE, "nightly", str(tmp_path / "pictures"), "--lake", str(lake)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 200
        while not list(lake.glob("images/*.parquet")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group at once
        stopped = time.monotonic()
        _, stderr = process.communicate(timeout=90)
    assert process.returncode == 130
    assert time.monotonic() - stopped < 60
    assert stderr.strip() == "vitrine: interrupted; what was committed stays, run it again for the rest"


def test_a_run_that_is_told_to_end_does_and_leaves_a_row(tmp_path: Path, environment: dict[str, str]) -> None:
    draw_catalogue(tmp_path / "pictures", products=100, views=4, size=96, broken=0)
    lake = tmp_path / "lake"
    environment["VITRINE_SHARD_PICTURES"] = "8"
    command = [*VITRINE, "ingest", str(tmp_path / "pictures"), "--lake", str(lake)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        while not list(lake.glob("images/*.parquet")) and run.poll() is None:
            time.sleep(0.05)
        run.terminate()
        _, stderr = run.communicate(timeout=200)
    assert run.returncode == 143
    assert stderr == "vitrine: terminated; what was committed stays, run it again for the rest\n"
    with catalogue.connect(open_lake(str(lake))) as sql:
        assert sql.execute("SELECT status, error FROM runs").fetchall() == [("cancelled", "stopped by a signal")]


def test_files_in_the_current_directory_are_not_taken_for_modules(tmp_path: Path, environment: dict[str, str]) -> None:
    draw_catalogue(tmp_path / "pictures", products=2, views=2, size=64, broken=0)
    (tmp_path / "html.py").write_text("raise ImportError('not the one that was meant')")
    vitrine = Path(sys.executable).with_name("vitrine")
    done = subprocess.run(
        [vitrine, "ingest", "pictures"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_server_is_named_by_the_environment_or_the_active_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles = 'active = "shop"\n[profiles.shop]\nPREFECT_API_URL = "http://a/api"\n[profiles.plain]\n'
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert api_url() is None
    (tmp_path / "profiles.toml").write_text(profiles)
    assert api_url() == "http://a/api"
    monkeypatch.setenv("PREFECT_PROFILE", "plain")
    assert api_url() is None
    monkeypatch.setenv("PREFECT_API_URL", "http://b/api")
    assert api_url() == "http://b/api"
    monkeypatch.setenv("PREFECT_API_URL", "")
    assert api_url() is None


def test_a_night_outlives_the_terminal_that_it_was_started_from(tmp_path: Path, environment: dict[str, str]) -> None:
    draw_catalogue(tmp_path / "pictures", products=40, views=2, size=48, broken=0)
    lake = tmp_path / "lake"
    init_lake(str(lake))
    environment["VITRINE_SHARD_PICTURES"] = "8"
    command = [*VITRINE, "nightly", str(tmp_path / "pictures"), "--lake", str(lake)]
    terminal, its_end = os.openpty()
    with subprocess.Popen(
        command,
        env=environment,
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        preexec_fn=lambda: os.login_tty(its_end),  # noqa: PLW1509 (nothing else makes it the process's own terminal)
    ) as process:
        os.close(its_end)
        while not list(lake.glob("images/*.parquet")) and process.poll() is None:
            if select.select([terminal], [], [], 0.1)[0]:
                os.read(terminal, 65536)  # as a terminal does, or the night would wait to be shown
        os.close(terminal)
        process.wait(300)
    opened = open_lake(str(lake))
    assert opened.serving().index_version == 1
    with catalogue.connect(opened) as sql:
        assert sql.execute("SELECT DISTINCT status FROM runs").fetchall() == [("completed",)]


def test_a_prefect_server_that_does_not_answer_is_one_line(tmp_path: Path, environment: dict[str, str]) -> None:
    shop = build(tmp_path, products=2)
    environment["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    done = subprocess.run(
        [*VITRINE, "score", "--lake", shop.uri],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("vitrine: the Prefect server at http://127.0.0.1:9/api does not answer")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.prefect
def test_verbose_shows_the_lines_of_a_run_on_a_server_as_it_does_those_of_one_here(
    tmp_path: Path, environment: dict[str, str], prefect_server: PrefectServer
) -> None:
    draw_catalogue(tmp_path / "pictures", products=2, views=2, size=64, broken=0)
    lines = []
    for name, url in (("here", ""), ("there", prefect_server.api_url)):
        done = subprocess.run(
            [*VITRINE, "-v", "ingest", str(tmp_path / "pictures"), "--lake", str(tmp_path / name)],
            env=environment | {"PREFECT_API_URL": url},
            capture_output=True,
            text=True,
            timeout=200,
            check=True,
        )
        lines.append([re.sub(r"[\d.]+ (s|objects/s)$|^\w+ [\w.]+: ", "", line) for line in done.stderr.splitlines()])
    assert lines[1] == lines[0]
    assert "fetch and decode: 4 pictures in " in lines[0]


def test_a_missing_file_of_a_table_is_one_line(tmp_path: Path, environment: dict[str, str]) -> None:
    shop = build(tmp_path, products=2)
    for part in Path(shop.uri, "images").glob("*.parquet"):
        part.unlink()
    done = subprocess.run(
        [*VITRINE, "status", "--lake", shop.uri],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("vitrine: the tables of ")
    assert "can't be read" in done.stderr and len(done.stderr.splitlines()) == 1
