"""How fast does scoring go from stored pictures to a committed table, against the bare network and against two rivals?

    python benchmarks/scoring.py --backbone resnet101 --image-size 224 --pictures 192 --batch-sizes 16
    python benchmarks/scoring.py --backbone resnet18 --image-size 32 --pictures 4096 --batch-sizes 16,64,256

- bare, as trained: the network's forward pass in float32 over one batch that stays in memory, torch's own threads.
- bare, as it scores: the same of our scoring network (folded, channels last, the device's numbers), on a CPU in as
  many streams as scoring uses. The fastest of its batch sizes is the ceiling.
- scoring: Parquet in, decoded, one pass for the look and the polarity network, `embeddings` and `scores` written and
  committed (where deltalake is installed); and the same in two passes, as of two trunks.
- DataLoader: what one writes by hand: Pillow and torchvision's transforms in worker processes, the network as trained,
  one Parquet file at the end; and the same with our scoring network, so that what is left is the pipeline's.
- Ray Data: read_parquet, map, map_batches, write_parquet, with our scoring network; its time is that of three times
  the pictures less that of once, so that starting its actors is not counted.

Rounds take turns, so that a busy machine is unfair to none; the fastest round of each counts. The processor time, of
which other programs take nothing, is the surer measure on such a machine. Needs torch,
torchvision, pyarrow, obstore and simplejpeg, no Prefect.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import importlib.util
import io
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from lake.schemas import EMBEDDINGS, SCORES
from lake.store import open_store
from lake.tables import Part, Table
from model.devices import choose_device
from model.look import LookConfig, LookNetwork
from model.network import NetworkConfig, PolarityNetwork
from model.pictures.decode import decode, encode_jpeg
from model.predict import Predictions, Predictor
from model.preprocessing import Preprocessing
from model.weights import dump_weights, load_weights
from tasks.score.config import Compile, ScoreConfig
from tasks.score.rows import embedding_rows, read_pixels, score_rows
from tasks.score.scorer import Scorer, make_scorer

REAL = Path(__file__).parents[2] / "shared" / "data" / "grocery-packages"
SHARDS = 4
SHARDS_AT_ONCE = 4  # as the flow has it
CORES = os.cpu_count() or 1
CEILING, OURS = "bare, as it scores", "scoring, Parquet to tables"
TWICE = "the same in two passes"
RAY = "Ray Data, our network"
BY_HAND = {True: "DataLoader, network as trained", False: "DataLoader, our network"}


class Done(NamedTuple):
    """One measurement."""

    rate: float  # pictures/s
    pictures: int  # that were scored meanwhile, also before the clock ran


@dataclass(frozen=True)
class Job:
    """What every contestant does: score the pictures of these files."""

    folder: Path
    shards: list[pa.Table]  # image_key, sha256, url, row
    network: PolarityNetwork
    model: Predictor  # the look and the polarity network on one trunk
    apart: tuple[Predictor, Predictor]  # each by itself
    rounds: int
    rates: dict[str, dict[int, list[float]]] = field(default_factory=dict)  # pictures/s by contestant and batch size
    cpu_ms: dict[str, list[float]] = field(default_factory=dict)  # of processors a picture, by contestant

    @property
    def preprocessing(self) -> Preprocessing:
        """The network's."""
        return self.model.preprocessing

    @property
    def pictures(self) -> int:
        """In all shards."""
        return sum(shard.num_rows for shard in self.shards)

    @property
    def files(self) -> list[str]:
        """The Parquet files, each one shard."""
        return [str(shard["url"][0]) for shard in self.shards]

    def take(self, contestant: str, batch_size: int, run: Callable[[], Done]) -> None:
        """One measurement."""
        before = processor_s()
        done = run()
        self.rates.setdefault(contestant, {}).setdefault(batch_size, []).append(done.rate)
        self.cpu_ms.setdefault(contestant, []).append((processor_s() - before) * 1000 / done.pictures)


