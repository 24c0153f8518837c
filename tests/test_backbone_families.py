"""One small member of each family of backbones: built, trained a step, saved, loaded, folded, scored, all alike."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import timm
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

from model.backbones.names import TIMM, TORCHVISION
from model.backbones.registry import find_backbone
from model.backbones.spec import BackboneSpec
from model.network import NetworkConfig, PolarityNetwork, start_attention
from model.predict import Predictor
from model.preprocessing import Preprocessing
from model.recipe import TrainingConfig
from model.training import train
from model.weights import bundled_weights, dump_weights, load_backbone, load_weights
from tests.training_run import Arrays

FAMILIES = [
    "efficientnet-lite0",
    "resnet18",
    *("torchvision/" + name for name in (
        "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v3_small", "regnet_y_400mf", "shufflenet_v2_x0_5",
        "squeezenet1_1",
        "swin_t",  # channels last
    )),
    *("timm/" + name for name in (
        "convnext_atto", "regnetx_002", "test_efficientnet",
        "test_vit",  # a class token
        "test_vit3",  # SigLIP's kind, pooled by attention; a register
    )),
]  # fmt: skip
LARGE = [
    *("torchvision/" + name for name in (
        "alexnet", "convnext_tiny", "densenet121", "inception_v3", "vgg11_bn", "vit_b_32",
    )),
    *("timm/" + name for name in (
        "swin_tiny_patch4_window7_224", "vit_base_patch16_siglip_224", "vit_small_patch14_dinov2",
        "vit_tiny_patch16_224",
    )),
]  # fmt: skip
COMPILED = ["efficientnet-lite0", "timm/test_vit"]


@dataclass(frozen=True)
class Member:
    """A family's member: its entry, the polarity network over it, and the smallest pictures that are worth it."""

    spec: BackboneSpec
    network: PolarityNetwork
    preprocessing: Preprocessing

    def pictures(self, count: int) -> NDArray[np.uint8]:
        side = self.preprocessing.image_size
        return np.random.default_rng(1).integers(0, 256, (count, 3, side, side), np.uint8)


def member(name: str) -> Member:
    """Its BatchNorms as if they had seen something; Lite0 with its real weights."""
    spec = find_backbone(name)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = PolarityNetwork(NetworkConfig(name, channels=16, reduction=4))
    if spec.bundled:
        load_backbone(network.backbone, bundled_weights(spec), spec)
    else:
        enliven(network.backbone)
    trained_with = spec.preprocessing
    side = spec.fitting_side(64)
    return Member(spec, network.eval(), Preprocessing(side, trained_with.mean, trained_with.std))


def enliven(backbone: nn.Module) -> None:
    random = torch.Generator().manual_seed(5)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.copy_(torch.randn(module.num_features, generator=random) * 0.1)
            module.running_var.copy_(torch.rand(module.num_features, generator=random) + 0.5)
            nn.init.uniform_(module.weight, 0.7, 1.1, generator=random)
            nn.init.uniform_(module.bias, -0.2, 0.2, generator=random)


