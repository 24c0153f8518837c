"""Several processes train one network: each its part, together what one process alone would."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from model.checkpoints import Checkpoint
from model.distributed import ALONE, Distributed
from model.errors import LabelsUnusable
from model.recipe import steps_an_epoch
from model.training import train
from tests.test_training import QUICK
from tests.training_run import bright_or_dark, network

SCRIPT = Path(__file__).with_name("training_run.py")


def start(output: Path, *options: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, SCRIPT, output, *options])


def start_pair(folder: Path, name: str, *options: str) -> "list[subprocess.Popen[bytes]]":
    together = ["--world-size", "2", "--meet", str(folder / f"{name}.meet"), *options]
    return [start(folder / f"{name}{rank}", "--rank", str(rank), *together) for rank in range(2)]


def losses(output: Path) -> list[float]:
    return list(json.loads(output.with_suffix(".json").read_text()))


@dataclass(frozen=True)
class Ended:
    """A single process and a pair with half its batch size each, both done."""

    folder: Path
    pair_options: list[str]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder = tmp_path_factory.mktemp("distributed")
    options = ["--pictures", "128", "--batch-size", "16", "--checkpoint", str(folder / "checkpoint")]
    alone = start(folder / "alone", "--pictures", "128", "--batch-size", "32")
    assert [process.wait(60) for process in [alone, *start_pair(folder, "pair", *options)]] == [0, 0, 0]
    return Ended(folder, options)


def test_two_processes_end_with_equal_weights_and_learn_like_one_with_the_doubled_batch(ended: Ended) -> None:
    assert (ended.folder / "pair0").read_bytes() == (ended.folder / "pair1").read_bytes()
    assert losses(ended.folder / "pair1") == []  # rank 0 reports
    together, single = losses(ended.folder / "pair0"), losses(ended.folder / "alone")
    assert single[-1] < 0.8 * single[0]
    np.testing.assert_allclose(together, single, rtol=0.1)


def test_two_processes_resume_to_the_weights_of_an_undisturbed_pair(ended: Ended) -> None:
    assert Checkpoint.from_bytes((ended.folder / "checkpoint").read_bytes()).step == 15  # of 16
    again = start_pair(ended.folder, "again", *ended.pair_options)
    assert [process.wait(60) for process in again] == [0, 0]
    for rank in range(2):
        assert (ended.folder / f"again{rank}").read_bytes() == (ended.folder / "pair0").read_bytes()


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
