"""Scores batches of prepared pictures. Knows arrays; not where they come from nor where scores go.

Shapes: B pictures; S the side of `Preprocessing.image_size`; E the size of the embedding.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from model.errors import ModelError
from model.evaluation import POSITIVE_FROM
from model.network import NEGATIVE, POSITIVE, PolarityNetwork, probabilities
from model.preprocessing import Preprocessing

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Predictions:
    """Float32, one row a picture."""

    polarity: NDArray[np.float32]
    """B: P(positive)."""
    negative_intensity: NDArray[np.float32]
    """B, in (0, 1)."""
    positive_intensity: NDArray[np.float32]
    """B, in (0, 1). Not one minus the other: a picture may stir both."""
    embedding: NDArray[np.float32]
    """B×E, of unit norm."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """B: 1 where a picture counts as positive, by the threshold that evaluation uses."""
        return (self.polarity >= POSITIVE_FROM).astype(np.int64)


class Predictor:
    """A network ready to score: moved to the device, in evaluation mode, channels last."""

    def __init__(
        self,
        network: PolarityNetwork,
        preprocessing: Preprocessing,
        device: str | torch.device = "cpu",
        *,
        precision: Precision = "float32",
    ) -> None:
        self.device = torch.device(device)
        self.preprocessing = preprocessing
        self.precision = precision
        self.network = network.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    @property
    def embedding_size(self) -> int:
        """E."""
        return int(self.network.embedding_size)

    def predict(self, batch: NDArray[np.uint8]) -> Predictions:
        """Scores B×3×S×S; a picture's score does not depend on its batch beyond rounding.

        Raises:
            ValueError: another shape or type than this network's preprocessing makes.
            ModelError: the network gave something that is not a number, as damaged weights do.
        """
        self._check(batch)
        if len(batch) == 0:
            return _predictions(np.empty((0, 3), np.float32), np.empty((0, self.embedding_size), np.float32))
        scores, embedding = self._run(batch)
        broken = int((~np.isfinite(scores).all(axis=1) | ~np.isfinite(embedding).all(axis=1)).sum())
        if broken:
            raise ModelError(f"expected finite scores, found others for {broken} of {len(batch)} pictures")
        return _predictions(scores, embedding)

    @torch.inference_mode()
    def _run(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """B×3 (polarity, negative and positive intensity) and B×E."""
        half = self.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            output = self.network(self._pixels(batch))
        polarity = probabilities(output)[:, POSITIVE]
        intensities = output.intensities.float()
        scores = torch.stack([polarity, intensities[:, NEGATIVE], intensities[:, POSITIVE]], dim=1)
        return scores.cpu().numpy(), output.embedding.float().cpu().numpy()

    def _pixels(self, batch: NDArray[np.uint8]) -> torch.Tensor:
        # torch warns about arrays it may not write to, such as views of bytes.
        tensor = torch.from_numpy(batch if batch.flags.writeable else batch.copy())
        pixels = tensor.to(self.device, non_blocking=True)
        return self.preprocessing.normalise(pixels).contiguous(memory_format=torch.channels_last)

    def _check(self, batch: NDArray[np.uint8]) -> None:
        side = self.preprocessing.image_size
        if batch.dtype != np.uint8 or batch.shape[1:] != (3, side, side):
            raise ValueError(f"expected uint8 B×3×{side}×{side}, found {batch.dtype} {batch.shape}")


def _predictions(scores: NDArray[np.float32], embedding: NDArray[np.float32]) -> Predictions:
    polarity, negative, positive = (np.ascontiguousarray(column) for column in scores.T)
    return Predictions(polarity, negative, positive, embedding)


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else Apple's MPS, else the CPU.

    Raises:
        ModelError: the device is unknown or not on this machine.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    if name not in there:
        raise ModelError(f"device: expected auto, cpu, cuda or mps, found {name!r}")
    if not there[name]:
        found = ", ".join(kind for kind, available in there.items() if available)
        raise ModelError(f"device: expected {name} on this machine, found only {found}")
    return torch.device(name)
