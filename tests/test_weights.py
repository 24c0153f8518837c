"""Weights come back as they were, or not at all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torchvision.models import resnet

from model.backbones.registry import BACKBONES
from model.errors import ModelError, WeightsMismatch
from model.network import NetworkConfig, PolarityNetwork
from model.weights import Undrawn, dump_weights, imagenet_weights, load_backbone, load_weights

RESNET18 = BACKBONES["resnet18"]
SMALL = NetworkConfig(backbone="resnet18", channels=16, reduction=4)


def network(seed: int, config: NetworkConfig = SMALL) -> PolarityNetwork:
    torch.manual_seed(seed)
    return PolarityNetwork(config)


def same(one: PolarityNetwork, other: PolarityNetwork) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


DUMPED = dump_weights(network(0))


def test_weights_come_back_bit_for_bit() -> None:
    receiver = network(1)
    assert not same(receiver, network(0))
    load_weights(receiver, DUMPED)
    assert same(receiver, network(0))


def test_a_network_that_is_to_be_loaded_draws_nothing_and_is_whole_once_it_is() -> None:
    written = dump_weights(PolarityNetwork(NetworkConfig(backbone="resnet18")))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    with Undrawn():
        network = PolarityNetwork(NetworkConfig(backbone="resnet18"))
    load_weights(network, written)
    assert torch.equal(torch.rand(1), expected)
    assert dump_weights(network) == written


def test_the_same_weights_are_the_same_bytes() -> None:
    channels_last = network(0).to(memory_format=torch.channels_last)
    assert dump_weights(network(0)) == DUMPED == dump_weights(channels_last)


def test_weights_of_another_shape_are_refused_by_name_and_count() -> None:
    receiver = network(1)
    with pytest.raises(WeightsMismatch, match=r"12 of another shape: .*expected \(32.*found \(16.*, …"):
        load_weights(network(1, NetworkConfig("resnet18", channels=32, reduction=8)), DUMPED)
    assert same(receiver, network(1))


def test_missing_and_unexpected_names_are_refused_and_nothing_is_loaded() -> None:
    state = network(0).state_dict()
    state["fusion.classify.scale"] = state.pop("fusion.classify.bias")
    receiver = network(1)
    expected = "1 missing: fusion.classify.bias; 1 unexpected: fusion.classify.scale"
    with pytest.raises(WeightsMismatch, match=re.escape(expected)):
        load_weights(receiver, save(state))
    assert same(receiver, network(1))


@settings(max_examples=25)
@given(cut=st.integers(0, len(DUMPED) - 1))
def test_a_file_cut_short_is_a_clear_error(cut: int) -> None:
    with pytest.raises(WeightsMismatch, match="expected a safetensors file"):
        load_weights(NETWORK, DUMPED[:cut])


NETWORK = network(1)


@pytest.mark.parametrize("data", [b"", b"\x80\x04\x95 a pickle", b"not weights" * 100, b"\xff" * 64])
def test_other_bytes_are_a_clear_error(data: bytes) -> None:
    with pytest.raises(WeightsMismatch, match=f"found {len(data)} bytes"):
        load_weights(NETWORK, data)


@pytest.mark.parametrize("as_bytes", [True, False])
def test_a_torchvision_resnet_becomes_the_backbone_without_its_classifier(as_bytes: bool) -> None:
    torch.manual_seed(3)
    whole = resnet.resnet18(weights=None)
    receiver = network(1)
    load_backbone(receiver.backbone, save(whole.state_dict()) if as_bytes else whole.state_dict(), RESNET18)
    for name, tensor in receiver.backbone.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name])


def test_another_resnet_is_not_this_backbone() -> None:
    with torch.device("meta"):
        other = resnet.resnet50(weights=None).state_dict()
    with pytest.raises(WeightsMismatch, match=r"unexpected: layer1\.0\.bn3\.bias"):
        load_backbone(network(1).backbone, other, RESNET18)


def test_a_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    with pytest.raises(ModelError, match=r"ResNet18_Weights.IMAGENET1K_V1.*(?s:.*)--weights resnet18.safetensors"):
        imagenet_weights(RESNET18)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_neither_written_nor_read(value: float) -> None:
    broken = network(2)
    with torch.no_grad():
        next(iter(broken.parameters())).view(-1)[3] = value
    with pytest.raises(WeightsMismatch, match=r"expected finite weights, found others in 1 tensors: backbone"):
        dump_weights(broken)
    receiver = network(1)
    with pytest.raises(WeightsMismatch, match="expected finite weights"):
        load_weights(receiver, save(broken.state_dict()))
    assert same(receiver, network(1))


def test_wrapped_weights_without_counters_become_the_backbone() -> None:
    torch.manual_seed(3)
    whole = resnet.resnet18(weights=None).state_dict()
    wrapped = {f"module.{name}": value for name, value in whole.items() if not name.endswith("num_batches_tracked")}
    receiver = network(1)
    adapted = load_backbone(receiver.backbone, save(wrapped), RESNET18)
    assert "prefix 'module.' left out" in adapted and "BatchNorm counters left at 0" in adapted
    for name, tensor in receiver.backbone.state_dict().items():
        assert torch.equal(tensor, whole[name])
