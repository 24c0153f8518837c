"""Scores batches of prepared pictures. Knows arrays; not where they come from nor where scores go.

Shapes: B pictures; S the side of `Preprocessing.image_size`; E the size of the embedding.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.calibration import UNCALIBRATED, Calibration, probability
from model.choices import ScoringPrecision
from model.devices import DeviceClock, to_host
from model.errors import ModelError
from model.evaluation import answers_of
from model.look import LookNetwork
from model.network import PolarityNetwork
from model.precision import scoring_dtype
from model.preprocessing import Preprocessing, to_tensor
from model.scoring_network import RAW_SCORES, Network, ScoringNetwork, answers

Answering = Callable[[Tensor], tuple[Tensor, Tensor]]

logger = logging.getLogger(__name__)

SCORES = ("polarity", "logit", "negative_intensity", "positive_intensity")  # the columns of what is served

LEAST_COSINE, MOST_APART = 0.99, 0.1  # of answers to noise: bfloat16's lie within, a wrong network's do not
MOST_AT_ONCE = 512  # pictures: a GPU gains nothing from larger batches
SHARE_OF_MEMORY = 0.5  # of what a GPU has free: batches overlap, and others may come
MEASURED_TOGETHER = 8  # pictures, to learn how much memory each takes


@dataclass(frozen=True)
class Predictions:
    """Float32, one row a picture."""

    scores: NDArray[np.float32]
    """B×4, the columns of `SCORES`; B×0 of a look without a polarity network."""
    embedding: NDArray[np.float32]
    """B×E, of unit norm: the look's, or where there is none the polarity network's own."""

    def __len__(self) -> int:
        return len(self.embedding)

    @property
    def polarity(self) -> NDArray[np.float32]:
        """B: P(positive), calibrated."""
        return self._column("polarity")

    @property
    def logit(self) -> NDArray[np.float32]:
        """B: the calibrated log-odds of positive. They rank pictures even where the polarity is exactly 0 or 1."""
        return self._column("logit")

    @property
    def negative_intensity(self) -> NDArray[np.float32]:
        """B, in (0, 1)."""
        return self._column("negative_intensity")

    @property
    def positive_intensity(self) -> NDArray[np.float32]:
        """B, in (0, 1). Not one minus the other: a picture may stir both."""
        return self._column("positive_intensity")

    @property
    def labels(self) -> NDArray[np.int64]:
        """B: 1 where a picture counts as positive, by the threshold that evaluation uses."""
        return answers_of(self.polarity)

    def _column(self, name: str) -> NDArray[np.float32]:
        return np.ascontiguousarray(self.scores[:, SCORES.index(name)])

    @classmethod
    def concatenate(cls, parts: Sequence[Predictions]) -> Predictions:
        """The rows of at least one part, in order."""
        scores, embedding = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("scores", "embedding")
        )
        return cls(scores, embedding)

    def calibrated(self, calibration: Calibration) -> Predictions:
        """What an uncalibrated predictor said, as it would be served with this calibration."""
        return replace(self, scores=_served(self.scores[:, 1:], calibration))


def _served(raw: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float32]:
    """B×4 in the order of `SCORES` of what a network says, B×3; B×0 of nothing."""
    if not raw.shape[1]:
        return raw
    logits = calibration.apply(raw[:, 0])
    polarity, logit = probability(logits).astype(np.float32), logits.astype(np.float32)
    return np.column_stack([polarity, logit, raw[:, 1:]])


def _ready(network: Network | None, device: torch.device) -> Network | None:
    if network is None:
        return None
    return cast(Network, network.to(device, memory_format=torch.channels_last).eval())  # type: ignore[call-overload]


class Pending:
    """Predictions that a device is at work on."""

    def __init__(self, scores: Tensor, embedding: Tensor, since: DeviceClock, calibration: Calibration) -> None:
        self._scores, self._embedding = (to_host(tensor) for tensor in (scores, embedding))
        self._calibration = calibration
        self._since, self._until = since, DeviceClock(scores.device)

    def result(self) -> Predictions:
        """Waits. Raises ModelError: the network gave something that is not a number, as damaged weights do."""
        self._until.wait()
        scores, embedding = self._scores.numpy(), self._embedding.numpy()
        broken = int((~np.isfinite(scores).all(axis=1) | ~np.isfinite(embedding).all(axis=1)).sum())
        if broken:
            raise ModelError(
                f"expected finite scores, found others for {broken} of {len(scores)} pictures: "
                "roll back to an earlier model"
            )
        return Predictions(_served(scores, self._calibration), embedding)

    @property
    def device_s(self) -> float:
        """How long the device was at it, once there is a result."""
        return self._until.seconds_after(self._since)


class Predictor:
    """Networks on one trunk, ready to answer: on the device, in evaluation mode. Safe from several threads."""

    def __init__(
        self,
        network: PolarityNetwork | None,
        preprocessing: Preprocessing,
        device: str | torch.device = "cpu",
        *,
        look: LookNetwork | None = None,
        precision: ScoringPrecision = "float32",
        calibration: Calibration = UNCALIBRATED,
    ) -> None:
        """Of a network and a look that are both given the backbones are the same: one forward pass answers for both.

        Raises:
            ModelError: the folded network gives other answers than the network itself.
        """
        self.device = torch.device(device)
        self.preprocessing, self.calibration = preprocessing, calibration
        self.dtype = scoring_dtype(self.device, precision)
        self.network, self.look = _ready(network, self.device), _ready(look, self.device)
        scoring = ScoringNetwork(self.network, self.look, preprocessing, self.dtype)
        self._scoring = scoring.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._check_answers(self._scoring, self._as_trained, "folded")
        self._compiled: Answering | None = None
        self._bucket = 0  # pictures that the compiled network takes at once
        self._most: int | None = None  # pictures that fitted into memory after more did not
        self._copying: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            self._copying = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._starting = threading.Lock()

    @property
    def embedding_size(self) -> int:
        """E."""
        whole = self.look or self.network
        assert whole is not None  # noqa: S101 (ScoringNetwork has refused neither)
        return int(whole.embedding_size)

    @property
    def answering(self) -> Answering:
        """What scores: uint8 B×3×S×S on the device → the raw scores, B×3 or B×0, and the embedding, B×E, there."""
        return self._scoring if self._compiled is None else self._compiled

    @property
    def arithmetic(self) -> str:
        """In which numbers the backbone computes, and whether it was compiled, in words."""
        return str(self.dtype).removeprefix("torch.") + (", compiled" if self._compiled is not None else "")

    def predict(self, batch: NDArray[np.uint8]) -> Predictions:
        """Scores B×3×S×S; a picture's score does not depend on its batch beyond rounding.

        Raises:
            ValueError: another shape or type than this network's preprocessing makes.
            ModelError: the network gave something that is not a number, as damaged weights do.
        """
        return self.start(to_tensor(batch)).result()

    def start(self, pixels: Tensor) -> Pending:
        """Hands B×3×S×S of uint8 to the device; a GPU works on it while the caller goes on.

        A batch that does not fit into the device's memory is cut in halves, and so are those that follow.

        Raises:
            ValueError: another shape or type than this network's preprocessing makes.
            ModelError: not even one picture fits.
        """
        self.check(pixels)
        with torch.inference_mode():
            there = self._on_device(pixels)
            since = DeviceClock(self.device)
            return Pending(*self._answers(there), since, self.calibration)

    def compile(self, pictures: int) -> None:
        """Compile for batches of so many pictures and of fewer, which are filled up. Takes a minute or more.

        Raises:
            ModelError: torch could not compile, or what it made gives other answers; the network answers as before.
        """
        # Freezing lets the CPU's convolutions take in the activations and sums that follow them.
        options: dict[str, Any] = {"freezing": self.device.type == "cpu"}
        compiled = cast(Answering, torch.compile(self._scoring, dynamic=False, options=options))
        try:
            with torch.inference_mode():
                compiled(self._black(pictures))
        except Exception as error:  # a missing compiler, a full disk, a defect of the compiler: all end here
            raise ModelError(f"torch could not compile the network, set compile to never: {error}") from error
        self._check_answers(compiled, self._scoring, "compiled", pictures)
        self._compiled, self._bucket = compiled, pictures

    def _as_trained(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What `ScoringNetwork` is to answer: the networks themselves, in float32."""
        whole = self.look or self.network
        assert whole is not None  # noqa: S101 (ScoringNetwork has refused neither)
        return answers(whole.backbone(self.preprocessing.normalise(pixels)), pixels, self.network, self.look)

    def _check_answers(self, made: Answering, expected: Answering, how: str, pictures: int = 2) -> None:
        """Raise ModelError where a network that was made ready answers noise differently from what it was made from."""
        random = torch.Generator().manual_seed(0)
        noise = torch.randint(0, 256, self._black(pictures).shape, dtype=torch.uint8, generator=random)
        pixels = self._black(pictures).copy_(noise)
        with torch.inference_mode():
            (scores, embedding), (true_scores, true_embedding) = made(pixels), expected(pixels)
        if not bool(torch.isfinite(true_embedding).all() and torch.isfinite(true_scores).all()):
            return  # damaged weights: the first prediction says so
        cosine = float(torch.nn.functional.cosine_similarity(embedding, true_embedding).min())
        # Log-odds far from 0 may lie apart and mean the same.
        said, true_said = (torch.cat([each[:, :1].sigmoid(), each[:, 1:]], dim=1) for each in (scores, true_scores))
        apart = float((said - true_said).abs().amax()) if said.numel() else 0.0
        if not (cosine >= LEAST_COSINE and apart <= MOST_APART):
            raise ModelError(
                f"the {how} network gives other answers than the network itself: expected embeddings of a cosine of at "
                f"least {LEAST_COSINE} and scores at most {MOST_APART} apart, found {cosine:.3f} and {apart:.3f}"
            )

    def fitting_batch(self) -> int:
        """How many pictures to score at once: what keeps the device busy and fits into its memory."""
        side = self.preprocessing.image_size
        if self.device.type != "cuda":
            # Measured on two cores: larger ones fall out of the caches, smaller ones pay for every call.
            return 64 if side <= 96 else 16
        free, _ = torch.cuda.mem_get_info(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self.start(self._black(MEASURED_TOGETHER)).result()
        picture_bytes = (torch.cuda.max_memory_allocated(self.device) - before) / MEASURED_TOGETHER
        fitting = int(SHARE_OF_MEMORY * free / picture_bytes)
        return int(min(MOST_AT_ONCE, 2 ** max(0, fitting.bit_length() - 1)))

    def _on_device(self, pixels: Tensor) -> Tensor:
        if self._copying is None:
            return pixels.to(self.device)
        with torch.cuda.stream(self._copying):
            there = pixels.to(self.device, non_blocking=True)
        stream = torch.cuda.current_stream(self.device)
        stream.wait_stream(self._copying)
        there.record_stream(stream)
        return there

    def _answers(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        count = len(pixels)
        if count == 0:
            return torch.empty(0, len(RAW_SCORES) if self.network else 0), torch.empty(0, self.embedding_size)
        if self._most is not None and count > self._most:
            return self._halves(pixels)
        try:
            return self._run(pixels)
        except torch.OutOfMemoryError as error:
            if count == 1:
                raise ModelError(f"{self.device} has not the memory to score one picture: free some") from error
        with self._starting:
            self._compiled = None  # it takes whole buckets only
            self._most = min(self._most or count, max(1, count // 2))
        logger.warning(
            "%s has not the memory for %d pictures at once: going on with %d", self.device, count, self._most
        )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return self._halves(pixels)

    def _halves(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        first, second = (self._answers(half) for half in pixels.tensor_split(2))
        return torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])

    def _run(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        compiled, count = self._compiled, len(pixels)
        if compiled is None or count > self._bucket:
            scores, embedding = self._scoring(pixels)
            return scores, embedding
        # One shape and one layout: any other would be compiled anew.
        if count < self._bucket or not pixels.is_contiguous(memory_format=torch.channels_last):
            filled = self._black(self._bucket)
            filled[:count] = pixels
            pixels = filled
        scores, embedding = compiled(pixels)
        return scores[:count], embedding[:count]

    def _black(self, pictures: int) -> Tensor:
        side = self.preprocessing.image_size
        return torch.zeros(pictures, side, side, 3, dtype=torch.uint8, device=self.device).permute(0, 3, 1, 2)

    def check(self, pixels: Tensor) -> None:
        """Raises ValueError where the pixels are not uint8 B×3×S×S."""
        side = self.preprocessing.image_size
        if pixels.dtype != torch.uint8 or pixels.shape[1:] != (3, side, side):
            kind = str(pixels.dtype).removeprefix("torch.")
            raise ValueError(f"expected uint8 B×3×{side}×{side}, found {kind} {tuple(pixels.shape)}")
