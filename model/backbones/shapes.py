"""A network without the memory of its weights: enough to learn shapes, names and the work that a picture takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _NoWeights(TorchFunctionMode):
    """Makes what layers draw their weights into without memory. Numbers that a builder computes with stay numbers,
    which under `torch.device("meta")` they would not."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func is torch.empty:
            given["device"] = "meta"
        return func(*args, **given)


def without_memory(build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` makes, in evaluation mode on the meta device. Nothing is drawn from the global generator."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return build().eval()
        except (NotImplementedError, RuntimeError):  # the builder reads numbers that it computed
            with _NoWeights():
                return build().to("meta").eval()


def maps_without_memory(network: Callable[[Tensor], Any], side: int) -> Any:
    """What a network without memory gives of one picture: shapes alone."""
    with torch.device("meta"), torch.no_grad():
        return network(torch.empty(1, 3, side, side))