@pytest.fixture(scope="module", params=[*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def family(request: pytest.FixtureRequest) -> Iterator[Member]:
    yield member(request.param)


@torch.no_grad()
def test_a_backbone_gives_maps_and_scores_when_folded_as_it_does_itself(family: Member) -> None:
    batch = family.pictures(3)
    normalised = family.preprocessing.normalise(torch.from_numpy(batch))
    maps = family.network.backbone(normalised)
    assert maps.shape[:2] == (3, family.spec.channels) and bool(torch.isfinite(maps).all())
    folded = family.spec.fold(family.network.backbone)
    torch.testing.assert_close(folded(normalised), maps, rtol=1e-3, atol=1e-4 * float(maps.abs().max()))
    found = Predictor(family.network, family.preprocessing).predict(batch)
    output = family.network(normalised)
    np.testing.assert_allclose(found.polarity, output.logits.softmax(1)[:, 1].numpy(), atol=1e-4)
    np.testing.assert_allclose(found.embedding, output.embedding.numpy(), atol=1e-4)


def test_every_parameter_of_a_backbone_is_in_a_stage_and_no_stage_is_empty(family: Member) -> None:
    stages = [family.spec.stage_of(name) for name, _ in family.network.backbone.named_parameters()]
    assert set(stages) == set(range(len(family.spec.stages))) and len(family.spec.stages) >= 3


@torch.no_grad()
def test_a_network_over_it_is_itself_again_after_saving_and_loading(family: Member) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(9)
        other = PolarityNetwork(family.network.config).eval()
    load_weights(other, dump_weights(family.network))
    side = family.preprocessing.image_size
    batch = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(other(batch).embedding, family.network(batch).embedding, rtol=1e-4, atol=1e-6)


def test_one_training_step_moves_its_first_and_its_last_stage(family: Member) -> None:
    trained = PolarityNetwork(family.network.config)
    load_weights(trained, dump_weights(family.network))
    start_attention(trained)
    examples = Arrays(family.pictures(4), np.array([0, 1, 0, 1]), np.ones(4, np.float32), family.preprocessing)
    train(trained, examples, TrainingConfig(epochs=1, batch_size=4, precision="float32", layer_decay=0.7))
    before = dict(family.network.backbone.named_parameters())
    moved = set()
    for name, parameter in trained.backbone.named_parameters():
        assert bool(torch.isfinite(parameter).all()), name
        if not torch.equal(parameter, before[name]):
            moved.add(family.spec.stage_of(name))
    assert moved >= {0, len(family.spec.stages) - 1}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch compiles with a C++ compiler")
@pytest.mark.filterwarnings("default")  # torch's own, while it compiles
@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_backbone_scores_as_it_does_itself(name: str) -> None:
    chosen = member(name)
    model, batch = Predictor(chosen.network, chosen.preprocessing), chosen.pictures(4)
    eager = model.predict(batch)
    model.compile(4)
    found = model.predict(batch)
    np.testing.assert_allclose(found.polarity, eager.polarity, atol=1e-4)
    np.testing.assert_allclose(found.embedding, eager.embedding, atol=1e-4)


# The maps are the library's own ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in [*FAMILIES, *LARGE]
     if name.startswith(TORCHVISION)],
)  # fmt: skip
@torch.no_grad()
def test_the_maps_are_what_torchvisions_network_hands_to_its_classifier(name: str) -> None:
    spec = find_backbone(name)
    side = 224 if "vit" in name else spec.fitting_side(96)
    options = {"init_weights": True} if name in {"torchvision/googlenet", "torchvision/inception_v3"} else {}
    whole = torchvision.models.get_model(name.removeprefix(TORCHVISION), weights=None, **options).eval()
    ours = spec.build().eval()
    load_backbone(ours, whole.state_dict(), spec)
    batch = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(3))
    handed: list[Tensor] = []
    tail = {"avgpool", "classifier", "fc", "head", "encoder"}
    for child_name, child in whole.named_children():
        if child_name in tail:
            child.register_forward_pre_hook(lambda _, args: handed.append(args[0].clone()))
            child.register_forward_hook(lambda _, args, out: handed.append(out.clone()))
    whole(batch)
    maps = ours(batch)
    forms = [maps, maps.mean((2, 3)), maps.flatten(2).mT]
    without_class_token = [each[:, 1:] for each in handed if each.ndim == 3]
    assert any(
        form.shape == each.shape and torch.allclose(form, each, rtol=1e-4, atol=1e-5)
        for form in forms
        for each in [*handed, *without_class_token]
    )


@pytest.mark.parametrize("name", ["test_vit", "test_vit3", "vit_small_patch14_dinov2"])
@torch.no_grad()
def test_tokens_become_maps_row_by_row_without_class_token_and_registers(name: str) -> None:
    spec = find_backbone(TIMM + name)
    ours = spec.build().eval()
    height, width = 3 * spec.divisor, 5 * spec.divisor
    batch = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(3))
    tokens = ours.get_submodule("network").forward_features(batch)  # type: ignore[operator]
    maps = ours(batch)
    assert maps.shape == (2, spec.channels, 3, 5)
    extra = tokens.shape[1] - 15
    assert extra == 1
    for row in range(3):
        for column in range(5):
            assert torch.equal(maps[:, :, row, column], tokens[:, extra + 5 * row + column])


@pytest.mark.parametrize("name", ["regnetx_002", pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow)])
@torch.no_grad()
def test_the_mean_of_the_maps_is_what_timm_pools(name: str) -> None:
    spec = find_backbone(TIMM + name)
    whole = timm.create_model(name, num_classes=0).eval()
    ours = spec.build().eval()
    load_backbone(ours, whole.state_dict(), spec)
    batch = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ours(batch).mean((2, 3)), whole(batch), rtol=1e-4, atol=1e-5)
