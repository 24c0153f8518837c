"""Keeps a device busy: pictures are decoded ahead of it, its answers are taken away behind it. Knows no lake.

One scorer a device stays resident with its network. Shards take turns at it: the next begins to feed the device as
soon as the last batch of the one before is handed over, while that one's scores are still coming and being written.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain, islice

import torch

from model.errors import ModelError
from model.pictures.stored import empty_batch, prepare_into, prepare_on_gpu
from model.predict import Pending, Predictions, Predictor
from tasks.parallel import read_ahead
from tasks.score.config import ScoreConfig
from tasks.timing import StageTime, Stopwatch

logger = logging.getLogger(__name__)

# Compiling takes up to a minute on two cores, and makes the network 1.15 to 1.3 times as fast.
COMPILE_REPAYS_S = 600.0  # of work without it
TRIED = 4  # pictures, to learn how fast the network is
READ_AHEAD = 2  # batches
AHEAD_OF_GPU = 5  # batches that are decoded, copied or computed
CHUNKS = 8  # of a GPU's batch, each decoded by one thread
MOST_STREAMS = 16


class Watches:
    """The time of one shard's stages."""

    def __init__(self, workers: int = 1, streams: int = 1) -> None:
        self.read, self.write = Stopwatch("read pixels"), Stopwatch("write scores")
        self.prepare, self.infer = Stopwatch("prepare", workers=workers), Stopwatch("infer", workers=streams)

    def times(self) -> tuple[StageTime, ...]:
        """How long each was busy. How long it waited only the run knows: shards overlap."""
        times = (watch.read() for watch in (self.read, self.prepare, self.infer, self.write))
        return tuple(StageTime(time_.name, time_.busy_s, 0.0) for time_ in times)


class Scorer(ABC):
    """A network and the threads that feed it. Used by several shards at once, each in a thread of its own."""

    def __init__(self, model: Predictor, config: ScoreConfig, *, workers: int, window: int) -> None:
        self.model = model
        self.config = config
        self.workers = workers  # threads that prepare pictures
        self.batch_size = config.batch_size or model.fitting_batch()
        self._window = window  # batches in flight
        self._turn = threading.Lock()
        self._is_ready = False

    def score(self, jpegs: Iterable[bytes], watches: Watches, *, pictures: int, of: int) -> Iterator[Predictions]:
        """The predictions in the pictures' order, in parts; `pictures` of the `of` that the whole run scores.

        Raises:
            Undecodable: one of them is no picture.
            ModelError: the network can't score; see `Predictor`.
        """
        pending, size = iter(jpegs), self._batch_of(pictures)
        batches = iter(lambda: list(islice(pending, size)), [])
        ahead = read_ahead(batches, READ_AHEAD)
        first = next(ahead, None)  # read before the turn has come
        if first is None:
            return
        waiting: deque[Future[Pending]] = deque()
        with ExitStack() as turn:
            turn.enter_context(self._turn)
            self._get_ready(of)
            try:
                for batch in chain([first], ahead):
                    waiting.append(self._submit(batch, watches))
                    if len(waiting) >= self._window:
                        yield _finished(waiting.popleft(), watches)
                turn.close()
                while waiting:
                    yield _finished(waiting.popleft(), watches)
            finally:
                for future in waiting:
                    future.cancel()

    @property
    @abstractmethod
    def _pools(self) -> tuple[ThreadPoolExecutor, ...]:
        """The threads that prepare pictures first; what starts the network runs in the last."""

    @abstractmethod
    def _submit(self, jpegs: Sequence[bytes], watches: Watches) -> Future[Pending]:
        """Have a batch decoded and handed to the device, without waiting."""

    def _batch_of(self, pictures: int) -> int:
        """How many of a shard's pictures go together."""
        return self.batch_size

    def _get_ready(self, pictures: int) -> None:
        """Compile where the run is long enough. Called by one shard at a time."""
        how = self.config.compile
        if self._is_ready or how == "never":
            return
        if how == "auto" and self._seconds_for(pictures) < COMPILE_REPAYS_S:
            return
        self._is_ready = True
        started = time.perf_counter()
        try:
            # In the thread that uses it: what is compiled depends on how many threads a call may take.
            self._pools[-1].submit(self.model.compile, self.batch_size).result()
        except ModelError as error:
            if how == "always":
                raise
            logger.warning("going on without compiling: %s", error)
        else:
            logger.info("compiled the network in %.0f s", time.perf_counter() - started)

    def _seconds_for(self, pictures: int) -> float:
        """About how long the network needs for so many pictures as it is."""
        if pictures < self.batch_size * self.workers:
            return 0.0
        pixels = empty_batch(min(self.batch_size, TRIED), self.model.preprocessing.image_size).zero_()
        seconds = min(self._pools[-1].submit(self._try, pixels).result() for _ in range(2))
        return seconds / len(pixels) * pictures / self.streams

    def _try(self, pixels: torch.Tensor) -> float:
        pending = self.model.start(pixels)
        pending.result()
        return pending.device_s

    @property
    def streams(self) -> int:
        """Batches that are computed side by side."""
        return 1

    def watches(self) -> Watches:
        """For one shard."""
        return Watches(self.workers, self.streams)


