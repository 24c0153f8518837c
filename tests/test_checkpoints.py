"""An interrupted training run goes on as if nothing had happened, and never from a checkpoint not its own."""

from __future__ import annotations

import hashlib
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.checkpoints import Checkpoint, Clock, RunIdentity
from model.errors import TrainingDiverged
from model.examples import Examples, JpegExamples, Subset
from model.network import PolarityNetwork
from model.preprocessing import Preprocessing
from model.recipe import TrainingConfig
from model.training import EpochReport, train
from model.weights import dump_weights
from tests.training_run import Arrays, Run, bright_or_dark, network, run_one

SCRIPT = Path(__file__).with_name("training_run.py")
CONFIG = TrainingConfig(epochs=2, batch_size=4)
PICTURES = 12  # three steps an epoch


@dataclass
class Memory:
    """Keeps every checkpoint; the newest counts."""

    saved: list[bytes] = field(default_factory=list)

    def load(self) -> bytes | None:
        return self.saved[-1] if self.saved else None

    def save(self, data: bytes) -> None:
        self.saved.append(data)


class Interrupted(Exception):
    """What a failing disk might raise."""


@dataclass(frozen=True)
class Interrupting(Arrays):
    """Fails when asked for the batch with this number."""

    at: int = 0
    asked: list[int] = field(default_factory=list)

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        self.asked.append(len(indices))
        if len(self.asked) == self.at:
            raise Interrupted
        return super().pixels(indices)


def run(
    config: TrainingConfig = CONFIG, store: Memory | None = None, examples: Arrays | None = None
) -> PolarityNetwork:
    trained = network()
    train(trained, examples or bright_or_dark(PICTURES), config, checkpoint=store, checkpoint_every=1)
    return trained


def interrupt(config: TrainingConfig, store: Memory, at: int) -> None:
    whole = bright_or_dark(PICTURES)
    with pytest.raises(Interrupted):
        run(config, store, Interrupting(whole.stored, whole.labels, whole.weights, at=at))


def start(output: Path, checkpoint: Path) -> subprocess.Popen[bytes]:
    options = ["--pictures", "240", "--batch-size", "8", "--checkpoint", str(checkpoint)]
    return subprocess.Popen([sys.executable, str(SCRIPT), str(output), *options], stderr=subprocess.PIPE)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Going on -------------------------------------------------------------------------------------------------


def test_a_run_killed_in_the_middle_and_started_again_ends_like_one_that_was_left_alone(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    killed = start(tmp_path / "killed", checkpoint)
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "killed0").exists()
    assert 0 < Checkpoint.from_bytes(checkpoint.read_bytes()).step < 120
    resumed = start(tmp_path / "resumed", checkpoint)
    threads = torch.get_num_threads()
    try:
        run_one(Run(tmp_path / "undisturbed", 240, 8))
    finally:
        torch.set_num_threads(threads)
    assert b"training resumed after step" in resumed.communicate(timeout=120)[1] and resumed.returncode == 0
    assert sha256(tmp_path / "resumed0") == sha256(tmp_path / "undisturbed0")


