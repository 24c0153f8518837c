"""prefect.yaml against a real server and a real worker: what `make deploy` users do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from lake import catalogue
from lake.lake import Serving
from tests.conftest import PrefectServer
from tests.installation import Installation
from tests.small_lake import PRODUCT_ID_PATTERN, init_lake
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
def installation(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A shop, its labels and a lake with a first look, named by settings alone; a worker, and every deployment."""
    root = tmp_path_factory.mktemp("installation")
    drawn = draw_catalogue(root / "pictures", products=24, views=2, size=64, seed=1)
    write_labels(root / "labels.csv", drawn)
    init_lake(str(root / "lake"))
    (root / "server.log").symlink_to(Path(prefect_server.environment["PREFECT_HOME"], "server.log"))
    settings = {
        "VITRINE_LAKE": str(root / "lake"),
        "VITRINE_SOURCE": str(root / "pictures"),
        "VITRINE_LABELS": str(root / "labels.csv"),
        "VITRINE_PRODUCT_ID_PATTERN": PRODUCT_ID_PATTERN,
        "VITRINE_MINIMUM_BALANCED_ACCURACY": "0",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    here = Installation(root, urlsplit(prefect_server.api_url).port or 0, prefect_server.environment | settings)
    try:
        here.post("/work_pools/", {"name": "vitrine", "type": "process"})
        here.prefect("deploy", "--all")
        here.start("worker")
        yield here
    finally:
        here.stop()


def test_every_flow_is_deployed_with_its_schedule(installation: Installation) -> None:
    found = installation.post("/deployments/filter", {})
    schedules = {each["name"]: [each["schedule"]["cron"] for each in each["schedules"]] for each in found}
    assert schedules == SCHEDULES


def test_a_deployed_night_both_retrainings_and_collection_complete_on_a_worker(installation: Installation) -> None:
    complete(installation, "nightly")
    lake = installation.lake
    assert lake.serving() == Serving(look_version=1, index_version=1, model_version=None)
    indexes = lake.indexes.entries()
    # Four dozen pictures teach no network reliably; the gate's refusals are tested elsewhere.
    complete(installation, "retrain", force="to see the promotion through")
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
    complete(installation, "retrain-look", force="to see the promotion through")
    assert lake.serving() == Serving(look_version=2, index_version=2, model_version=1)
    assert lake.scores.files() == scores
    complete(installation, "collect", keep_versions=1, keep_days=0)
    assert (lake.looks.known(), lake.indexes.known(), lake.models.known()) == ([2], [2], [1])
    assert lake.serving() == Serving(look_version=2, index_version=2, model_version=1)


def complete(installation: Installation, deployment: str, **parameters: Any) -> None:
    """A run of the deployment that must complete."""
    run = installation.run(deployment, **parameters)
    installation.wait_for_state(run, "Completed", "Failed", "Crashed")
    assert installation.state(run) == "Completed", installation.message(run)


def test_a_bad_parameter_is_refused_before_a_run_exists(installation: Installation) -> None:
    bad = json.dumps({"parameters": {"max_deleted_share": 7}})
    refused = subprocess.run(
        [sys.executable, "-m", "prefect", "deployment", "run", "nightly/nightly", "--params", bad],
        env=installation.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert refused.returncode != 0
    assert "less than or equal to 1" in refused.stdout + refused.stderr or "maximum" in refused.stdout + refused.stderr