class CpuScorer(Scorer):
    """Streams of their own for each core or few: a stream decodes a batch, then computes it.

    Nothing waits for a slower neighbour, as the threads of one large batch do wherever another program, or the
    decoding of the next batch, takes a core from one of them.
    """

    def __init__(self, model: Predictor, config: ScoreConfig) -> None:
        cores = torch.get_num_threads()
        threads = -(-cores // MOST_STREAMS)
        streams = cores // threads
        super().__init__(model, config, workers=streams, window=2 * streams + 1)
        self._streams = ThreadPoolExecutor(streams, "score", initializer=_limit_threads, initargs=(threads, cores))

    @property
    def _pools(self) -> tuple[ThreadPoolExecutor, ...]:
        return (self._streams,)

    @property
    def streams(self) -> int:
        """Each of its threads is one."""
        return self.workers

    def _batch_of(self, pictures: int) -> int:
        return max(1, min(self.batch_size, -(-pictures // self.workers)))

    def _submit(self, jpegs: Sequence[bytes], watches: Watches) -> Future[Pending]:
        return self._streams.submit(self._decode_and_score, jpegs, watches)

    def _decode_and_score(self, jpegs: Sequence[bytes], watches: Watches) -> Pending:
        with watches.prepare.busy():
            pixels = empty_batch(len(jpegs), self.model.preprocessing.image_size)
            prepare_into(pixels, jpegs, self.model.preprocessing)
        return self.model.start(pixels)


class GpuScorer(Scorer):
    """Threads decode into memory that the GPU fetches from; one thread hands it batch after batch."""

    def __init__(self, model: Predictor, config: ScoreConfig) -> None:
        super().__init__(model, config, workers=config.decode_threads, window=AHEAD_OF_GPU)
        self._decoders = ThreadPoolExecutor(
            config.decode_threads, "decode", initializer=_limit_threads, initargs=(1, torch.get_num_threads())
        )
        self._feeder = ThreadPoolExecutor(1, "feed")

    @property
    def _pools(self) -> tuple[ThreadPoolExecutor, ...]:
        return self._decoders, self._feeder

    def _submit(self, jpegs: Sequence[bytes], watches: Watches) -> Future[Pending]:
        if self.config.gpu_decode:
            return self._feeder.submit(self._decode_there, jpegs, watches)
        side, pinned = self.model.preprocessing.image_size, self.model.device.type == "cuda"
        pixels = empty_batch(len(jpegs), side, pinned=pinned)
        chunk = -(-len(jpegs) // CHUNKS)
        decoding = [
            self._decoders.submit(self._decode, pixels[start : start + chunk], jpegs[start : start + chunk], watches)
            for start in range(0, len(jpegs), chunk)
        ]
        return self._feeder.submit(self._start, pixels, decoding)

    def _decode(self, pixels: torch.Tensor, jpegs: Sequence[bytes], watches: Watches) -> None:
        with watches.prepare.busy():
            prepare_into(pixels, jpegs, self.model.preprocessing)

    def _start(self, pixels: torch.Tensor, decoding: Sequence[Future[None]]) -> Pending:
        for future in decoding:
            future.result()
        return self.model.start(pixels)

    def _decode_there(self, jpegs: Sequence[bytes], watches: Watches) -> Pending:
        with watches.prepare.busy():
            pixels = prepare_on_gpu(jpegs, self.model.preprocessing, self.model.device)
        return self.model.start(pixels)


def make_scorer(model: Predictor, config: ScoreConfig) -> Scorer:
    """The scorer for the model's device."""
    return CpuScorer(model, config) if model.device.type == "cpu" else GpuScorer(model, config)


def _limit_threads(threads: int, others: int) -> None:
    """This thread computes with so many; what others have and new ones will get stays as it was."""
    torch.set_num_threads(threads)
    # torch keeps one number for all threads that are yet to come, and the line above has changed it.
    restoring = threading.Thread(target=torch.set_num_threads, args=(others,))
    restoring.start()
    restoring.join()


def _finished(future: Future[Pending], watches: Watches) -> Predictions:
    pending = future.result()
    predictions = pending.result()
    watches.infer.add(pending.device_s)
    return predictions