def processor_s() -> float:
    """What this process and those that it has ended have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def stored_pictures(count: int) -> Iterator[bytes]:
    """Small JPEGs as the lake keeps them: real photographs where they lie beside the project, else drawn noise."""
    photographs = sorted(REAL.rglob("*.jpg"))[:count]
    made = [path.read_bytes() for path in photographs] or [_drawn(seed) for seed in range(min(count, 256))]
    small = [encode_jpeg(decode(data, short_side=256).rgb, quality=92) for data in made]
    for number in range(count):
        yield small[number % len(small)]


def _drawn(seed: int) -> bytes:
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8)).resize(
        (256, 256), Image.Resampling.BICUBIC
    )
    noisy = np.clip(np.asarray(coarse) + random.normal(0, 12, (256, 256, 3)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=92)
    return file.getvalue()


def write_pictures(folder: Path, count: int) -> list[pa.Table]:
    """The pictures in Parquet files, and the rows that a shard of work lists."""
    jpegs, shards = list(stored_pictures(count)), []
    for number, rows in enumerate(np.array_split(np.arange(count), SHARDS)):
        path = folder / f"images-{number}.parquet"
        pixels = pa.table({"pixels": pa.array([jpegs[row] for row in rows], pa.binary())})
        pq.write_table(pixels, path, compression="none", row_group_size=256, use_dictionary=False)
        columns = {
            "image_key": [f"{row:08d}.jpg" for row in rows],
            "sha256": [hashlib.sha256(str(row).encode()).hexdigest() for row in rows],
            "url": [str(path)] * len(rows),
            "row": np.arange(len(rows)),
        }
        shards.append(pa.table(columns))
    return shards


def synchronised(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bare(forward: Callable[[torch.Tensor], Any], batch: torch.Tensor, pictures: int) -> Done:
    """One network over one resident batch."""
    steps = max(2, pictures // len(batch))
    with torch.inference_mode():
        forward(batch)
        synchronised(batch.device)
        started = time.perf_counter()
        for _ in range(steps):
            forward(batch)
        synchronised(batch.device)
    return Done(steps * len(batch) / (time.perf_counter() - started), (steps + 1) * len(batch))


def bare_as_trained(job: Job, batch_size: int) -> Done:
    """Float32, contiguous, torch's own threads."""
    side, device = job.preprocessing.image_size, job.model.device
    batch = torch.randn(batch_size, 3, side, side, device=device)
    return bare(job.network, batch, job.pictures // 2)


def bare_as_it_scores(job: Job, batch_size: int, scorer: Scorer) -> Done:
    """The scoring network with everything but its input's journey; on a CPU all streams together."""
    side, device = job.preprocessing.image_size, job.model.device
    streams = scorer.streams
    forward = job.model.answering

    def stream(_: int) -> Done:
        if streams > 1:
            torch.set_num_threads(1)
        pixels = torch.randint(0, 256, (batch_size, side, side, 3), dtype=torch.uint8, device=device)
        return bare(forward, pixels.permute(0, 3, 1, 2), job.pictures // streams)

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(streams) as pool:
        rates, pictures = zip(*pool.map(stream, range(streams)), strict=True)
        pool.submit(torch.set_num_threads, threads).result()  # the number that new threads begin with
    return Done(sum(rates), sum(pictures))


def scoring(job: Job, scorer: Scorer) -> Done:
    """Our stage: shards side by side, each read, decoded, predicted and written, then a commit a table."""
    with tempfile.TemporaryDirectory(dir=job.folder) as folder:
        store = open_store(folder)
        embeddings = Table(store, "embeddings", EMBEDDINGS, partition_by="look_version")
        scores = Table(store, "scores", SCORES, partition_by="model_version")

        def score_shard(number: int) -> tuple[Part | None, Part | None]:
            rows, watches = job.shards[number], scorer.watches()
            jpegs = read_pixels(rows, lambda url: url, watches.read)
            answers = Predictions.concatenate(
                list(scorer.score(jpegs, watches, pictures=rows.num_rows, of=job.pictures))
            )
            embedded = scored = None
            if scorer.model.look is not None:
                table = embedding_rows(rows, answers.embedding)
                embedded = embeddings.write_part(table, f"{number:05d}", partition={"look_version": "1"})
            if scorer.model.network is not None:
                table = score_rows(rows, answers)
                scored = scores.write_part(table, f"{number:05d}", partition={"model_version": "1"})
            return embedded, scored

        started = time.perf_counter()
        with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
            columns = zip(*pool.map(score_shard, range(len(job.shards))), strict=True)
            written = [[part for part in column if part is not None] for column in columns]
        if importlib.util.find_spec("deltalake"):
            for into, parts in zip((embeddings, scores), written, strict=True):
                into.commit(parts, application_id="benchmark")
        seconds = time.perf_counter() - started
    assert all(sum(part.rows for part in parts) == job.pictures for parts in written if parts)  # noqa: S101
    return Done(job.pictures / seconds, job.pictures)


def two_passes(job: Job, scorers: Sequence[Scorer]) -> Done:
    """The look's pass and the polarity network's, one after the other."""
    done = [scoring(job, scorer) for scorer in scorers]
    return Done(1 / sum(1 / each.rate for each in done), job.pictures)


class Pictures(torch.utils.data.Dataset[torch.Tensor]):
    """What one writes for a DataLoader."""

    def __init__(self, files: list[str], preprocessing: Preprocessing, *, normalise: bool) -> None:
        from torchvision import transforms

        self.jpegs = [jpeg for file in files for jpeg in pq.read_table(file, columns=["pixels"])["pixels"].to_pylist()]
        side = preprocessing.image_size
        resize = transforms.Resize((side, side), transforms.InterpolationMode.BICUBIC)
        as_floats = [transforms.ToTensor(), transforms.Normalize(preprocessing.mean, preprocessing.std)]
        self.transform = transforms.Compose([resize, *(as_floats if normalise else [transforms.PILToTensor()])])

    def __len__(self) -> int:
        return len(self.jpegs)

    def __getitem__(self, index: int) -> torch.Tensor:
        picture = Image.open(io.BytesIO(self.jpegs[index])).convert("RGB")
        return cast(torch.Tensor, self.transform(picture))


def dataloader(job: Job, batch_size: int, *, as_trained: bool) -> Done:
    """A loop over a DataLoader, and a file."""
    device, found = job.model.device, []
    started = time.perf_counter()
    pictures = Pictures(job.files, job.preprocessing, normalise=as_trained)
    # Forked workers, Linux's default until Python 3.14: they start at once.
    loader = torch.utils.data.DataLoader(
        pictures, batch_size, num_workers=CORES, pin_memory=device.type == "cuda", multiprocessing_context="fork"
    )
    with torch.inference_mode():
        for batch in loader:
            there = batch.to(device, non_blocking=True)
            if as_trained:
                output = job.network(there)
                answer = output.logits.softmax(1)[:, 1], output.embedding
            else:
                scores, embedding = job.model.answering(there)
                answer = scores[:, 0], embedding
            found.append([tensor.cpu().numpy() for tensor in answer])
    polarity, vectors = (np.concatenate(column) for column in zip(*found, strict=True))
    rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    pq.write_table(pa.table({"polarity": polarity, "embedding": rows}), job.folder / "by-hand.parquet")
    return Done(len(polarity) / (time.perf_counter() - started), len(polarity))


def look_over(network: PolarityNetwork) -> LookNetwork:
    """A look on the network's trunk."""
    look = LookNetwork(LookConfig(backbone=network.config.backbone))
    look.backbone = network.backbone
    return look.eval()


class RayNetwork:
    """An actor that holds our scoring network."""

    def __init__(self, config: NetworkConfig, weights: bytes, preprocessing: Preprocessing, device: str) -> None:
        torch.set_num_threads(CORES)  # Ray gives an actor one
        network = PolarityNetwork(config)
        load_weights(network, weights)
        self.model = Predictor(network, preprocessing, device, look=look_over(network), precision="auto")

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One batch of prepared pictures."""
        found = self.model.predict(np.stack(batch["pixels"]))
        return {"polarity": found.polarity, "embedding": found.embedding}


def ray_data(job: Job, batch_size: int) -> Done:
    """Ray Data's pipeline; decoding as Pillow does it, the network as we score."""
    import ray.data

    side, device = job.preprocessing.image_size, job.model.device
    made_from = (job.network.config, dump_weights(job.network), job.preprocessing, device.type)

    def prepare(row: dict[str, Any]) -> dict[str, Any]:
        picture = Image.open(io.BytesIO(row["pixels"])).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        return {"pixels": np.asarray(picture).transpose(2, 0, 1)}

    def seconds(times: int) -> float:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=job.folder) as folder:
            files = [_twin(Path(file), copy_) for file in job.files for copy_ in range(times)]
            decoded = ray.data.read_parquet(files, columns=["pixels"]).map(prepare)
            scored = decoded.map_batches(
                RayNetwork,
                fn_constructor_args=made_from,
                batch_size=batch_size,
                compute=ray.data.ActorPoolStrategy(size=1),
                num_gpus=1 if device.type == "cuda" else 0,
            )
            scored.write_parquet(folder)
            taken = time.perf_counter() - started
            assert pq.read_table(folder, columns=["polarity"]).num_rows == times * job.pictures  # noqa: S101
        return taken

    return Done(2 * job.pictures / max(1e-9, seconds(3) - seconds(1)), 4 * job.pictures)


def _twin(file: Path, number: int) -> str:
    """The file under another name: Ray reads one that is named twice only once."""
    twin = file.with_name(f"{file.stem}-twin-{number}.parquet")
    if not twin.exists():
        twin.hardlink_to(file)
    return str(twin)


def measure(job: Job, batch_sizes: list[int], compile_: Compile, with_ray: bool) -> None:
    """All contestants in turn, round after round."""
    for size in batch_sizes:
        config = ScoreConfig(batch_size=size, decode_threads=CORES, compile=compile_)
        scorer, *apart = (make_scorer(model, config) for model in (job.model, *job.apart))
        for each in (scorer, *apart):
            scoring(job, each)  # warm: compiled, threads started, files in the page cache
        for _ in range(job.rounds):
            job.take("bare, as trained", size, partial(bare_as_trained, job, size))
            job.take(CEILING, size, partial(bare_as_it_scores, job, size, scorer))
            job.take(OURS, size, partial(scoring, job, scorer))
            job.take(TWICE, size, partial(two_passes, job, apart))
            job.take(BY_HAND[True], size, partial(dataloader, job, size, as_trained=True))
            job.take(BY_HAND[False], size, partial(dataloader, job, size, as_trained=False))
            if with_ray:
                job.take(RAY, size, partial(ray_data, job, size))


def print_table(job: Job, batch_sizes: list[int]) -> None:
    """Pictures a second and their share of the ceiling, by contestant and batch size; processor time a picture."""
    best = {name: {size: max(found) for size, found in sizes.items()} for name, sizes in job.rates.items()}
    spent = {name: min(found) for name, found in job.cpu_ms.items() if name != RAY}  # Ray's processes are not ours
    ceiling = max(best[CEILING].values())
    heads = "".join(f"{f'batch {size}':>18}" for size in batch_sizes)
    print(f"{'pictures/s (of the ceiling)':<34}{heads}{'CPU ms a picture':>24}")
    for name, sizes in best.items():
        cells = (f"{sizes[size]:.1f} ({sizes[size] / ceiling:.2f})" for size in batch_sizes)
        used = f"{spent[name]:.2f} ({spent[CEILING] / spent[name]:.2f})" if name in spent else "–"
        print(f"{name:<34}" + "".join(f"{cell:>18}" for cell in cells) + f"{used:>24}")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1024)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-sizes", default="16,64")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--compile", default="never")
    asked = parser.parse_args()
    batch_sizes = [int(size) for size in asked.batch_sizes.split(",")]
    with_ray = importlib.util.find_spec("ray") is not None
    torch.manual_seed(0)
    network = PolarityNetwork(NetworkConfig(backbone=asked.backbone)).eval()
    preprocessing, device = Preprocessing(image_size=asked.image_size), choose_device(asked.device)
    ours = copy.deepcopy(network)
    look = look_over(ours)
    model, polarity_alone, look_alone = (
        Predictor(one, preprocessing, device, look=other, precision=asked.precision)
        for one, other in ((ours, look), (ours, None), (None, look))
    )
    with tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
        shards = write_pictures(Path(folder), asked.pictures)
        job = Job(Path(folder), shards, network.to(device), model, (look_alone, polarity_alone), asked.rounds)
        measure(job, batch_sizes, asked.compile, with_ray)
        print(f"{asked.backbone} at {asked.image_size}, {asked.pictures} pictures, {model.arithmetic} on {device}")
        print_table(job, batch_sizes)
    if not with_ray:
        print("Ray Data: not installed (pip install 'ray[data]')")


if __name__ == "__main__":
    main()
