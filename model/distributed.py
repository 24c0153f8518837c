"""One training run in several processes, as torchrun starts them: who does which part, and how they agree.

Knows torch.distributed, whose process group the caller has opened; reads no environment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Distributed:
    """This process among all of a run. `ALONE` is one for which everything here does nothing."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"expected a rank in [0, {self.world_size}), found {self.rank}")

    @property
    def leads(self) -> bool:
        """Whether this process saves and reports."""
        return self.rank == 0

    def share(self, batch: NDArray[np.int64]) -> NDArray[np.int64]:
        """This process's part of a batch; the parts differ by at most one picture."""
        return np.array_split(batch, self.world_size)[self.rank]

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network with gradients averaged over processes; its own weights, under its own names, underneath.

        On CUDA, BatchNorm then normalises over all processes' pictures. On a CPU, which has no such kernel,
        each process normalises over its own, and rank 0's running statistics are the result.
        """
        if self.world_size == 1:
            return network
        if device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        # DistributedDataParallel never lets go of its group. Were it the default one, gloo's threads would outlive
        # `destroy_process_group` and could drop the last broadcast's tensor while the interpreter ends: SIGABRT.
        own = dist.new_group()
        return DistributedDataParallel(
            network, device_ids=[device] if device.type == "cuda" else None, process_group=own
        )

    def agree(self, data: bytes | None, device: torch.device) -> bytes | None:
        """Rank 0's data, everywhere."""
        if self.world_size == 1:
            return data
        length = torch.tensor([-1 if data is None else len(data)], device=device)
        dist.broadcast(length, src=0)
        if int(length) < 0:
            return None
        buffer = torch.empty(int(length), dtype=torch.uint8)
        if self.leads and data is not None:
            buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        buffer = buffer.to(device)
        dist.broadcast(buffer, src=0)
        return buffer.cpu().numpy().tobytes()

    def agree_on_weights(self, network: nn.Module) -> None:
        """Rank 0's parameters and running statistics, everywhere."""
        if self.world_size > 1:
            for tensor in network.state_dict().values():
                # torch.distributed sends contiguous tensors only; channels-last weights are none.
                whole = tensor.contiguous()
                dist.broadcast(whole, src=0)
                tensor.copy_(whole)


ALONE = Distributed()
