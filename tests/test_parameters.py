"""What a flow does where a run says nothing: the settings decide."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flows.parameters import RetrainParameters
from lake.lake import open_lake
from model.weights import dump_weights
from tasks.models import ModelChoice, init_model, new_network, read_card
from tasks.retrain import preparation


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backbone's weights, named by the settings."""
    network, _ = new_network(ModelChoice("resnet18", 64, "random", seed=11))
    path = tmp_path / "backbone.safetensors"
    path.write_bytes(dump_weights(network.backbone))
    monkeypatch.setenv("VITRINE_WEIGHTS", str(path))
    return str(path)


def test_a_first_training_starts_from_the_weights_of_the_settings(weights: str, tmp_path: Path) -> None:
    lake = open_lake(str(tmp_path / "lake"), create=True)
    choice = RetrainParameters(backbone="resnet18", image_size=64).retrain_config().start
    network, _, started_from = preparation._start(lake, None, choice)
    assert started_from == weights
    expected, _ = new_network(ModelChoice("resnet18", 64, weights))
    assert torch.equal(network.backbone.state_dict()["conv1.weight"], expected.backbone.state_dict()["conv1.weight"])


def test_what_the_current_model_started_from_comes_before_the_settings(weights: str, tmp_path: Path) -> None:
    uri = str(tmp_path / "lake")
    version = init_model(uri, ModelChoice("resnet18", 64, "random"))
    lake = open_lake(uri)
    choice = RetrainParameters().retrain_config().start
    assert choice.start == weights
    assert preparation._start(lake, read_card(lake, version), choice)[2] == "model 1"
    other = RetrainParameters(weights="random").retrain_config().start
    assert preparation._start(lake, read_card(lake, version), other)[2] == "random"
