"""Look models in the lake: what a version holds, how it is registered, how its network is read.

A look says how pictures look: a trunk, frozen, and what becomes of its maps. It changes seldom, for a new one means
new embeddings of the whole catalogue and a new index.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING, Any, NamedTuple

from lake.catalogue import write_catalogue
from lake.errors import LakeError, NoLake
from lake.lake import Lake, open_lake
from lake.versions import Draft
from model.backbones.names import DEFAULT
from tasks.config import ModelChoice
from tasks.objects import read_object

if TYPE_CHECKING:
    from torch import nn

    from model.backbones.spec import BackboneSpec
    from model.look import LookConfig, LookNetwork
    from model.preprocessing import Preprocessing

logger = logging.getLogger(__name__)

WEIGHTS = "weights.safetensors"
RANDOM = "random"  # weights that say nothing of a picture


@dataclass(frozen=True)
class LookCard:
    """What the manifest of a look version says."""

    version: int
    config: LookConfig
    preprocessing: Preprocessing
    weights: str
    """What its trunk started from: bundled, imagenet, random, or a file."""
    trunk: str
    """The fingerprint of its trunk's weights: a model on an equal one needs no forward pass of its own."""
    properties: Mapping[str, Any] = field(default_factory=dict)


def require_look(lake: Lake) -> int:
    """The promoted look's version. Raises LakeError where there is none yet."""
    version = lake.looks.current()
    if version is None:
        raise LakeError(
            "the lake has no look model yet: `vitrine nightly SOURCE` registers the bundled one, `vitrine init-model` "
            "one of your choice"
        )
    return version


def read_look(lake: Lake, version: int) -> LookCard:
    """The look version's manifest as our types. Raises UnknownVersion."""
    from model.look import LookConfig
    from model.preprocessing import Preprocessing

    properties = lake.looks.manifest(version).properties
    return LookCard(
        version=version,
        config=LookConfig.from_dict(properties["look"]),
        preprocessing=Preprocessing.from_dict(properties["preprocessing"]),
        weights=properties["weights"],
        trunk=properties["trunk"],
        properties=properties,
    )


def embedding_size(lake: Lake, version: int) -> int:
    """How long the look's embeddings are, without loading torch."""
    return int(lake.looks.manifest(version).properties["embedding_size"])


def load_look(lake: Lake, card: LookCard) -> LookNetwork:
    """The version's network with its weights, verified, on the CPU."""
    from model.look import LookNetwork
    from model.weights import Undrawn, load_weights

    with Undrawn():
        network = LookNetwork(card.config)
    load_weights(network, lake.looks.read(card.version, WEIGHTS))
    return network


def seal_look(
    draft: Draft,
    look: LookNetwork,
    preprocessing: Preprocessing,
    *,
    weights: str,
    properties: Mapping[str, Any] | None = None,
) -> None:
    """Write the weights and the manifest of a drafted look version."""
    from model.checkpoints import weights_fingerprint
    from model.weights import dump_weights

    draft.add(WEIGHTS, dump_weights(look))
    draft.seal(
        {
            "embedding_size": look.embedding_size,
            "look": look.config.to_dict(),
            "preprocessing": preprocessing.to_dict(),
            "weights": weights,
            "trunk": weights_fingerprint(look.backbone),
            "vitrine_version": package_version("vitrine"),
        }
        | dict(properties or {})
    )


def init_model(lake_uri: str, choice: ModelChoice) -> int:
    """Make the lake where there is none, and register and promote its first look; the look's version.

    Raises LakeError where the lake has one, ModelError where the weights can't be had.
    """
    try:
        current = open_lake(lake_uri).looks.current()
    except NoLake:
        current = None
    if current is not None:
        raise LakeError(f"the lake has look {current} already: use another lake")
    new = new_look(choice)  # before anything is written: the weights may not be there
    lake = open_lake(lake_uri, create=True)
    version = _register(lake, new, choice)
    write_catalogue(lake)
    return version


def ensure_look(lake: Lake, choice: ModelChoice) -> tuple[int, bool]:
    """The promoted look's version, and whether it was registered just now for want of one. Raises ModelError."""
    current = lake.looks.current()
    if current is not None:
        return current, False
    return _register(lake, new_look(choice), choice), True


def _register(lake: Lake, new: NewLook, choice: ModelChoice) -> int:
    newest, draft = lake.looks.newest(), lake.looks.draft()
    properties = {"adapted_weights": new.adapted}
    seal_look(draft, new.look, new.preprocessing, weights=choice.start, properties=properties)
    lake.looks.append("promote", draft.version, based_on=newest, reason=f"first look, {choice.start} weights")
    return draft.version


class NewLook(NamedTuple):
    """A look that nobody registered yet."""

    look: LookNetwork
    preprocessing: Preprocessing
    adapted: str
    """What of its backbone's weights was dropped or adapted, in one line; empty where nothing was."""


def new_look(choice: ModelChoice) -> NewLook:
    """A look over the chosen backbone. Raises as `new_backbone`."""
    from model.look import LookConfig, LookNetwork

    backbone, spec, preprocessing, adapted = new_backbone(choice)
    look = LookNetwork(LookConfig(backbone=spec.name))
    look.backbone = backbone
    return NewLook(look.eval().requires_grad_(False), preprocessing, adapted)


class NewBackbone(NamedTuple):
    """A backbone with its first weights."""

    backbone: nn.Module
    spec: BackboneSpec
    preprocessing: Preprocessing
    adapted: str
    """What of the weights was dropped or adapted, in one line; empty where nothing was."""


def new_backbone(choice: ModelChoice) -> NewBackbone:
    """The chosen backbone; random weights are seeded.

    Raises ModelError where there is no such backbone, its weights can't be had or the size does not fit it.
    """
    import torch

    from model.backbones.registry import find_backbone
    from model.weights import bundled_weights, imagenet_weights, load_backbone

    spec = find_backbone(choice.backbone or DEFAULT)
    side = choice.image_size or spec.preprocessing.image_size
    spec.check_sides(side, side)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(choice.seed)
        backbone = spec.build()
    published = {"bundled": bundled_weights, "imagenet": imagenet_weights}.get(choice.start)
    adapted = ""
    if choice.start != RANDOM:
        data = read_object(choice.start) if published is None else published(spec)
        adapted = load_backbone(backbone, data, spec)
        logger.info("weights %s of %s: %s", choice.start, spec.name, adapted or "as they are")
    return NewBackbone(backbone, spec, replace(spec.preprocessing, image_size=side), adapted)
