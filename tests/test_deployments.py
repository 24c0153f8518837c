"""prefect.yaml against a real server and a real worker: what `make deploy` users do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lake import catalogue
from lake.lake import Serving, open_lake
from tasks.config import ModelChoice
from tasks.looks import init_model
from tests.conftest import PrefectServer
from tests.small_lake import PRODUCT_ID_PATTERN
from vitrine.demo.draw_catalogue import draw_catalogue, write_labels

pytestmark = pytest.mark.prefect

PROJECT = Path(__file__).parents[1]
SCHEDULES = {
    "collect": ["0 12 * * 6"],
    "ingest": [],
    "nightly": ["0 2 * * *"],
    "rebuild": [],
    "retrain": ["0 6 * * 0"],
    "retrain-look": [],
    "score": [],
}


@pytest.fixture(scope="module")
def installation(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A shop, its labels and a lake with a first look, named by settings alone, as on a worker's machine."""
    root = tmp_path_factory.mktemp("installation")
    drawn = draw_catalogue(root / "pictures", products=24, views=2, size=64, seed=1)
    write_labels(root / "labels.csv", drawn)
    init_model(str(root / "lake"), ModelChoice(backbone="resnet18", image_size=64, weights="random"))
    return prefect_server.environment | {
        "VITRINE_LAKE": str(root / "lake"),
        "VITRINE_SOURCE": str(root / "pictures"),
        "VITRINE_LABELS": str(root / "labels.csv"),
        "VITRINE_PRODUCT_ID_PATTERN": PRODUCT_ID_PATTERN,
        "VITRINE_MINIMUM_BALANCED_ACCURACY": "0",
    }


@pytest.fixture(scope="module")
def worker(installation: dict[str, str]) -> Iterator[None]:
    """A process worker of the work pool, with every deployment of prefect.yaml in place."""
    prefect(installation, "--no-prompt", "work-pool", "create", "vitrine", "--type", "process")
    prefect(installation, "--no-prompt", "deploy", "--all")
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "vitrine", "--type", "process"]
    with subprocess.Popen(command, env=installation, cwd=PROJECT, stdout=subprocess.DEVNULL) as process:
        yield
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:  # it turns SIGTERM into SIGINT, which what a shell starts behind "&" ignores
            process.kill()


def prefect(environment: dict[str, str], *arguments: str, seconds: float = 240) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        env=environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.usefixtures("worker")
def test_every_flow_is_deployed_with_its_schedule(prefect_server: PrefectServer) -> None:
    found = httpx.post(f"{prefect_server.api_url}/deployments/filter", json={}).raise_for_status().json()
    schedules = {each["name"]: [each["schedule"]["cron"] for each in each["schedules"]] for each in found}
    assert schedules == SCHEDULES


@pytest.mark.usefixtures("worker")
def test_a_deployed_night_both_retrainings_and_collection_complete_on_a_worker(installation: dict[str, str]) -> None:
    night = prefect(installation, "deployment", "run", "nightly/nightly", "--watch")
    assert "Completed" in night
    lake = open_lake(installation["VITRINE_LAKE"])
    assert lake.serving() == Serving(look_version=1, index_version=1, model_version=None)
    indexes = lake.indexes.entries()
    # Four dozen pictures teach no network reliably; the gate's refusals are tested elsewhere.
    forced = json.dumps({"parameters": {"force": "to see the promotion through"}})
    retrained = prefect(installation, "deployment", "run", "retrain-model/retrain", "--params", forced, "--watch")
    assert "Completed" in retrained
    with catalogue.connect(lake) as sql:
        runs = sql.execute("SELECT flow, status FROM runs WHERE parent_run_id IS NULL ORDER BY started_at").fetchall()
        trained = sql.execute("SELECT version, status FROM models").fetchall()
        models = sql.execute("SELECT DISTINCT model_version FROM scores").fetchall()
    assert runs == [("nightly", "completed"), ("retrain-model", "completed")]
    assert trained == [(1, "accepted")]
    # A promoted model's scores reach readers by one entry; what looks alike and the index stay as they were.
    assert models == [(1,)]
    assert lake.serving() == Serving(look_version=1, index_version=1, model_version=1)
    assert lake.indexes.entries() == indexes
    # And the other way round: a fitted look moves embeddings, index and search, and no score.
    scores = lake.scores.files()
    looked = prefect(installation, "deployment", "run", "retrain-look/retrain-look", "--params", forced, "--watch")
    assert "Completed" in looked
    assert lake.serving() == Serving(look_version=2, index_version=2, model_version=1)
    assert lake.scores.files() == scores
    asked = json.dumps({"parameters": {"keep_versions": 1, "keep_days": 0}})
    collected = prefect(installation, "deployment", "run", "collect-garbage/collect", "--params", asked, "--watch")
    assert "Completed" in collected
    assert (lake.looks.known(), lake.indexes.known(), lake.models.known()) == ([2], [2], [1])
    assert lake.serving() == Serving(look_version=2, index_version=2, model_version=1)


@pytest.mark.usefixtures("worker")
def test_a_bad_parameter_is_refused_before_a_run_exists(installation: dict[str, str]) -> None:
    bad = json.dumps({"parameters": {"max_deleted_share": 7}})
    refused = subprocess.run(
        [sys.executable, "-m", "prefect", "deployment", "run", "nightly/nightly", "--params", bad],
        env=installation,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert refused.returncode != 0
    assert "less than or equal to 1" in refused.stdout + refused.stderr or "maximum" in refused.stdout + refused.stderr
