"""Our ResNet against torchvision's: the same names, the same first weights from a seed, the same maps, bit for bit."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torchvision.models import resnet as torchvision_resnet

from model.backbones.registry import BACKBONES

NAMES = ["resnet18", "resnet50", "resnet101"]


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_torchvision_s_first_weights_under_its_names(name: str) -> None:
    torch.manual_seed(7)
    ours = BACKBONES[name].build().state_dict()
    after = torch.rand(1)
    torch.manual_seed(7)
    theirs = getattr(torchvision_resnet, name)(weights=None).state_dict()
    assert torch.equal(after, torch.rand(1))
    assert list(ours) == [key for key in theirs if not key.startswith("fc.")]
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_it_computes_what_torchvision_s_computes(name: str, training: bool) -> None:
    torch.manual_seed(0)
    ours, whole = BACKBONES[name].build(), getattr(torchvision_resnet, name)(weights=None)
    whole.load_state_dict(ours.state_dict(), strict=False)
    theirs = torch.nn.Sequential(*list(whole.children())[:-2])
    pictures = torch.rand(2, 3, 70, 64)
    assert torch.equal(ours.train(training)(pictures), theirs.train(training)(pictures))
    assert BACKBONES[name].channels == whole.fc.in_features
    gradients = []
    for network in (ours, theirs):
        network.zero_grad()
        network(pictures).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_scoring_imports_neither_torchvision_nor_the_compiler_nor_what_measures_a_model() -> None:
    program = """
import sys, numpy, torch
from model.network import NetworkConfig, PolarityNetwork
from model.predict import Predictor
from model.preprocessing import Preprocessing
network = PolarityNetwork(NetworkConfig("resnet18", channels=16, reduction=4))
Predictor(network, Preprocessing(32), torch.device("cpu")).predict(numpy.zeros((1, 3, 32, 32), numpy.uint8))
print(sorted({"torchvision", "torch._dynamo", "sklearn", "scipy"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[]\n"
