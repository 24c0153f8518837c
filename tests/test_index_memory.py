"""What a step was said to take is what it takes, measured in a process of its own."""

from __future__ import annotations

import selectors
import subprocess
import sys
from pathlib import Path

import pytest

from index.memory import Memory, estimate
from index.spec import IndexSpec
from tests.vectors import build, clustered

ROWS, TRAINING_ROWS, DIMENSION, QUERIES = 30_000, 10_000, 512, 300
SPEC = IndexSpec("ivfpq", DIMENSION, pca=256, nlist=128, pq_subquantizers=128)

STEPS = """
import sys
from pathlib import Path
import numpy as np
from index.codebook import train_codebook
from index.faiss_index import set_threads
from index.recall import HeldOutQueries
from index.searching import Searcher
from index.shards import write_shard
from tests.test_index_memory import DIMENSION, QUERIES, ROWS, SPEC, TRAINING_ROWS
from tests.vectors import keys_for

def random(rows):
    return np.random.default_rng(0).random((rows, DIMENSION), dtype=np.float32)

def train(folder):
    train_codebook(random(TRAINING_ROWS), SPEC, seed=0)

def encode(folder):
    keys = keys_for(ROWS)
    write_shard(folder, 9, random(ROWS), keys, (folder / "codebook.faiss").read_bytes(), SPEC)

def search(folder):
    Searcher.open(folder).search(random(1), 10)

def measuring(folder):
    HeldOutQueries.draw(Searcher.open(folder), QUERIES, seed=0).quality(8, 4)

set_threads(1)
work = {"training": train, "encoding": encode, "searching": search, "measuring": measuring}[sys.argv[1]]
print("ready", flush=True)
sys.stdin.readline()
work(Path(sys.argv[2]))
print("done", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("index")
    build(made, clustered(ROWS, DIMENSION, seed=0), SPEC, shards=[ROWS // 2, ROWS // 2])
    return made


@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is read from /proc")
@pytest.mark.parametrize("step", ["training", "encoding", "searching", "measuring"])
def test_a_step_stays_within_its_estimate_which_is_no_wild_guess(step: str, folder: Path) -> None:
    said = estimate(SPEC, rows=ROWS, training_rows=TRAINING_ROWS, shard_rows=ROWS, queries=QUERIES)
    expected: int = getattr(said, step)
    taken = _peak(step, folder)
    assert taken <= expected
    assert expected <= 3 * taken + (100 << 20)


def _peak(step: str, folder: Path) -> int:
    """Anonymous bytes that the step takes beyond what the process held before it."""
    command = [sys.executable, "-c", STEPS, step, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        before = peak = _anonymous(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not selector.select(0.002):
                peak = max(peak, _anonymous(process.pid))
        assert process.stdout.readline() == "done\n"
        process.stdin.close()
    return peak - before


def _anonymous(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


def test_nothing_is_trained_or_encoded_for_free() -> None:
    said = estimate(IndexSpec("flat", 64), rows=1_000, training_rows=0, shard_rows=0, queries=0)
    assert (said.training, said.encoding) == (0, 0)
    assert said.searching > 0
    assert isinstance(said, Memory)
