"""BatchNorms of a trained network folded into the convolutions before them: the same answers but for rounding."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode


def fold_batchnorms(backbone: nn.Module, side: int = 64) -> nn.Module:
    """A copy in evaluation mode whose convolutions do the work of the BatchNorms that follow them.

    What follows what is seen while a black picture of this side runs through: only a BatchNorm is folded that is
    exactly torch's BatchNorm2d (timm's subclass holds the activation) and takes all that a convolution gives.
    """
    folded = copy.deepcopy(backbone).eval()
    for conv_name, norm_name in _pairs(folded, side):
        conv, norm = cast(nn.Conv2d, folded.get_submodule(conv_name)), folded.get_submodule(norm_name)
        folded.set_submodule(conv_name, fuse_conv_bn_eval(conv, cast(nn.BatchNorm2d, norm)))
        folded.set_submodule(norm_name, nn.Identity())
    return folded


def _pairs(network: nn.Module, side: int) -> list[tuple[str, str]]:
    """The names of each convolution and the BatchNorm that can be folded into it."""
    watch = _Watch(network)
    if not watch.norms:
        return []
    like = next(network.parameters())
    with torch.no_grad(), watch:
        network(torch.zeros(1, 3, side, side, dtype=like.dtype, device=like.device))
    return list(watch.pairs())


class _Watch(TorchFunctionMode):
    """Sees each call of a torch function while a network runs: what convolutions give, and who takes it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        modules = list(network.named_modules())
        self.convolutions = {id(m.weight): name for name, m in modules if isinstance(m, nn.Conv2d)}
        self.norms = {
            id(m.running_mean): name for name, m in modules if type(m) is nn.BatchNorm2d and m.running_mean is not None
        }
        self.given: list[tuple[str, Tensor]] = []  # kept, so that no later tensor has an earlier one's id
        self.taken_by: dict[int, list[str | None]] = {}
        self.normed: Counter[str] = Counter()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not any(True for _ in _tensors(out)):
            return out  # a shape that is asked for is no use
        ids = [id(tensor) for tensor in _tensors((args, kwargs))]
        norm = next((self.norms[each] for each in ids if each in self.norms), None)
        self.normed[norm or ""] += 1
        for each in ids:
            if each in self.taken_by:
                self.taken_by[each].append(norm)
        conv = next((self.convolutions[each] for each in ids if each in self.convolutions), None)
        if func is F.conv2d and conv is not None:
            self.given.append((conv, out))
            self.taken_by[id(out)] = []
        return out

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Each convolution that ran once and whose output only a BatchNorm took, which took only this."""
        runs = Counter(name for name, _ in self.given)
        for name, out in self.given:
            takers = self.taken_by[id(out)]
            norm = takers[0] if len(takers) == 1 else None
            if norm is not None and runs[name] == self.normed[norm] == 1:
                yield name, norm


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