@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.parametrize("at", [3, 5])
def test_a_run_resumes_within_an_epoch_and_at_its_end(
    at: int, ema_decay: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    config, store = replace(CONFIG, ema_decay=ema_decay), Memory()
    interrupt(config, store, at)
    reports: list[EpochReport] = []
    expected: list[EpochReport] = []
    resumed, alone = network(), network()
    caplog.set_level(logging.INFO)
    train(resumed, bright_or_dark(PICTURES), config, checkpoint=store, on_epoch=reports.append)
    train(alone, bright_or_dark(PICTURES), config, on_epoch=expected.append)
    assert "resumed after step" in caplog.text
    assert dump_weights(resumed) == dump_weights(alone)
    assert [r.loss for r in reports] == [r.loss for r in expected][-len(reports) :]


def test_a_run_that_was_done_stays_done() -> None:
    store = Memory()
    first = run(store=store)
    saves = len(store.saved)
    assert dump_weights(run(store=store)) == dump_weights(first) and len(store.saved) == saves == 6


def test_saving_changes_nothing_in_the_result() -> None:
    assert dump_weights(run(store=Memory())) == dump_weights(run())


def test_a_checkpoint_is_due_by_steps_or_by_time() -> None:
    assert [step for step in range(1, 10) if Clock(3).due(step)] == [3, 6, 9]
    assert Clock(timedelta(0)).due(1) and not Clock(timedelta(hours=1)).due(1)


# Not going on ---------------------------------------------------------------------------------------------


def damaged() -> Sequence[bytes]:
    whole = checkpoint().to_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 4
    return [b"", b"not a checkpoint", whole[: len(whole) // 2], whole[:-1], bytes(flipped), dump_weights(network())]


def checkpoint() -> Checkpoint:
    tensors = {"network/w": torch.arange(6.0).view(2, 3), "epoch/sums": torch.tensor(7)}
    return Checkpoint(RunIdentity("a", "b", "c", 1), 5, tensors)


@pytest.mark.parametrize("data", damaged(), ids=["empty", "text", "half", "cut", "flipped", "weights"])
def test_a_damaged_checkpoint_is_ignored_with_a_warning(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    config = replace(CONFIG, epochs=1)
    assert dump_weights(run(config, Memory([data]))) == dump_weights(run(config))
    assert "from the beginning, its checkpoint is damaged" in caplog.text


@pytest.mark.parametrize("other", ["configuration", "pictures", "network"])
def test_a_checkpoint_of_another_run_is_ignored_with_a_warning(other: str, caplog: pytest.LogCaptureFixture) -> None:
    store, config, pictures, seed = Memory(), replace(CONFIG, epochs=1), bright_or_dark(PICTURES), 0
    train(network(), pictures, config, checkpoint=store, checkpoint_every=3)
    if other == "configuration":
        config = replace(config, weight_decay=0.04)
    elif other == "pictures":
        pictures = bright_or_dark(PICTURES, seed=1)
    else:
        seed = 1
    found, expected = network(seed), network(seed)
    train(found, pictures, config, checkpoint=store)
    train(expected, pictures, config)
    assert f"from the beginning, the checkpoint is of another run: another {other}" in caplog.text
    assert dump_weights(found) == dump_weights(expected)


def test_divergence_leaves_the_checkpoint_before_it() -> None:
    store = Memory()
    with pytest.raises(TrainingDiverged, match="step 2"):
        run(replace(CONFIG, head_rate=1e30, backbone_rate=1e30, warmup_share=0.0), store)
    assert [Checkpoint.from_bytes(data).step for data in store.saved] == [1]


# The bytes ------------------------------------------------------------------------------------------------


def test_a_checkpoint_survives_its_bytes() -> None:
    written = checkpoint()
    found = Checkpoint.from_bytes(written.to_bytes())
    assert (found.run, found.step) == (written.run, written.step)
    assert found.tensors.keys() == written.tensors.keys()
    assert all(torch.equal(found.tensors[name], written.tensors[name]) for name in written.tensors)


def test_examples_that_differ_in_anything_have_another_fingerprint() -> None:
    jpegs, labels, weights = [b"one", b"two"], np.array([0, 1]), np.ones(2, np.float32)
    first = JpegExamples(jpegs, labels, weights, Preprocessing(image_size=32))
    others: list[Examples] = [
        JpegExamples([b"onet", b"wo"], labels, weights, Preprocessing(image_size=32)),
        JpegExamples(jpegs, labels[::-1], weights, Preprocessing(image_size=32)),
        JpegExamples(jpegs, labels, 2 * weights, Preprocessing(image_size=32)),
        JpegExamples(jpegs, labels, weights, Preprocessing(image_size=64)),
        Subset(first, np.array([0, 1])),
        Subset(first, np.array([1, 0])),
    ]
    assert len({examples.fingerprint() for examples in (first, *others)}) == 7
    again = JpegExamples(list(jpegs), labels.copy(), weights, Preprocessing(image_size=32))
    assert again.fingerprint() == first.fingerprint()
