"""Models in the lake: what a version holds, how it is registered, how it becomes a predictor."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from lake.catalogue import write_catalogue
from lake.errors import LakeError, NoLake, ObjectNotFound
from lake.lake import Lake, open_lake
from lake.store import open_store
from lake.versions import Draft
from model.backbones.names import DEFAULT
from tasks.config import ModelChoice

if TYPE_CHECKING:
    from model.choices import ScoringPrecision
    from model.network import NetworkConfig, PolarityNetwork
    from model.predict import Predictor
    from model.preprocessing import Preprocessing

WEIGHTS = "weights.safetensors"
HELD_OUT = "held-out.parquet"  # in a model version: what it, and the incumbent, said of the held-out pictures

_loading = threading.Lock()
_resident: dict[tuple[str, str, str], Predictor] = {}


@dataclass(frozen=True)
class Origin:
    """What a model's first weights were: one of the two, by name, path or URI, or another version of the lake."""

    weights: str | None = None
    model_version: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The one that it is, for a manifest."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class ModelCard:
    """What the manifest of a model version says."""

    version: int
    trained: bool  # an untrained model's embeddings are of use, its polarity is not
    embedding_size: int
    network: NetworkConfig
    preprocessing: Preprocessing
    properties: Mapping[str, Any] = field(default_factory=dict)

    @property
    def started_from(self) -> Origin:
        """What its first weights were."""
        return Origin(**self.properties["started_from"])


def require_model(lake: Lake) -> int:
    """The promoted model's version. Raises LakeError where there is none yet."""
    version = lake.models.current()
    if version is None:
        raise LakeError(
            "the lake has no model yet: `vitrine init-model` registers one for similarity search, "
            "`vitrine retrain LABELS` trains one"
        )
    return version


def read_card(lake: Lake, version: int) -> ModelCard:
    """The model version's manifest as our types. Raises UnknownVersion."""
    from model.network import NetworkConfig
    from model.preprocessing import Preprocessing

    properties = lake.models.manifest(version).properties
    return ModelCard(
        version=version,
        trained=bool(properties["trained"]),
        embedding_size=int(properties["embedding_size"]),
        network=NetworkConfig.from_dict(properties["network"]),
        preprocessing=Preprocessing.from_dict(properties["preprocessing"]),
        properties=properties,
    )


def embedding_size(lake: Lake, version: int) -> int:
    """How long the version's embeddings are, without loading torch."""
    return int(lake.models.manifest(version).properties["embedding_size"])


def load_network(lake: Lake, card: ModelCard) -> PolarityNetwork:
    """The version's network with its weights, verified, on the CPU."""
    from model.network import PolarityNetwork
    from model.weights import load_weights

    network = PolarityNetwork(card.network)
    load_weights(network, lake.models.read(card.version, WEIGHTS))
    return network


def predictor(lake: Lake, version: int, device: str, precision: ScoringPrecision = "auto") -> Predictor:
    """The version ready to score on the device; one model's predictors stay resident in this process.

    Of several GPUs `cuda:1` is the second.
    """
    from model.devices import choose_device
    from model.predict import Predictor

    # By content: a lake may be made anew at the same place.
    content = next(file.sha256 for file in lake.models.manifest(version).files if file.name == WEIGHTS)
    there = choose_device(device)
    key = (content, str(there), precision)
    with _loading:
        if key not in _resident:
            for other in [other for other in _resident if other[0] != content]:
                del _resident[other]
            card = read_card(lake, version)
            _resident[key] = Predictor(load_network(lake, card), card.preprocessing, there, precision=precision)
        return _resident[key]


def usable_devices(device: str) -> list[str]:
    """What `auto` or a kind of device comes to on this machine: every GPU that there is, or the one device."""
    import torch

    from model.devices import choose_device

    chosen = choose_device(device)
    if chosen.type == "cuda" and chosen.index is None:
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [str(chosen)]


def write_model(
    lake: Lake,
    network: PolarityNetwork,
    preprocessing: Preprocessing,
    *,
    trained: bool,
    properties: Mapping[str, Any],
) -> int:
    """Write a model version: weights and manifest. It is visible once a log entry names it."""
    draft = lake.models.draft()
    seal_model(draft, network, preprocessing, trained=trained, properties=properties)
    return draft.version


def seal_model(
    draft: Draft,
    network: PolarityNetwork,
    preprocessing: Preprocessing,
    *,
    trained: bool,
    properties: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Write the weights, other files and the manifest of a drafted model version."""
    from model.network import CLASSES
    from model.weights import dump_weights

    draft.add(WEIGHTS, dump_weights(network))
    for name, data in (files or {}).items():
        draft.add(name, data)
    draft.seal(
        {
            "trained": trained,
            "embedding_size": network.embedding_size,
            "network": network.config.to_dict(),
            "preprocessing": preprocessing.to_dict(),
            "classes": list(CLASSES),
            "vitrine_version": package_version("vitrine"),
        }
        | dict(properties)
    )


def init_model(lake_uri: str, choice: ModelChoice) -> int:
    """Register and promote a first model without training; its version.

    Raises LakeError where the lake has a model, ModelError where the weights can't be had.
    """
    try:
        newest = open_lake(lake_uri).models.newest()
    except NoLake:
        newest = None
    if newest is not None and newest.current is not None:
        raise LakeError(
            f"the lake has model {newest.current} already: `vitrine retrain LABELS` makes the next, or use another lake"
        )
    network, preprocessing = new_network(choice)  # before anything is written: the weights may not be there
    lake = open_lake(lake_uri, create=True)
    properties = {"started_from": Origin(choice.start).to_dict()}
    version = write_model(lake, network, preprocessing, trained=False, properties=properties)
    lake.models.append("promote", version, based_on=newest, reason="first model, without training")
    write_catalogue(lake)
    return version


def new_network(choice: ModelChoice) -> tuple[PolarityNetwork, Preprocessing]:
    """A network with the chosen start; its head is random, seeded."""
    import torch

    from model.network import NetworkConfig, PolarityNetwork
    from model.weights import imagenet_weights, load_backbone

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(choice.seed)
        network = PolarityNetwork(NetworkConfig(backbone=choice.backbone or DEFAULT))
    spec = network.backbone_spec
    if choice.start == "imagenet":
        load_backbone(network.backbone, imagenet_weights(spec), spec)
    elif choice.start != "random":
        load_backbone(network.backbone, read_object(choice.start), spec)
    side = choice.image_size or spec.preprocessing.image_size
    return network, replace(spec.preprocessing, image_size=side)


def read_object(uri: str) -> bytes:
    """One file or object by its path or URI. Raises LakeError where there is none."""
    if uri.startswith("file://"):
        uri = unquote(uri.removeprefix("file://"))
    elif not uri.startswith("s3://"):
        uri = str(Path(uri).expanduser().absolute())
    folder, _, name = uri.rpartition("/")
    try:
        # Nothing but the one object is asked for: its neighbours may be none of ours to list.
        return open_store(folder or "/", check=False).get(name)
    except ObjectNotFound as error:
        raise LakeError(f"{uri} does not exist") from error
