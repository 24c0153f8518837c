"""Processes that torchrun started train one candidate; rank 0 alone judges and writes it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lake.lake import Lake, open_lake
from tasks.ingest.config import IngestConfig
from tests import small_lake
from tests.small_lake import PRODUCT_ID_PATTERN, init_lake
from vitrine.demo.draw_catalogue import draw_catalogue, write_labels

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SCRIPT = """
import sys, uuid
import torch
from lake.lake import open_lake
from model.gate_policy import GatePolicy
from tasks.retrain.labels import snapshot_labels
from tasks.retrain.config import RetrainConfig
from tasks.retrain.units import record_decision, train_candidate
from tasks.retrain.torchrun import help_to_train, processes

torch.set_num_threads(1)
lake, labels = open_lake(sys.argv[1]), sys.argv[2]
with processes() as distributed:
    if distributed.leads:
        snapshot = snapshot_labels(lake, labels, uuid.uuid4().hex)
        config = RetrainConfig(epochs=2, device="cpu", decode_threads=1)
        candidate = train_candidate(lake, lake.looks.current(), snapshot, config, GatePolicy(), None)
        record_decision(lake, candidate)
    else:
        help_to_train()
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, Path]:
    root = tmp_path_factory.mktemp("shop")
    drawn = draw_catalogue(root / "pictures", products=16, views=3, size=64, broken=0)
    init_lake(str(root / "lake"))
    small_lake.ingest(str(root / "lake"), str(root / "pictures"), IngestConfig(product_id_pattern=PRODUCT_ID_PATTERN))
    write_labels(root / "labels.csv", drawn)
    return open_lake(str(root / "lake")), root


def run(lake: Lake, labels: Path) -> subprocess.CompletedProcess[str]:
    script = labels.with_name("run.py")
    script.write_text(SCRIPT)
    command = [*TORCHRUN, str(script), lake.uri, str(labels)]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)


def test_two_processes_train_one_candidate(shop: tuple[Lake, Path]) -> None:
    lake, root = shop
    done = run(lake, root / "labels.csv")
    assert done.returncode == 0, done.stderr[-2000:]
    [version] = lake.models.known()
    manifest = lake.models.manifest(version)
    assert manifest.properties["processes"] == 2
    assert manifest.properties["training"]["epochs"] == 2


def test_where_rank_0_stops_before_training_so_do_its_helpers(shop: tuple[Lake, Path]) -> None:
    lake, root = shop
    (root / "nothing.csv").write_text("image_key,label\n")
    known = lake.models.known()
    done = run(lake, root / "nothing.csv")
    assert done.returncode == 1
    assert "nothing.csv has no rows" in done.stderr
    assert lake.models.known() == known
