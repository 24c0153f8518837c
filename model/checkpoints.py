"""What an interrupted training run needs to go on as if nothing had happened, as bytes. Never pickle.

Knows bytes, networks and optimizers; where the bytes are kept, and that they are replaced as a whole or not at
all, is the store's business. Every random number of a run follows from its seed, epoch and step, so that the
count of steps stands for the state of all generators.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from model.examples import fingerprint

logger = logging.getLogger(__name__)

FORMAT = 1
HEADER_LENGTH_BYTES = 8  # of a safetensors file, little endian


class CheckpointStore(Protocol):
    """Keeps the newest checkpoint of one run."""

    def load(self) -> bytes | None:
        """What was saved last; None at first."""

    def save(self, data: bytes) -> None:
        """Replaces it atomically: killed at any moment, `load` gives the old bytes or the new, never a mixture."""


class _Damaged(Exception):
    """The bytes are no checkpoint of this version."""


@dataclass(frozen=True)
class RunIdentity:
    """What must be the same for a run to be the same; fingerprints."""

    configuration: str
    pictures: str
    network: str
    """The fingerprint of the weights that the run starts from."""
    processes: int

    def differences(self, other: RunIdentity) -> list[str]:
        """The names of what is not the same."""
        return [name for name, value in asdict(self).items() if value != getattr(other, name)]


@dataclass(frozen=True)
class Checkpoint:
    """A run after some steps."""

    run: RunIdentity
    step: int
    """Steps taken."""
    tensors: Mapping[str, Tensor]

    def to_bytes(self) -> bytes:
        """As a safetensors file whose metadata say the rest."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        about = json.dumps({"format": FORMAT, "run": asdict(self.run), "step": self.step})
        metadata = {"checkpoint": about, "sha256": _digest(about, tensors)}
        return bytes(safetensors.torch.save(tensors, metadata))

    @classmethod
    def from_bytes(cls, data: bytes) -> Checkpoint:
        """The inverse of `to_bytes`; raises _Damaged."""
        try:
            tensors = safetensors.torch.load(data)
            # safetensors reads metadata only from files.
            length = int.from_bytes(data[:HEADER_LENGTH_BYTES], "little")
            metadata = json.loads(data[HEADER_LENGTH_BYTES : HEADER_LENGTH_BYTES + length])["__metadata__"]
            about = json.loads(metadata["checkpoint"])
        except (safetensors.SafetensorError, ValueError, KeyError) as error:
            raise _Damaged(f"{len(data)} bytes are no checkpoint ({error})") from error
        if about["format"] != FORMAT:
            raise _Damaged(f"expected format {FORMAT}, found {about['format']}")
        if metadata["sha256"] != _digest(metadata["checkpoint"], tensors):
            raise _Damaged("its bytes have changed since they were written")
        return cls(RunIdentity(**about["run"]), about["step"], tensors)


def usable(data: bytes | None, run: RunIdentity) -> bytes | None:
    """The data where they are a whole checkpoint of this run; else None, and a warning says why."""
    if data is None:
        return None
    try:
        different = Checkpoint.from_bytes(data).run.differences(run)
    except _Damaged as error:
        logger.warning("training starts from the beginning, its checkpoint is damaged: %s", error)
        return None
    if different:
        logger.warning(
            "training starts from the beginning, the checkpoint is of another run: another %s", ", ".join(different)
        )
        return None
    return data


class Clock:
    """Says when a checkpoint is due: every so many steps, or after so much time."""

    def __init__(self, every: int | timedelta) -> None:
        self.every = every
        self.last = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether to save after this step; the first is step 1."""
        if isinstance(self.every, int):
            return step % self.every == 0
        return time.monotonic() - self.last >= self.every.total_seconds()

    def saved(self) -> None:
        """Starts the time anew, from the end of a save, so that a slow store cannot fill the run."""
        self.last = time.monotonic()


def weights_fingerprint(network: nn.Module) -> str:
    """The same for networks whose weights have the same names, types, shapes and values."""
    parts = ((name, tensor.detach().cpu().contiguous().numpy()) for name, tensor in network.state_dict().items())
    return fingerprint(*(part for pair in parts for part in pair))


def optimizer_tensors(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state under the parameters' names."""
    return {
        f"{name}/{key}": value
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
        for key, value in optimizer.state[parameter].items()
    }


def restore_optimizer(network: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` gave, in the memory layout of the parameters as the optimizer would."""
    states: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        owner, _, key = name.rpartition("/")
        states.setdefault(owner, {})[key] = tensor
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            optimizer.state[parameter] = {
                key: _like(parameter, key, tensor) for key, tensor in states.get(name, {}).items()
            }


def _like(parameter: nn.Parameter, key: str, tensor: Tensor) -> Tensor:
    if key == "step":
        return tensor.to(parameter.device, copy=True)  # where the fused AdamW keeps it
    return torch.zeros_like(parameter.detach(), memory_format=torch.preserve_format).copy_(tensor)


def _digest(about: str, tensors: Mapping[str, Tensor]) -> str:
    """safetensors notices a truncated file, but no flipped bit."""
    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
