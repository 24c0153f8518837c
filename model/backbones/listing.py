"""Which backbones there are: parameters, work a picture, input size, and whether their weights are at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch

from model.backbones.names import TIMM, TORCHVISION
from model.backbones.registry import BACKBONES, find_backbone
from model.backbones.shapes import maps_without_memory, without_memory
from model.backbones.spec import BackboneSpec, PublishedWeights
from model.errors import ModelError

MOST_MEASURED = 12  # of timm's, each built without memory: a second or so


@dataclass(frozen=True)
class ListedBackbone:
    """One line of the list. torchvision's two figures are its own, with the classifier; the others' are without."""

    name: str
    parameters: int | None
    multiply_adds: int | None
    """For one picture of the input's size."""
    image_size: int
    """The side of the input that its weights were trained with, pixels."""
    weights: str
    """bundled (with the installation), cached (on this machine), download, or none."""


def list_backbones(pattern: str = "", *, timm: bool = False) -> list[ListedBackbone]:
    """Our entries and torchvision's, or timm's, whose names hold the pattern (with * and ? as a shell's).

    Of timm's, the two figures are measured where few names fit.

    Raises:
        ModelError: timm is asked for and not installed.
    """
    shell = f"*{pattern.removeprefix(TIMM) if timm else pattern}*"
    if timm:
        return _from_timm(shell)
    return [row for row in (*map(_own, BACKBONES.values()), *_from_torchvision()) if fnmatch(row.name, shell)]


def measure(spec: BackboneSpec) -> tuple[int, int]:
    """The extractor's parameters, and its multiply-adds for one picture; nothing is computed."""
    from torch.utils.flop_counter import FlopCounterMode

    extractor = without_memory(spec.build)
    with FlopCounterMode(display=False) as counter:
        maps_without_memory(extractor, spec.preprocessing.image_size)
    return sum(parameter.numel() for parameter in extractor.parameters()), counter.get_total_flops() // 2


def _own(spec: BackboneSpec) -> ListedBackbone:
    parameters, multiply_adds = measure(spec)
    weights = "bundled" if spec.bundled and spec.bundled.at_hand() else _availability(spec.imagenet)
    return ListedBackbone(spec.name, parameters, multiply_adds, spec.preprocessing.image_size, weights)


def _from_torchvision() -> Iterator[ListedBackbone]:
    from model.backbones import from_torchvision

    for name in from_torchvision.names():
        model = name.removeprefix(TORCHVISION)
        chosen = from_torchvision.weights_enum(model)
        side = from_torchvision.preprocessing_of(model).image_size
        weights = _availability(from_torchvision.published_weights(str(chosen), model))
        meta = chosen.meta
        yield ListedBackbone(name, int(meta["num_params"]), round(meta["_ops"] * 1e9), side, weights)


def _from_timm(shell: str) -> list[ListedBackbone]:
    from model.backbones import from_timm

    try:
        models = from_timm.names(shell)
    except ValueError as error:
        raise ModelError(str(error)) from error
    rows = []
    for model in models:
        side = max(from_timm.input_size(model)[1:])
        weights = _availability(from_timm.published_weights(model))
        rows.append(ListedBackbone(TIMM + model, None, None, side, weights))
    return [_measured(row) for row in rows] if len(rows) <= MOST_MEASURED else rows


def _measured(row: ListedBackbone) -> ListedBackbone:
    try:
        parameters, multiply_adds = measure(find_backbone(row.name))
    except (ModelError, RuntimeError, NotImplementedError):  # no maps, or what can't run without memory
        return row
    return replace(row, parameters=parameters, multiply_adds=multiply_adds)


def _availability(published: PublishedWeights | None) -> str:
    if published is None:
        return "none"
    return "cached" if published.at_hand() else "download"
