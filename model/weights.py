"""Weights in and out, as safetensors bytes. Never code: a pickle runs what it holds when it is opened.

Knows bytes and networks; where the bytes are kept is another's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from model.backbones.spec import HEADS, BackboneSpec
from model.errors import ModelError, WeightsMismatch
from model.published_weights import check_finite, check_names, fit, parse

DRAWS = frozenset({nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_, Tensor.uniform_, Tensor.normal_})


class Undrawn(TorchFunctionMode):
    """Networks built inside draw no random weights, which takes longer than loading them. Whoever builds loads all."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        first = args[0] if args else (kwargs or {}).get("tensor")
        if func in DRAWS and isinstance(first, nn.Parameter):
            return first
        return func(*args, **(kwargs or {}))


def dump_weights(network: nn.Module) -> bytes:
    """Parameters and running statistics, on whatever device they are.

    Raises:
        WeightsMismatch: some are NaN or infinite; a version that holds such could never be used, nor replaced.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    check_finite(state)
    return bytes(safetensors.torch.save(state))


def load_weights(network: nn.Module, data: bytes) -> None:
    """Puts back what `dump_weights` wrote; all of it or nothing.

    Raises:
        WeightsMismatch: the data is damaged or not finite, or its names or shapes are not the network's.
    """
    try:
        state = dict(safetensors.torch.load(data))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise WeightsMismatch(
            f"expected a safetensors file, found {len(data)} bytes that are none ({error})"
        ) from error
    own = network.state_dict()
    check_names(own, state, state.keys() - own.keys())
    check_finite(state)
    network.load_state_dict(state)


def load_backbone(extractor: nn.Module, data: bytes | Mapping[str, Tensor], spec: BackboneSpec) -> str:
    """Puts published weights into what `spec` builds, without their classifier; all of it or nothing.

    Returns what was dropped or adapted, in one line; empty where the weights fitted as they were.

    Raises:
        WeightsMismatch: the data is damaged or not finite, or a name or shape is not the backbone's.
    """
    content = parse(data) if isinstance(data, bytes) else data
    try:
        fitted = fit(content, extractor.state_dict(), HEADS)
    except WeightsMismatch as error:
        raise WeightsMismatch(f"{spec.name}: {error}") from error
    extractor.load_state_dict(fitted.state)
    return fitted.adapted


def imagenet_weights(spec: BackboneSpec) -> Mapping[str, Tensor]:
    """The backbone's published weights, downloaded once into a cache; for `load_backbone`.

    Raises:
        ModelError: there are none, or the download failed; the message says what to do instead.
    """
    if spec.imagenet is None:
        others = "--weights bundled" if spec.bundled else "a file of weights, or start with --weights random"
        raise ModelError(f"{spec.name} has no ImageNet weights to download: pass {others}")
    try:
        return spec.imagenet.fetch()
    except (OSError, RuntimeError, ValueError) as error:
        file = f"{spec.name.rpartition('/')[2]}.safetensors"
        raise ModelError(
            f"could not download {spec.imagenet.source} ({error}): fetch it where there is internet and pass "
            f"--weights {file} (docs/model.md tells how), or start with --weights random"
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
