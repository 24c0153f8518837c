"""Several processes train one network: each its part, together what one process alone would."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from model.checkpoints import Checkpoint, weights_fingerprint
from model.distributed import ALONE, Distributed
from model.errors import LabelsUnusable
from model.recipe import steps_an_epoch
from model.training import EpochReport, train
from model.weights import load_weights
from tests.test_training import QUICK
from tests.training_run import CONFIG, bright_or_dark, network

SCRIPT = Path(__file__).with_name("training_run.py")


def losses(output: Path) -> list[float]:
    return list(json.loads(output.with_suffix(".json").read_text()))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two processes have trained and left a checkpoint, from which two others went on."""
    folder = tmp_path_factory.mktemp("pair")
    options = ["--pictures", "128", "--batch-size", "16", "--world-size", "2"]
    command = [sys.executable, str(SCRIPT), str(folder / "pair"), str(folder / "again"), *options]
    subprocess.run([*command, "--checkpoint", str(folder / "checkpoint")], check=True, timeout=120)
    return folder


def test_two_processes_end_with_equal_weights(pair: Path) -> None:
    assert (pair / "pair0").read_bytes() == (pair / "pair1").read_bytes()
    assert losses(pair / "pair1") == []  # rank 0 reports


def test_two_processes_learn_like_one_with_the_doubled_batch(pair: Path) -> None:
    reports: list[EpochReport] = []
    train(network(), bright_or_dark(128), replace(CONFIG, batch_size=32), on_epoch=reports.append)
    alone, together = [report.loss for report in reports], losses(pair / "pair0")
    assert alone[-1] < 0.8 * alone[0]
    np.testing.assert_allclose(together, alone, rtol=0.1)


def test_two_processes_resume_to_the_weights_of_an_undisturbed_pair(pair: Path) -> None:
    assert Checkpoint.from_bytes((pair / "checkpoint").read_bytes()).step == 15  # of 16
    assert len(losses(pair / "again0")) == 1  # the fourth epoch, not all four
    for rank in range(2):
        assert (pair / f"again{rank}").read_bytes() == (pair / "pair0").read_bytes()


def test_two_processes_train_one_head_on_a_frozen_trunk(tmp_path: Path) -> None:
    options = ["--pictures", "64", "--batch-size", "16", "--world-size", "2", "--freeze-backbone"]
    subprocess.run([sys.executable, str(SCRIPT), str(tmp_path / "frozen"), *options], check=True, timeout=120)
    assert (tmp_path / "frozen0").read_bytes() == (tmp_path / "frozen1").read_bytes()
    alone, reports = network(), list[EpochReport]()
    config = replace(CONFIG, batch_size=32, freeze_backbone=True)
    train(alone, bright_or_dark(64), config, on_epoch=reports.append)
    np.testing.assert_allclose(losses(tmp_path / "frozen0"), [report.loss for report in reports], rtol=0.1)
    together = network(seed=1)
    load_weights(together, (tmp_path / "frozen0").read_bytes())
    assert weights_fingerprint(together.backbone) == weights_fingerprint(network().backbone)  # as rank 0 began


@pytest.mark.parametrize(("pictures", "batch_size", "processes"), [(4, 4, 2), (29, 4, 3), (100, 8, 2), (17, 2, 4)])
def test_every_picture_goes_to_one_process_and_no_part_is_of_one(
    pictures: int, batch_size: int, processes: int
) -> None:
    batches = np.array_split(np.arange(pictures), steps_an_epoch(pictures, batch_size, processes))
    parts = [Distributed(rank, processes).share(batch) for batch in batches for rank in range(processes)]
    assert np.concatenate(parts).tolist() == list(range(pictures))
    sizes = [len(part) for part in parts]
    assert min(sizes) >= 2 and max(sizes) <= max(batch_size, 3)


def test_alone_nothing_is_wrapped_split_or_sent() -> None:
    built, batch = network(), np.arange(5)
    assert ALONE.wrap(built, torch.device("cpu")) is built
    assert ALONE.share(batch).tolist() == batch.tolist()
    assert ALONE.agree(b"x", torch.device("cpu")) == b"x"
    assert float(ALONE.total(torch.tensor(3.0))) == 3.0


def test_too_few_pictures_for_the_processes_are_refused() -> None:
    with pytest.raises(LabelsUnusable, match=r"at least 4 pictures .* found 3"):
        train(network(), bright_or_dark(3), QUICK, distributed=Distributed(0, 2))


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a rank in \[0, 2\), found 2"):
        Distributed(2, 2)


def test_batchnorm_over_processes_keeps_the_names_of_weights() -> None:
    built = network()
    names = list(built.state_dict())
    nn.SyncBatchNorm.convert_sync_batchnorm(built)  # type: ignore[no-untyped-call]
    assert list(built.state_dict()) == names
