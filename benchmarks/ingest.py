"""How near does ingest come to a bare loop that only fetches, or only decodes?

    python benchmarks/ingest.py --pictures ../shared/data/grocery-packages/images

From a local directory, and from S3 where AWS_ENDPOINT_URL names a server (from a bucket made for the occasion and
removed afterwards). Ingest is the whole of it without Prefect: list, compare, fetch, hash, decode, write, commit and
count. Beside it, in turns, the ceilings:

    fetch    obstore alone (a directory: bare reads), in as many threads as ingest uses
    decode   the same decoder alone, from memory, in as many threads as there are cores
    both     one after the other in one pool of threads, and nothing else: what a machine can do whose cores
             (and, on one machine, those of the server) do the fetching, too

Where the cores are the limit, a way's CPU time per picture says as much as its speed, and is less disturbed by whatever
else the machine does: "ingest is" tells ingest's share of each ceiling by both.

`--img2dataset PYTHON` runs img2dataset from another environment over the same objects, by signed URLs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from lake.lake import open_lake
from lake.store import Store, open_store
from tasks.ingest.config import IngestConfig
from tasks.ingest.fetching import REMOTE_FETCH_THREADS, fetch_threads
from tasks.ingest.stage import ingest
from tasks.pictures import read_picture
from tasks.runner import Inline
from tasks.runs import running
from tasks.timing import StageTime

CONFIG = IngestConfig()
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Place:
    """A source of pictures and what ingest is measured against there."""

    name: str
    source: str
    pictures: dict[str, bytes]

    def fetch_all(self) -> None:
        """Every object, read and forgotten."""
        store = open_store(self.source)
        with ThreadPoolExecutor(fetch_threads(store)) as pool:
            for _ in pool.map(store.get, self.pictures):
                pass

    def decode_all(self) -> None:
        """Every object from memory to stored pixels."""
        with ThreadPoolExecutor(CORES) as pool:
            for _ in pool.map(read_picture, self.pictures.values()):
                pass

    def fetch_and_decode_all(self) -> None:
        """Both, and nothing else."""
        store = open_store(self.source)
        with ThreadPoolExecutor(fetch_threads(store)) as pool:
            for _ in pool.map(lambda key: read_picture(store.get(key)), self.pictures):
                pass


def ingest_all(source: str, folder: Path) -> tuple[StageTime, ...]:
    """A first night's ingest into a new local lake; the stages' times."""
    lake = open_lake(str(folder / uuid.uuid4().hex), create=True)
    with running(lake, "benchmark", Inline()) as run:
        summary = ingest(run.lake, source, CONFIG, run.runner)
    if summary.live != summary.listed:
        raise SystemExit("not every picture was ingested")
    return tuple(spent for spent in run.times() if spent.name in ("fetch", "decode", "write"))


@dataclass(frozen=True)
class Spent:
    """What one call took."""

    wall_s: float
    cpu_s: float  # of this process and its decoders


def spent(work: Callable[[], object]) -> Spent:
    """Do the work."""
    wall, cpu = time.perf_counter(), cpu_s()
    work()
    return Spent(time.perf_counter() - wall, cpu_s() - cpu)


def cpu_s() -> float:
    """Processor time of this process and, on Linux, of those below it: the server of the decoders, the decoders."""
    ticks, ahead = 0, [process for file in Path("/proc/self/task").glob("*/children") for process in words(file)]
    while ahead:
        process = ahead.pop()
        after_name = words(Path(f"/proc/{process}/stat"), after=")")
        ticks += sum(map(int, after_name[11:15]))  # its own, and of those that it waited for
        ahead += words(Path(f"/proc/{process}/task/{process}/children"))
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def words(file: Path, after: str = "") -> list[str]:
    """The words of a file of /proc, none where its process is gone."""
    try:
        return file.read_text().rpartition(after)[2].split() if after else file.read_text().split()
    except OSError:
        return []


def measure(place: Place, folder: Path, rounds: int) -> None:
    """Take turns and print the medians."""
    times: list[tuple[StageTime, ...]] = []
    ways: dict[str, Callable[[], object]] = {
        "fetch": place.fetch_all,
        "decode": place.decode_all,
        "both": place.fetch_and_decode_all,
        "ingest": lambda: times.append(ingest_all(place.source, folder)),
    }
    taken: dict[str, list[Spent]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, work in ways.items():
            found = spent(work)
            if number:  # the first round warms caches up and loads libraries
                taken[name].append(found)
    megabytes = sum(map(len, place.pictures.values())) / 1e6
    count = len(place.pictures)
    print(f"\n{place.name}: {count} pictures, {megabytes:.0f} MB, {rounds} rounds, medians")
    print(f"{'':<10}{'pictures/s':>12}{'MB/s':>8}{'CPU ms':>8}   ingest is (time, CPU)")
    for name, calls in taken.items():
        wall_s, cpu_s = median(call.wall_s for call in calls), median(call.cpu_s for call in calls)
        pairs = list(zip(calls, taken["ingest"], strict=True))
        by_time = median(call.wall_s / ours.wall_s for call, ours in pairs)
        by_cpu = median(call.cpu_s / ours.cpu_s for call, ours in pairs)
        share = "" if name == "ingest" else f"   {by_time:.2f} ×, {by_cpu:.2f} ×"
        print(f"{name:<10}{count / wall_s:>12.0f}{megabytes / wall_s:>8.1f}{1000 * cpu_s / count:>8.2f}{share}")
    print("ingest: " + ", ".join(f"{stage.name} busy {stage.busy_share:.0%}" for stage in times[-1]))


def repeated(pictures: Path, count: int) -> dict[str, bytes]:
    """So many pictures under distinct keys, the photographs repeated as needed."""
    files = sorted(pictures.rglob("*.jpg"))
    if not files:
        raise SystemExit(f"no .jpg below {pictures}: name a directory of photographs with --pictures")
    contents = [file.read_bytes() for file in files]
    return {f"{n % 40:02d}/{n // 40:05d}.jpg": contents[n % len(contents)] for n in range(count)}


def fill(store: Store, pictures: dict[str, bytes]) -> None:
    """Put the pictures where they are to be fetched from."""
    with ThreadPoolExecutor(32) as pool:
        for _ in pool.map(store.put, pictures, pictures.values()):
            pass


@contextmanager
def bucket() -> Iterator[str]:
    """A bucket for the time of the block."""
    import boto3

    client, name = boto3.client("s3"), f"vitrine-bench-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    try:
        yield name
    finally:
        store = open_store(f"s3://{name}")
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(lambda path: store.delete([path]), store.names("")))
        client.delete_bucket(Bucket=name)


def img2dataset(python: str, place: Place, bucket_name: str, folder: Path) -> None:
    """The peer, as its README sets it up, over the same objects: fetch, resize, encode, write Parquet."""
    import boto3

    client = boto3.client("s3")
    urls = folder / "urls.txt"
    urls.write_text(
        "\n".join(
            client.generate_presigned_url("get_object", Params={"Bucket": bucket_name, "Key": key}, ExpiresIn=3600)
            for key in place.pictures
        )
    )
    options = {
        "url_list": str(urls),
        "output_folder": str(folder / "img2dataset"),
        "output_format": "parquet",
        "input_format": "txt",
        "image_size": 256,
        "resize_mode": "keep_ratio",
        "resize_only_if_bigger": True,
        "encode_quality": 92,
        "processes_count": CORES,
        "thread_count": REMOTE_FETCH_THREADS,
        "number_sample_per_shard": CONFIG.shard_pictures,
        "compute_hash": "sha256",
        "enable_wandb": False,
    }
    program = folder / "peer.py"
    program.write_text(f"from img2dataset import download\nif __name__ == '__main__':\n    download(**{options!r})\n")
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    command = [python, str(program)]
    peer_s = spent(lambda: subprocess.run(command, check=True, capture_output=True, env=environment)).wall_s  # noqa: S603
    ours_s = spent(lambda: ingest_all(place.source, folder)).wall_s
    stats = [json.loads(file.read_text()) for file in (folder / "img2dataset").glob("*_stats.json")]
    made, count = sum(shard["successes"] for shard in stats), len(place.pictures)
    working_s = max(shard["end_time"] for shard in stats) - min(shard["start_time"] for shard in stats)
    print(f"img2dataset: {made} of {count} made, {made / working_s:.0f} pictures/s by its own clock, ", end="")
    print(f"{made / peer_s:.0f} with its start and end")
    print(f"ingest, the same objects: {count / ours_s:.0f} pictures/s, {working_s / made * count / ours_s:.1f} ×")


def main() -> None:
    """Measure a directory, then S3 where there is a server."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=Path, default=Path("../shared/data/grocery-packages/images"))
    parser.add_argument("--count", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--img2dataset", metavar="PYTHON", help="of an environment that has img2dataset")
    arguments = parser.parse_args()
    pictures = repeated(arguments.pictures, arguments.count)
    with tempfile.TemporaryDirectory(prefix="vitrine-") as name:
        folder = Path(name)
        local = Place("local directory", str(folder / "pictures"), pictures)
        for key, data in pictures.items():
            path = folder / "pictures" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        measure(local, folder, arguments.rounds)
        if "AWS_ENDPOINT_URL" not in os.environ:
            print("\nS3: skipped, no server given: set AWS_ENDPOINT_URL and credentials")
            return
        with bucket() as bucket_name:
            s3 = Place("S3", f"s3://{bucket_name}", pictures)
            fill(open_store(s3.source), pictures)
            measure(s3, folder, arguments.rounds)
            if arguments.img2dataset:
                img2dataset(arguments.img2dataset, s3, bucket_name, folder)


if __name__ == "__main__":
    main()
