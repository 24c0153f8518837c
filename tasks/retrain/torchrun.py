"""A retraining in several processes that torchrun started: rank 0 runs the flow, the others help it to train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from model.devices import choose_device
from model.distributed import ALONE, Distributed
from model.training import train
from tasks.retrain.preparation import TrainingRequest, prepare

# Helpers wait while rank 0 checks labels, judges, scores and indexes; torchrun ends them if it dies.
PATIENCE = timedelta(days=2)


@contextmanager
def processes() -> Iterator[Distributed]:
    """This process among those that torchrun started; the group is closed, and the helpers dismissed, at the end.

    An error ends this process without a word to the others, which may be in the middle of a training and would not
    hear it: torchrun ends them.
    """
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    yield current()
    if current().leads:
        _tell(None)
    dist.destroy_process_group()


def current() -> Distributed:
    """This process among those that train together."""
    return Distributed(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else ALONE


def call_helpers(request: TrainingRequest) -> Distributed:
    """From rank 0, just before it trains: the others begin the same training."""
    if current().world_size > 1:
        _tell(request)
    return current()


def help_to_train() -> None:
    """What every rank but 0 does, until rank 0 is done."""
    while (request := _tell(None)) is not None:
        prepared = prepare(request)
        train(
            prepared.network,
            prepared.training_side,
            prepared.training,
            device=training_device(request.config.device),
            distributed=current(),
        )


def training_device(name: str) -> torch.device:
    """That of `choose_device`; of several GPUs in one machine, each process takes its own."""
    device = choose_device(name)
    if device.type == "cuda" and current().world_size > 1:
        return torch.device("cuda", dist.get_node_local_rank())
    return device


def _tell(request: TrainingRequest | None) -> TrainingRequest | None:
    """Rank 0's word, in every process."""
    word = [request]
    dist.broadcast_object_list(word, src=0, device=torch.device("cpu"))
    return word[0]
