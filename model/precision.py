"""In which numbers a network computes on a device."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from model.choices import Precision, ScoringPrecision

FIRST_WITH_FLOAT16 = (7, 0)  # CUDA's compute capability: Volta, the first with tensor cores
FIRST_WITH_BFLOAT16 = (8, 0)  # Ampere


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; where it has none, they are imitated six times slower."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= FIRST_WITH_BFLOAT16
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return bool(able.get("amx_bf16") or able.get("avx512_bf16"))
    return False


def resolved_precision(device: torch.device, precision: Precision) -> Precision:
    """What `auto` means on a device."""
    if precision != "auto":
        return precision
    return "bfloat16" if native_bfloat16(device) else "float32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The network's forward pass belongs inside, the losses outside."""
    half = resolved_precision(device, precision) == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


def scoring_dtype(device: torch.device, precision: ScoringPrecision) -> torch.dtype:
    """The float of a scoring network's backbone; `auto` is the smallest that the device has instructions for."""
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if native_bfloat16(device):
        return torch.bfloat16
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= FIRST_WITH_FLOAT16:
        return torch.float16
    return torch.float32
