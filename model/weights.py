"""Weights in and out, as safetensors bytes. Never pickle: a pickle runs code when it is opened.

Knows bytes and networks; where the bytes are kept is another's business.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import safetensors
import safetensors.torch
from torch import Tensor, nn

from model.backbones.spec import BackboneSpec
from model.errors import ModelError, WeightsMismatch

NAMED_IN_ERRORS = 3


def dump_weights(network: nn.Module) -> bytes:
    """Parameters and running statistics, on whatever device they are."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    return bytes(safetensors.torch.save(state))


def load_weights(network: nn.Module, data: bytes) -> None:
    """Puts back what `dump_weights` wrote; all of it or nothing.

    Raises:
        WeightsMismatch: the data is damaged, or its names or shapes are not the network's.
    """
    _load(network, _parse(data))


def load_backbone(extractor: nn.Module, data: bytes | Mapping[str, Tensor], spec: BackboneSpec) -> None:
    """Puts published weights into what `spec` builds, without their classifier; all of it or nothing.

    Raises:
        WeightsMismatch: the data is damaged, or a name or shape is not the backbone's.
    """
    state = _parse(data) if isinstance(data, bytes) else data
    own = {name.removeprefix(spec.prefix): t for name, t in state.items() if not name.startswith(spec.classifier)}
    _load(extractor, own)


def imagenet_weights(spec: BackboneSpec) -> Mapping[str, Tensor]:
    """The backbone's ImageNet weights, downloaded once into a cache; for `load_backbone`.

    Raises:
        ModelError: there are none, or the download failed; the message says what to do instead.
    """
    if spec.imagenet is None:
        raise ModelError(
            f"{spec.name} has no ImageNet weights: pass a safetensors file, or start with --weights random"
        )
    try:
        return spec.imagenet.fetch()
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"could not download {spec.imagenet.source} ({error}): fetch it where there is internet and pass --weights "
            f"{spec.name}.safetensors (docs/model.md tells how), or start with --weights random"
        ) from error


def bundled_weights(spec: BackboneSpec) -> Mapping[str, Tensor]:
    """The backbone's weights from an installed package; for `load_backbone`.

    Raises:
        ModelError: it has none, or the package is not installed.
    """
    if spec.bundled is None:
        raise ModelError(f"{spec.name} has no bundled weights: pass --weights imagenet, a file, or random")
    try:
        return spec.bundled.fetch()
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"could not read {spec.bundled.source} ({error}): install it, or pass --weights") from error


def _parse(data: bytes) -> dict[str, Tensor]:
    try:
        return dict(safetensors.torch.load(data))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise WeightsMismatch(
            f"expected a safetensors file, found {len(data)} bytes that are none ({error})"
        ) from error


def _load(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = module.state_dict()
    shapes = [
        f"{name} (expected {tuple(own[name].shape)}, found {tuple(state[name].shape)})"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    differences: dict[str, Collection[str]] = {
        "missing": own.keys() - state.keys(),
        "unexpected": state.keys() - own.keys(),
        "of another shape": shapes,
    }
    problems = []
    for kind, names in differences.items():
        named = ", ".join(sorted(names)[:NAMED_IN_ERRORS]) + (", …" if len(names) > NAMED_IN_ERRORS else "")
        problems += [f"{len(names)} {kind}: {named}"] if names else []
    if problems:
        raise WeightsMismatch(f"expected {len(own)} tensors of this network, found " + "; ".join(problems))
    module.load_state_dict(dict(state))
