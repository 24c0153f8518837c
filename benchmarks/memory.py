"""Does a stage's peak memory grow with the catalogue?

    python benchmarks/memory.py --stage ingest --pictures 10000 100000

Each size is measured in a process of its own, which does nothing but that stage; what it needs (the pictures, and for
scoring an ingested lake, a look and a model) is made before, in other processes. Exits with 1 where the peaks differ by
more than 10 %.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks._small_pictures import write_small_pictures

LIMIT = 1.10  # of the largest catalogue's peak over the smallest one's


def ingest(lake_uri: str, source: str) -> int:
    """Bring a lake up to date with the source; the live pictures."""
    from flows.parameters import IngestParameters
    from tasks.runner import Inline

    return IngestParameters(lake=lake_uri, source=source).run(Inline()).live


def score(lake_uri: str, _source: str) -> int:
    """Score what the promoted model has not seen; the contents scored."""
    from flows.parameters import ScoreParameters
    from tasks.runner import Inline

    return ScoreParameters(lake=lake_uri).run(Inline()).scored


def with_a_model(lake_uri: str, source: str) -> int:
    """What scoring needs."""
    from tasks.config import ModelChoice
    from tasks.looks import init_model
    from tests.small_lake import register_model

    init_model(lake_uri, ModelChoice(backbone="resnet18", image_size=64, weights="random"))
    register_model(lake_uri)
    return ingest(lake_uri, source)


Stage = Callable[[str, str], int]
STAGES: dict[str, tuple[Stage | None, Stage]] = {"ingest": (None, ingest), "score": (with_a_model, score)}


def peak_mb() -> float:
    """The most memory that this process ever had resident."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would also tell of the process that started this one
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def in_a_process_of_its_own(stage: str, part: int, lake: Path, source: Path) -> str:
    """What `child` printed."""
    command = [sys.executable, __file__, "--child", stage, str(part), str(lake), str(source)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603 (ourselves)


def child(stage: str, part: int, lake: str, source: str) -> None:
    """Do one part of a stage: 0 what it needs, 1 the stage itself; print how many pictures, seconds, megabytes."""
    work = STAGES[stage][part]
    started = time.perf_counter()
    done = 0 if work is None else work(lake, source)
    print(done, time.perf_counter() - started, peak_mb())


def main() -> None:
    """Measure one stage at several sizes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stage", choices=STAGES, default="ingest")
    parser.add_argument("--pictures", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        stage, part, lake, source = arguments.child
        child(stage, int(part), lake, source)
        return
    peaks: list[float] = []
    print(f"{arguments.stage:<12}{'pictures':>10}{'seconds':>10}{'pictures/s':>12}{'peak MB':>10}")
    for count in arguments.pictures:
        with tempfile.TemporaryDirectory(prefix="vitrine-") as name:
            source, lake = Path(name, "pictures"), Path(name, "lake")
            write_small_pictures(source, count)
            in_a_process_of_its_own(arguments.stage, 0, lake, source)
            done, seconds, peak = map(float, in_a_process_of_its_own(arguments.stage, 1, lake, source).split())
        peaks.append(peak)
        print(f"{'':<12}{done:>10.0f}{seconds:>10.1f}{done / seconds:>12.0f}{peak:>10.0f}", flush=True)
    growth = max(peaks) / min(peaks)
    print(f"largest peak over smallest: {growth:.2f} (at most {LIMIT:.2f})")
    if growth > LIMIT:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
