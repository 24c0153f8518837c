"""Polarity models in the lake: what a version holds, how it is written, how its network is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING, Any

from lake.errors import LakeError
from lake.lake import Lake
from lake.versions import Draft
from tasks.looks import WEIGHTS

if TYPE_CHECKING:
    from model.calibration import Calibration
    from model.network import NetworkConfig, PolarityNetwork
    from model.preprocessing import Preprocessing

HELD_OUT = "held-out.parquet"  # in a model version: what it, and the incumbent, said of the held-out pictures


@dataclass(frozen=True)
class ModelCard:
    """What the manifest of a model version says."""

    version: int
    network: NetworkConfig
    preprocessing: Preprocessing
    trunk: str
    """The fingerprint of its backbone's weights."""
    properties: Mapping[str, Any] = field(default_factory=dict)

    @property
    def calibration(self) -> Calibration:
        """What makes served polarities of its log-odds."""
        from model.calibration import UNCALIBRATED, Calibration

        found = self.properties.get("calibration")
        return UNCALIBRATED if found is None else Calibration.from_dict(found)


def require_model(lake: Lake) -> int:
    """The promoted model's version. Raises LakeError where none was trained yet."""
    version = lake.models.current()
    if version is None:
        raise LakeError("the lake has no model of polarity yet: `vitrine retrain LABELS` trains one")
    return version


def read_card(lake: Lake, version: int) -> ModelCard:
    """The model version's manifest as our types. Raises UnknownVersion."""
    from model.network import NetworkConfig
    from model.preprocessing import Preprocessing

    properties = lake.models.manifest(version).properties
    return ModelCard(
        version=version,
        network=NetworkConfig.from_dict(properties["network"]),
        preprocessing=Preprocessing.from_dict(properties["preprocessing"]),
        trunk=properties["trunk"],
        properties=properties,
    )


def load_network(lake: Lake, card: ModelCard) -> PolarityNetwork:
    """The version's network with its weights, verified, on the CPU."""
    from model.network import PolarityNetwork
    from model.weights import Undrawn, load_weights

    with Undrawn():
        network = PolarityNetwork(card.network)
    load_weights(network, lake.models.read(card.version, WEIGHTS))
    return network


def seal_model(
    draft: Draft,
    network: PolarityNetwork,
    preprocessing: Preprocessing,
    *,
    properties: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Write the weights, other files and the manifest of a drafted model version."""
    from model.checkpoints import weights_fingerprint
    from model.network import CLASSES
    from model.weights import dump_weights

    draft.add(WEIGHTS, dump_weights(network))
    for name, data in (files or {}).items():
        draft.add(name, data)
    draft.seal(
        {
            "network": network.config.to_dict(),
            "preprocessing": preprocessing.to_dict(),
            "classes": list(CLASSES),
            "trunk": weights_fingerprint(network.backbone),
            "vitrine_version": package_version("vitrine"),
        }
        | dict(properties)
    )
