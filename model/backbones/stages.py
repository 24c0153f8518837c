"""The stages of any network, by the order of its blocks, for backbones whose stages nobody named."""

from __future__ import annotations

from torch import nn

STAGES = 6  # at most: a stem and five parts, so that one `layer_decay` suits every family

Block = tuple[str, nn.Module]  # how the names of its parameters begin, and the module


def stages_of(network: nn.Module) -> tuple[tuple[str, ...], ...]:
    """How the names of each stage's parameters begin, from the input to the output; together they are all.

    Blocks are the network's children; the children of the one that holds most of the parameters, where they are few.
    Parameters that no block holds (a class token, positions) belong to the first stage.
    """
    loose, blocks = _opened("", network)
    while len(blocks) < STAGES:
        largest = max(blocks, key=lambda block: _size(block[1]), default=None)
        if largest is None or not _opens(largest[1], blocks):
            break
        at = blocks.index(largest)
        more, within = _opened(*largest)
        loose, blocks[at : at + 1] = [*loose, *more], within
    groups: list[list[str]] = []
    for name, module in blocks:
        # A normalisation belongs to the block before it.
        if groups and all(parameter.ndim < 2 for parameter in module.parameters()):
            groups[-1].append(name)
        else:
            groups.append([name])
    count = min(STAGES, len(groups))
    stages: list[list[str]] = [[] for _ in range(max(count, 1))]
    for number, group in enumerate(groups):
        stages[number * count // len(groups)] += group
    stages[0] += loose
    return tuple(map(tuple, stages))


def _opened(prefix: str, module: nn.Module) -> tuple[list[str], list[Block]]:
    loose = [prefix + name for name, _ in module.named_parameters(recurse=False)]
    return loose, [(f"{prefix}{name}.", child) for name, child in module.named_children() if _size(child)]


def _opens(module: nn.Module, blocks: list[Block]) -> bool:
    is_list = isinstance(module, nn.Sequential | nn.ModuleList) and any(map(_size, module.children()))
    holds_most = 2 * _size(module) > sum(_size(each) for _, each in blocks)
    return holds_most and (is_list or (len(blocks) <= 2 and any(module.children())))


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
