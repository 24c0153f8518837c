"""Networks of the lake ready to answer, resident in this process."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from lake.errors import LakeError
from lake.lake import Lake
from lake.versions import Versions
from tasks.looks import WEIGHTS, load_look, read_look
from tasks.models import load_network, read_card

if TYPE_CHECKING:
    from model.choices import ScoringPrecision
    from model.predict import Predictor

_loading = threading.Lock()
_resident: dict[tuple[str, str, str, str], Predictor] = {}


def predictor(
    lake: Lake,
    device: str,
    precision: ScoringPrecision = "auto",
    *,
    look_version: int | None = None,
    model_version: int | None = None,
) -> Predictor:
    """A look, a model of polarity, or both on one trunk, ready on the device; one such set stays in this process.

    Of several GPUs `cuda:1` is the second. Raises LakeError for a look and a model on different trunks.
    """
    from model.devices import choose_device

    there = choose_device(device)
    # By content: a lake may be made anew at the same place.
    contents = _content(lake.looks, look_version), _content(lake.models, model_version)
    key = (*contents, str(there), precision)
    with _loading:
        if key not in _resident:
            for other in [other for other in _resident if other[:2] != contents]:
                del _resident[other]
            _resident[key] = _load(lake, look_version, model_version, str(there), precision)
        return _resident[key]


def share_trunk(lake: Lake, look_version: int, model_version: int) -> bool:
    """Whether one forward pass answers for both: equal weights of the backbone, equal preprocessing."""
    look, model = lake.looks.manifest(look_version).properties, lake.models.manifest(model_version).properties
    return all(look[name] == model[name] for name in ("trunk", "preprocessing"))


def usable_devices(device: str) -> list[str]:
    """What `auto` or a kind of device comes to on this machine: every GPU that there is, or the one device."""
    import torch

    from model.devices import choose_device

    chosen = choose_device(device)
    if chosen.type == "cuda" and chosen.index is None:
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [str(chosen)]


def _load(
    lake: Lake, look_version: int | None, model_version: int | None, device: str, precision: ScoringPrecision
) -> Predictor:
    from model.calibration import UNCALIBRATED
    from model.predict import Predictor

    look_card = None if look_version is None else read_look(lake, look_version)
    model_card = None if model_version is None else read_card(lake, model_version)
    look = None if look_card is None else load_look(lake, look_card)
    network = None if model_card is None else load_network(lake, model_card)
    if look_card is None or look is None:
        if model_card is None:
            raise ValueError("expected a look, a model or both, found neither")
        calibration = model_card.calibration
        return Predictor(network, model_card.preprocessing, device, precision=precision, calibration=calibration)
    if model_card is not None and network is not None:
        if (model_card.trunk, model_card.preprocessing) != (look_card.trunk, look_card.preprocessing):
            raise LakeError(f"look {look_version} and model {model_version} stand on different trunks")
        network.backbone = look.backbone  # once in memory
    calibration = UNCALIBRATED if model_card is None else model_card.calibration
    preprocessing = look_card.preprocessing
    return Predictor(network, preprocessing, device, look=look, precision=precision, calibration=calibration)


def _content(versions: Versions, version: int | None) -> str:
    """The weights' and, of a model, the calibration's name: what a resident predictor is known by."""
    if version is None:
        return ""
    manifest = versions.manifest(version)
    weights = next(file.sha256 for file in manifest.files if file.name == WEIGHTS)
    return f"{weights} {manifest.properties.get('calibration')}"
