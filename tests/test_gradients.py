"""Every gradient of the head and its losses in float64, against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from model.backbones.registry import BACKBONES
from model.backbones.spec import BackboneSpec
from model.losses import LossWeights, polarity_loss
from model.network import NetworkConfig, PolarityNetwork

LABELS = torch.tensor([0, 1, 1])
SAMPLE_WEIGHTS = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)


@pytest.fixture(autouse=True)
def one_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backbone of 6 channels and 3×3 positions."""
    spec = BackboneSpec("one-convolution", lambda: nn.Conv2d(3, 6, kernel_size=1, stride=12), 6, stages=(("",),))
    monkeypatch.setitem(BACKBONES, spec.name, spec)


def small_head() -> PolarityNetwork:
    """The whole network over one convolution, its attention switched on."""
    torch.manual_seed(0)
    network = PolarityNetwork(NetworkConfig("one-convolution", channels=4, reduction=2))
    for branch in (network.negative, network.positive):
        nn.init.normal_(branch.attention_norm.weight)
    return network.double()


@pytest.mark.parametrize("part", ["total", "perception", "fusion", "regression"])
@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_of_every_parameter_is_the_derivative(training: bool, part: str) -> None:
    network = small_head().train(training)
    pictures = torch.randn(3, 3, 36, 36, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    names = [name for name, _ in network.named_parameters()]
    # ε = 0: finite differences would move the target of (16), which gradients must hold still.
    weights = LossWeights(regression=0.7, fusion=1.3, smoothing=0.0)

    def loss(*parameters: Tensor) -> Tensor:
        output = functional_call(network, dict(zip(names, parameters, strict=True)), (pictures,))
        found: Tensor = getattr(polarity_loss(output, LABELS, weights, SAMPLE_WEIGHTS), part)
        return found

    assert torch.autograd.gradcheck(loss, tuple(network.parameters()))


def test_the_gradient_of_every_output_is_the_derivative() -> None:
    network = small_head()
    pictures = torch.randn(2, 3, 36, 36, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    names = [name for name, _ in network.named_parameters()]

    def outputs(*parameters: Tensor) -> Tensor:
        found = functional_call(network, dict(zip(names, parameters, strict=True)), (pictures,))
        return torch.cat([part.flatten() for part in found])

    assert torch.autograd.gradcheck(outputs, tuple(network.parameters()))
