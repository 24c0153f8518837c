"""A backbone is an entry of the registry: two that the product does not know are trained, folded, loaded like ours."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass
from safetensors.torch import save
from torch import Tensor, nn
from torchvision.models import convnext_tiny, mobilenet_v3_small

from model.backbones.efficientnet_lite import EFFICIENTNET_LITE0
from model.backbones.names import BUNDLED, DEFAULT, NAMES
from model.backbones.registry import BACKBONES
from model.backbones.resnet import RESNETS
from model.backbones.spec import BackboneSpec, PublishedWeights
from model.errors import ModelError, UnfitPicture, WeightsMismatch
from model.folding import fold_batchnorms
from model.network import NetworkConfig, PolarityNetwork
from model.predict import Predictor
from model.preprocessing import Preprocessing
from model.recipe import TrainingConfig
from model.training import train
from model.weights import imagenet_weights, load_backbone
from tasks.config import ModelChoice
from tasks.looks import new_backbone, new_look
from tests.training_run import bright_or_dark

OURS = (EFFICIENTNET_LITE0, *RESNETS)
PREPROCESSING = Preprocessing(64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bilinear")


def published_mobilenet() -> Mapping[str, Tensor]:
    """What stands for a download: the whole classifier's weights, under torchvision's names."""
    torch.manual_seed(11)
    return dict(mobilenet_v3_small(weights=None).state_dict())


MOBILENET = BackboneSpec(
    name="mobilenet_v3_small",
    build=lambda: mobilenet_v3_small(weights=None).features,
    channels=576,
    stages=(("0.", "1."), ("2.", "3."), ("4.", "5.", "6.", "7.", "8."), ("9.", "10.", "11.", "12.")),
    preprocessing=PREPROCESSING,
    imagenet=PublishedWeights("MobileNet_V3_Small_Weights.IMAGENET1K_V1", published_mobilenet),
)
CONVNEXT = BackboneSpec(
    name="convnext_tiny",
    build=lambda: convnext_tiny(weights=None).features,
    channels=768,
    stages=(("0.", "1."), ("2.", "3."), ("4.", "5."), ("6.", "7.")),
    preprocessing=PREPROCESSING,
)


@dataclass(frozen=True, kw_only=True)
class AnyModelChoice(ModelChoice):
    """A choice among the registered backbones, not only among those that a command line may ask for."""

    backbone: str | None = None


BOTH = pytest.mark.parametrize("spec", [MOBILENET, CONVNEXT], ids=lambda spec: spec.name)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for spec in (MOBILENET, CONVNEXT):
        monkeypatch.setitem(BACKBONES, spec.name, spec)


def over(spec: BackboneSpec) -> PolarityNetwork:
    """The polarity network over this backbone, its BatchNorms as if they had seen something."""
    random = torch.Generator().manual_seed(5)
    torch.manual_seed(5)
    network = PolarityNetwork(NetworkConfig(spec.name, channels=32, reduction=4))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features, generator=random) * 0.1
            module.running_var = torch.rand(module.num_features, generator=random) + 0.5
            nn.init.uniform_(module.weight, 0.7, 1.1, generator=random)
    return network.eval()


def pictures(count: int, side: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, 3, side, side), np.uint8)


@BOTH
@torch.no_grad()
def test_the_network_stands_on_the_backbones_maps(spec: BackboneSpec) -> None:
    network = over(spec)
    batch = torch.rand(2, 3, 64, 96)
    output = network(batch)
    assert tuple(output.embedding.shape) == (2, spec.channels) and network.embedding_size == spec.channels
    assert output.attention.shape[2:] == network.backbone(batch).shape[2:] == (2, 3)


@BOTH
def test_each_stage_takes_its_first_step_at_its_own_rate(spec: BackboneSpec) -> None:
    """Adam's first step moves a parameter by its learning rate, wherever its gradient is far above ε."""
    network = over(spec)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    config = TrainingConfig(
        epochs=1, batch_size=8, head_rate=4e-3, backbone_rate=2e-3, layer_decay=0.5, weight_decay=0.0,
        precision="float32",
    )  # fmt: skip
    train(network, bright_or_dark(8), config)
    largest: dict[str, float] = {}
    for name, parameter in network.named_parameters():
        part, _, rest = name.partition(".")
        stage = str(spec.stage_of(rest)) if part == "backbone" else "head"
        moved = float((parameter.detach() - before[name]).abs().max())
        largest[stage] = max(moved, largest.get(stage, 0.0))
    expected = {"0": 0.25e-3, "1": 0.5e-3, "2": 1e-3, "3": 2e-3, "head": 4e-3}
    assert largest == pytest.approx(expected, rel=0.02)


