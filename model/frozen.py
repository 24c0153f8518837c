"""Training a head on a trunk that stays as it is: the trunk's maps are computed once, not in each epoch.

Shapes: n pictures in all, B in a batch; C×h×w a picture's maps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.examples import CACHE_BYTES, Examples
from model.network import PolarityNetwork, PolarityOutput

BATCH = 64
LARGEST = float(np.finfo(np.float16).max)


class HeadOnMaps(nn.Module):
    """The network as a function of its trunk's maps; its weights are the network's."""

    def __init__(self, network: PolarityNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, maps: Tensor) -> PolarityOutput:
        """B×C×h×w → what the head says of them."""
        return self.network.head(maps)


class FrozenMaps:
    """A frozen trunk's maps of all examples, as float16: in memory, or in a nameless file where they are many."""

    def __init__(
        self, trunk: nn.Module, examples: Examples, device: torch.device, *, cache_bytes: int = CACHE_BYTES
    ) -> None:
        batches = [np.arange(start, min(start + BATCH, len(examples))) for start in range(0, len(examples), BATCH)]
        self._maps = np.empty((0, 0, 0, 0), np.float16)
        for indices, pixels in _read_ahead(examples, batches):
            maps = _maps_of(trunk, examples, pixels, device)
            if not len(self._maps):
                self._maps = _room((len(examples), *maps.shape[1:]), cache_bytes)
            self._maps[indices] = maps

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.float16]:
        """len(indices)×C×h×w."""
        return self._maps[indices]


def mirrored(maps: Tensor, random: torch.Generator) -> Tensor:
    """B×C×h×w, each mirrored left to right by its own chance: nearly the maps of the mirrored picture."""
    chosen = (torch.rand(len(maps), generator=random) < 0.5).to(maps.device)
    return torch.where(chosen.view(-1, 1, 1, 1), maps.flip(3), maps)


def _maps_of(
    trunk: nn.Module, examples: Examples, pixels: NDArray[np.uint8], device: torch.device
) -> NDArray[np.float16]:
    with torch.inference_mode():
        batch = examples.preprocessing.normalise(torch.from_numpy(pixels).to(device))
        maps = trunk(batch.contiguous(memory_format=torch.channels_last)).float().clamp(-LARGEST, LARGEST)
    halves: NDArray[np.float16] = maps.to(torch.float16).cpu().numpy()
    return halves


def _read_ahead(
    examples: Examples, batches: list[NDArray[np.int64]]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Each batch's indices and pixels; the next one's are decoded while the trunk computes."""
    with ThreadPoolExecutor(1) as ahead:
        coming = [ahead.submit(examples.pixels, batches[0])]
        for number, indices in enumerate(batches):
            pixels = coming.pop().result()
            if number + 1 < len(batches):
                coming.append(ahead.submit(examples.pixels, batches[number + 1]))
            yield indices, pixels


def _room(shape: tuple[int, ...], cache_bytes: int) -> NDArray[np.float16]:
    if int(np.prod(shape)) * np.dtype(np.float16).itemsize <= cache_bytes:
        return np.empty(shape, np.float16)
    with tempfile.TemporaryFile(prefix="vitrine-") as file:  # the mapping keeps it until the array goes
        return np.memmap(file, np.float16, mode="w+", shape=shape)
