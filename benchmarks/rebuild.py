"""What does a night's index cost when 1 % of the pictures changed, when all did, and when some only left?

    python benchmarks/rebuild.py --pictures 100000 --dimension 512

Vectors in clusters, as a network's embeddings are; no pictures and no network, no Prefect.
Every night starts from the same published version, which a rollback puts back.

Each part is counted in seconds of the processor, of all threads together, which say the same on a busy machine; faiss
uses one thread. "around them" is what every run does: the lease, the rows of `runs`, catalogue.duckdb.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from index.arrays import Floats
from index.faiss_index import set_threads
from lake.parquet import round_to_bfloat16
from lake.rollback import roll_back
from tasks import progress
from tasks.rebuild.config import RebuildConfig
from tasks.rebuild.stage import IndexSummary, rebuild
from tasks.runner import Inline
from tests.vector_lake import VectorLake
from tests.vectors import clustered

AROUND = "around them"


@dataclass(frozen=True)
class Night:
    """One rebuild: the processor's seconds of each part, the whole by the clock, and what came of it."""

    cpu_s: dict[str, float]
    wall_s: float
    index: IndexSummary


def night(lake: VectorLake, config: RebuildConfig) -> Night:
    """One rebuild."""
    cpu_s: dict[str, float] = {}

    @contextmanager
    def timed(name: str, _pictures: int) -> Iterator[None]:
        before = time.process_time()
        yield
        cpu_s[name] = time.process_time() - before

    started, before = time.perf_counter(), time.process_time()
    with progress.watched_by(timed):
        index = rebuild(lake.lake, config, Inline(), look_version=lake.look)
    cpu_s[AROUND] = time.process_time() - before - sum(cpu_s.values())
    return Night(cpu_s, time.perf_counter() - started, index)


def catalogue(vectors: Floats, first: int, keys: int) -> dict[str, Floats | None]:
    """Keys and the vectors from `first` on."""
    return {f"shop/{key:08d}.jpg": vectors[first + key] for key in range(keys)}


def nights(lake: VectorLake, vectors: Floats, config: RebuildConfig) -> dict[str, Night]:
    """The nights, each after the same first one."""
    count = len(vectors) // 2
    share = count // 100
    before = catalogue(vectors, 0, count)
    some = dict(list(before.items())[:: count // share][:share])
    new = {key: vectors[count + row] for row, key in enumerate(some)}
    lake.change(before)
    done = {"first": night(lake, config)}
    changes = {
        "1 % changed": (new, some),
        "1 % deleted": (dict.fromkeys(some), some),
        "all changed": (catalogue(vectors, count, count), {}),
    }
    for name, (change, back) in changes.items():
        lake.change(change)
        done[name] = night(lake, config)
        lake.change(back)
        roll_back(lake.lake, "indexes", 1)
    return done


def main() -> None:
    """Measure the nights and print them side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=512)
    arguments = parser.parse_args()
    set_threads(1)
    vectors = round_to_bfloat16(clustered(2 * arguments.pictures, arguments.dimension, seed=0, clusters=2_000))
    config = RebuildConfig()
    with tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
        done = nights(VectorLake(folder, arguments.dimension), vectors, config)
    print(f"{arguments.pictures} vectors of {arguments.dimension}, shards of at most {config.shard_vectors}")
    print(f"{'':<40}" + "".join(f"{name:>14}" for name in done))
    for part in done["first"].cpu_s:
        print(f"{part + ', CPU s':<40}" + "".join(f"{each.cpu_s.get(part, 0.0):>14.2f}" for each in done.values()))
    print(f"{'total, CPU s':<40}" + "".join(f"{sum(each.cpu_s.values()):>14.2f}" for each in done.values()))
    print(f"{'total by the clock, s':<40}" + "".join(f"{each.wall_s:>14.2f}" for each in done.values()))
    print(f"{'written, MB':<40}" + "".join(f"{each.index.bytes_written / 1e6:>14.1f}" for each in done.values()))
    for name in ("shards_kept", "shards_written"):
        print(f"{name.replace('_', ' '):<40}" + "".join(f"{getattr(each.index, name):>14}" for each in done.values()))
    print(f"{'recall@10':<40}" + "".join(f"{each.index.recall_at_10 or 0:>14.4f}" for each in done.values()))
    print(f"{'one search, ms':<40}" + "".join(f"{each.index.latency_ms or 0:>14.3f}" for each in done.values()))


if __name__ == "__main__":
    main()