@BOTH
def test_a_network_made_ready_to_score_answers_as_the_network_itself(spec: BackboneSpec) -> None:
    network, batch = over(spec), pictures(6, PREPROCESSING.image_size)
    predictions = Predictor(network, PREPROCESSING).predict(batch)
    with torch.no_grad():
        output = network(PREPROCESSING.normalise(torch.from_numpy(batch)))
    np.testing.assert_allclose(predictions.polarity, output.logits.softmax(1)[:, 1].numpy(), atol=1e-4)
    np.testing.assert_allclose(predictions.embedding, output.embedding.numpy(), atol=1e-4)


def test_folding_takes_every_batchnorm_out_of_a_mobilenet() -> None:
    backbone = over(MOBILENET).backbone
    assert any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fold_batchnorms(backbone).modules())


@pytest.mark.parametrize("as_bytes", [True, False])
def test_published_weights_go_in_without_prefix_and_classifier(as_bytes: bool) -> None:
    published = imagenet_weights(MOBILENET)
    extractor = MOBILENET.build()
    load_backbone(extractor, save(dict(published)) if as_bytes else published, MOBILENET)
    for name, tensor in extractor.state_dict().items():
        assert torch.equal(tensor, published[f"features.{name}"])
    with pytest.raises(WeightsMismatch, match=r"convnext_tiny: .* missing"):
        load_backbone(CONVNEXT.build(), published, CONVNEXT)


def test_a_new_model_has_its_backbones_weights_and_preprocessing() -> None:
    choice = AnyModelChoice(backbone=MOBILENET.name, weights="imagenet")
    backbone, spec, preprocessing, adapted = new_backbone(choice)
    assert (spec, preprocessing) == (MOBILENET, PREPROCESSING)
    assert "prefix 'features.' left out; 4 other tensors left out" in adapted
    first = published_mobilenet()["features.0.0.weight"]
    assert torch.equal(backbone.state_dict()["0.0.weight"], first)
    look, same, _ = new_look(choice)
    assert torch.equal(look.backbone.state_dict()["0.0.weight"], first) and same == PREPROCESSING
    _, larger, _ = new_look(AnyModelChoice(backbone=MOBILENET.name, image_size=96, weights="random"))
    assert larger.image_size == 96 and larger.mean == PREPROCESSING.mean


def test_a_backbone_without_published_weights_says_what_to_start_from() -> None:
    with pytest.raises(ModelError, match=r"convnext_tiny has no ImageNet weights .* --weights random"):
        imagenet_weights(CONVNEXT)


def test_a_parameter_that_no_stage_names_is_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"convnext_tiny: expected a stage for every parameter, found none for head\.w"
    ):
        CONVNEXT.stage_of("head.w")


def test_a_picture_smaller_than_the_backbone_takes_is_refused() -> None:
    with pytest.raises(UnfitPicture, match="expected at least 32×32 pixels, found 31×40: take 40"):
        over(MOBILENET)(torch.rand(1, 3, 31, 40))


@pytest.mark.parametrize("spec", OURS, ids=lambda spec: spec.name)
def test_our_entries_are_true_of_what_they_build(spec: BackboneSpec) -> None:
    assert BACKBONES[spec.name] is spec
    with torch.device("meta"):
        extractor = spec.build()
        maps = extractor(torch.empty(1, 3, 64, 96))
    assert tuple(maps.shape) == (1, spec.channels, 2, 3)
    stages = [spec.stage_of(name) for name, _ in extractor.named_parameters()]
    assert stages == sorted(stages) and set(stages) == set(range(len(spec.stages)))


def test_the_names_that_flows_and_commands_offer_are_our_entries() -> None:
    assert [spec.name for spec in OURS] == list(NAMES) and DEFAULT in NAMES
    assert {spec.name for spec in OURS if spec.bundled} == BUNDLED
