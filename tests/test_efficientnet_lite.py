"""Our EfficientNet-Lite0 against timm's: with one set of weights the same maps, whatever the pictures' size."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from model.backbones.efficientnet_lite import EFFICIENTNET_LITE0
from model.weights import bundled_weights, load_backbone


def theirs(ours: nn.Module) -> nn.Module:
    """timm's network with the tensors of ours: both register their layers in the order in which they run."""
    network = timm.create_model("tf_efficientnet_lite0", num_classes=0, global_pool="")
    pairs = zip(network.state_dict().items(), ours.state_dict().items(), strict=True)
    state: dict[str, Tensor] = {}
    for (name, expected), (own_name, tensor) in pairs:
        assert expected.shape == tensor.shape and name.rpartition(".")[2] == own_name.rpartition(".")[2]
        state[name] = tensor
    network.load_state_dict(state)
    return network.eval()


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    extractor = EFFICIENTNET_LITE0.build()
    load_backbone(extractor, bundled_weights(EFFICIENTNET_LITE0), EFFICIENTNET_LITE0)
    return extractor.eval()


@pytest.mark.parametrize(("height", "width"), [(224, 224), (64, 96), (75, 33), (1, 1)])
@torch.no_grad()
def test_its_maps_are_those_of_timms_network_with_the_same_weights(lite0: nn.Module, height: int, width: int) -> None:
    batch = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height))
    maps = lite0(batch)
    assert tuple(maps.shape) == (2, EFFICIENTNET_LITE0.channels, -(-height // 32), -(-width // 32))
    torch.testing.assert_close(maps, theirs(lite0)(batch), rtol=1e-4, atol=1e-4)


def test_its_bundled_weights_are_the_whole_extractor_and_finite() -> None:
    published = bundled_weights(EFFICIENTNET_LITE0)
    extractor = EFFICIENTNET_LITE0.build()
    assert {name for name in published if not name.startswith("_fc.")} == set(extractor.state_dict())
    assert all(bool(torch.isfinite(tensor).all()) for tensor in published.values())
