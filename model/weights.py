"""Weights in and out, as safetensors bytes. Never pickle: a pickle runs code when it is opened.

Knows bytes and networks; where the bytes are kept is another's business.
"""

from collections.abc import Collection, Mapping

import safetensors
import safetensors.torch
from torch import Tensor, nn

from model.backbones.resnet import BackboneName
from model.errors import ModelError, WeightsMismatch
from model.network import PolarityNetwork

NAMED_IN_ERRORS = 3


def dump_weights(network: nn.Module) -> bytes:
    """Parameters and running statistics, on whatever device they are."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    return bytes(safetensors.torch.save(state))


def load_weights(network: PolarityNetwork, data: bytes) -> None:
    """Puts back what `dump_weights` wrote; all of it or nothing.

    Raises:
        WeightsMismatch: the data is damaged, or its names or shapes are not the network's.
    """
    _load(network, _parse(data))


def load_backbone(network: PolarityNetwork, data: bytes | Mapping[str, Tensor]) -> None:
    """Puts a torchvision ResNet into `network.backbone`; its classifier (`fc.*`) is left out.

    Raises:
        WeightsMismatch: the data is damaged, or a name or shape is not the backbone's.
    """
    state = _parse(data) if isinstance(data, bytes) else data
    _load(network.backbone, {name: t for name, t in state.items() if not name.startswith("fc.")})


def imagenet_backbone(name: BackboneName) -> dict[str, Tensor]:
    """torchvision's ImageNet weights, downloaded once into torch's cache; for `load_backbone`.

    The first set (IMAGENET1K_V1) and not the second: V2 was trained with label smoothing and mixed
    pictures, which raise ImageNet accuracy but make frozen features transfer less well (Kornblith and
    others, NeurIPS 2021), and similarity search starts from frozen features.

    Raises:
        ModelError: the download failed; the message says what to do instead.
    """
    from torchvision.models import get_weight

    weight = f"{name.replace('resnet', 'ResNet')}_Weights.IMAGENET1K_V1"
    try:
        state: dict[str, Tensor] = get_weight(weight).get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(_no_download(name, weight, error)) from error
    return state


def _no_download(name: BackboneName, weight: str, error: Exception) -> str:
    return (
        f"could not download {weight} ({error}): fetch it where there is internet and pass --weights "
        f"{name}.safetensors (docs/model.md tells how), or start with --weights random"
    )


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
    found = {
        "missing": own.keys() - state.keys(),
        "unexpected": state.keys() - own.keys(),
        "of another shape": shapes,
    }
    problems = [f"{len(names)} {kind}: {_first(names)}" for kind, names in found.items() if names]
    if problems:
        raise WeightsMismatch(f"expected {len(own)} tensors of this network, found " + "; ".join(problems))
    module.load_state_dict(dict(state))


def _first(names: Collection[str]) -> str:
    some = sorted(names)[:NAMED_IN_ERRORS]
    return ", ".join(some) + (", …" if len(names) > len(some) else "")
