"""The devices of this machine: which one computes, and how long it is at it."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from model.errors import ModelError


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else Apple's MPS, else the CPU. `cuda:1` is the second GPU.

    Raises:
        ModelError: the device is unknown or not on this machine.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    kind, _, number = name.partition(":")
    if kind not in there or (number and not (kind == "cuda" and number.isdecimal())):
        raise ModelError(f"device: expected auto, cpu, cuda or mps, found {name!r}")
    if not there[kind] or (number and int(number) >= torch.cuda.device_count()):
        usable = ", ".join(kind for kind, available in there.items() if available)
        raise ModelError(f"device: expected {name} on this machine, found only {usable}")
    return torch.device(name)


class DeviceClock:
    """A moment in a device's work."""

    def __init__(self, device: torch.device) -> None:
        self._at = time.perf_counter()
        self._event: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(device))

    def wait(self) -> None:
        """Until the device has come so far."""
        if self._event is not None:
            self._event.synchronize()

    def seconds_after(self, other: DeviceClock) -> float:
        """How long the device took from the other moment to this one."""
        if self._event is None or other._event is None:
            return self._at - other._at
        return float(other._event.elapsed_time(self._event)) / 1000


def to_host(tensor: Tensor) -> Tensor:
    """A copy in the host's memory that a GPU fills by itself: nobody waits for it, and it is not yet there."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
