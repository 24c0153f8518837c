"""Properties of equations (1) to (9), (12) and (13), one or more a row of docs/model.md."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import resnet

from model.backbones.resnet import Bottleneck
from model.errors import ModelError, UnfitPicture
from model.losses import LossWeights, polarity_loss
from model.network import (
    NEGATIVE,
    POSITIVE,
    BranchOutput,
    EmotionFeatureFusion,
    NetworkConfig,
    PolarityIntensityPerception,
    PolarityNetwork,
    pool,
    probabilities,
    start_attention,
)

SMALL = NetworkConfig(backbone="resnet18", channels=32, reduction=4)


@pytest.fixture(scope="module")
def network() -> PolarityNetwork:
    """In evaluation mode, its attention switched on as training would."""
    torch.manual_seed(0)
    network = PolarityNetwork(SMALL).eval()
    for branch in (network.negative, network.positive):
        torch.nn.init.ones_(branch.attention_norm.weight)
    return network


@pytest.fixture
def branch() -> PolarityIntensityPerception:
    torch.manual_seed(1)
    branch = PolarityIntensityPerception(24, 16, 4).eval()
    torch.nn.init.ones_(branch.attention_norm.weight)
    return branch


def maps(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pictures(count: int = 2, side: int = 32, seed: int = 3) -> Tensor:
    return maps(count, 3, side, side, seed=seed)


# The backbone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101"])
def test_the_backbone_has_torchvisions_names_and_no_classifier(name: str) -> None:
    with torch.device("meta"):
        network = PolarityNetwork(NetworkConfig(backbone=name))
        whole = getattr(resnet, name)(weights=None).state_dict()
    expected = {key: tensor.shape for key, tensor in whole.items() if not key.startswith("fc.")}
    assert {key: tensor.shape for key, tensor in network.backbone.state_dict().items()} == expected


def test_the_backbone_of_the_paper_has_33_bottlenecks_and_2048_channels() -> None:
    with torch.device("meta"):
        network = PolarityNetwork(NetworkConfig(backbone="resnet101"))
    assert sum(isinstance(module, Bottleneck) for module in network.modules()) == 33
    assert network.embedding_size == 2048


def test_the_backbone_computes_what_torchvision_computes(network: PolarityNetwork) -> None:
    whole = resnet.resnet18(weights=None).eval()
    whole.load_state_dict(network.backbone.state_dict(), strict=False)
    whole.fc = torch.nn.Identity()
    batch = pictures(side=64)
    torch.testing.assert_close(pool(network.backbone(batch)), whole(batch))


# The whole ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (64, 96)])
def test_any_picture_of_at_least_32_pixels_goes_in(network: PolarityNetwork, height: int, width: int) -> None:
    output = network(maps(2, 3, height, width))
    assert [tuple(t.shape) for t in output[:4]] == [(2, 2), (2, 2), (2, 2), (2, 512)]
    assert tuple(output.attention.shape) == (2, 2, -(-height // 32), -(-width // 32))


def test_a_picture_of_31_pixels_is_refused(network: PolarityNetwork) -> None:
    with pytest.raises(UnfitPicture, match="32×32 pixels, found 31×64"):
        network(maps(1, 3, 31, 64))


def test_the_branches_share_no_parameter(network: PolarityNetwork) -> None:
    negative, positive = ({p.data_ptr() for p in b.parameters()} for b in (network.negative, network.positive))
    assert not negative & positive


@pytest.mark.parametrize(("trained", "other", "column"), [("positive", "negative", 1), ("negative", "positive", 0)])
def test_one_branchs_scores_leave_the_other_branch_without_gradient(
    network: PolarityNetwork, trained: str, other: str, column: int
) -> None:
    fresh = copy.deepcopy(network)
    output = fresh(pictures())
    (output.branch_scores[:, column] + output.intensities[:, column]).sum().backward()
    assert not any(p.grad.any() for p in getattr(fresh, other).parameters() if p.grad is not None)
    assert getattr(fresh, trained).adjust.weight.grad.abs().sum() > 0


def test_the_columns_are_negative_then_positive(network: PolarityNetwork) -> None:
    batch = pictures()
    output, features = network(batch), network.backbone(batch)
    negative, positive = network.negative(features), network.positive(features)
    torch.testing.assert_close(output.branch_scores, torch.stack([negative.score, positive.score], dim=1))
    torch.testing.assert_close(output.intensities[:, POSITIVE], positive.intensity.sigmoid())
    torch.testing.assert_close(output.attention[:, NEGATIVE], negative.attention[:, 0])


def test_an_untrained_heads_embedding_is_the_backbones_own() -> None:
    torch.manual_seed(4)
    network = PolarityNetwork(SMALL).eval()
    batch = pictures(side=64)
    torch.testing.assert_close(network(batch).embedding, F.normalize(pool(network.backbone(batch)), dim=1))


def test_the_embedding_has_unit_norm_so_both_distances_rank_alike(network: PolarityNetwork) -> None:
    embedding = network(pictures(count=6)).embedding
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(6))
    euclidean, cosine = torch.cdist(embedding, embedding), 1 - embedding @ embedding.T
    torch.testing.assert_close(euclidean[0, 1:] ** 2, 2 * cosine[0, 1:], rtol=1e-3, atol=1e-5)


# One branch -----------------------------------------------------------------------------------------------


def test_equation_1_pooling_a_constant_map_gives_its_value() -> None:
    torch.testing.assert_close(pool(torch.full((2, 5, 7, 7), 0.3)), torch.full((2, 5), 0.3))


def test_equations_2_and_5_do_not_depend_on_where_things_are(branch: PolarityIntensityPerception) -> None:
    features = maps(3, 24, 4, 4)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(5))
    shuffled = features.flatten(2)[:, :, order].reshape(3, 24, 4, 4)
    straight, moved = branch(features), branch(shuffled)
    torch.testing.assert_close(moved.score, straight.score)
    torch.testing.assert_close(moved.intensity, straight.intensity)
    torch.testing.assert_close(moved.attention.flatten(1), straight.attention.flatten(1)[:, order])


def test_equation_3_channel_attention_is_between_0_and_1(branch: PolarityIntensityPerception) -> None:
    weights = branch.channel_attention(maps(8, 16))
    assert bool(((weights > 0) & (weights < 1)).all())


def test_equation_4_is_the_attended_sum_over_channels(branch: PolarityIntensityPerception) -> None:
    features = maps(2, 24, 3, 5)
    adjusted = branch.adjust(features)
    weights = branch.channel_attention(adjusted.mean(dim=(2, 3)))
    summed = torch.zeros(2, 3, 5)
    for picture in range(2):
        for channel in range(16):
            summed[picture] += weights[picture, channel] * adjusted[picture, channel]
    expected = summed / (1 + branch.attention_norm.eps) ** 0.5  # running mean 0, variance 1
    torch.testing.assert_close(branch(features).attention[:, 0], expected)


def test_equation_4_does_not_depend_on_the_order_of_channels(branch: PolarityIntensityPerception) -> None:
    features, order = maps(2, 24, 3, 3), torch.randperm(16, generator=torch.Generator().manual_seed(6))
    permuted = copy.deepcopy(branch)
    for name in ("adjust.weight", "adjust.bias", "channel_attention.2.weight", "channel_attention.2.bias"):
        permuted.get_parameter(name).data = branch.get_parameter(name).data[order]
    for name in ("channel_attention.0.weight", "intensity.0.weight"):
        permuted.get_parameter(name).data = branch.get_parameter(name).data[:, order]
    for found, expected in zip(permuted(features), branch(features), strict=True):
        torch.testing.assert_close(found, expected)


def test_equations_12_and_13_one_spiked_channel_moves_the_score_by_spike_over_n() -> None:
    branch = PolarityIntensityPerception(16, 16, 4).eval()
    branch.adjust.weight.data = torch.eye(16)[:, :, None, None]
    torch.nn.init.zeros_(branch.adjust.bias)  # type: ignore[arg-type]
    features = torch.zeros(1, 16, 4, 4)
    flat: BranchOutput = branch(features)
    features[0, 7, 2, 3] = 8.0
    torch.testing.assert_close(branch(features).score - flat.score, torch.tensor([8.0 / 16]))


# Fusion ---------------------------------------------------------------------------------------------------


def test_equation_7_intensities_are_independent_of_each_other(network: PolarityNetwork) -> None:
    louder = copy.deepcopy(network)
    torch.nn.init.constant_(louder.positive.get_parameter("intensity.2.bias"), 5.0)
    batch = pictures(count=5)
    before, after = network(batch).intensities, louder(batch).intensities
    torch.testing.assert_close(after[:, NEGATIVE], before[:, NEGATIVE])
    assert bool((after[:, POSITIVE] > before[:, POSITIVE]).all())
    difference = after[:, POSITIVE] - after[:, NEGATIVE]
    assert bool(((difference > -1) & (difference < 1)).all())


@pytest.mark.parametrize(("level", "factor"), [(-100.0, 1.0), (0.0, 1.5), (100.0, 2.0)])
def test_equation_8_goes_from_g_to_twice_g(level: float, factor: float) -> None:
    features = maps(2, 8, 3, 3)
    fused = EmotionFeatureFusion(8).fuse(features, torch.full((2, 2, 3, 3), level))
    torch.testing.assert_close(fused, factor * features)


def test_equation_9_probabilities_sum_to_1(network: PolarityNetwork) -> None:
    torch.testing.assert_close(probabilities(network(pictures(count=5))).sum(dim=1), torch.ones(5))


def test_equation_9_a_higher_positive_intensity_raises_p_positive() -> None:
    torch.manual_seed(7)
    fusion, features, attention = EmotionFeatureFusion(8), maps(1, 8, 3, 3), maps(1, 2, 3, 3)
    raised = [fusion(features, attention, torch.tensor([[0.4, y]]))[0].softmax(dim=1)[0, 1] for y in (0.1, 0.5, 0.9)]
    assert raised[0] < raised[1] < raised[2]


# Configuration --------------------------------------------------------------------------------------------


def test_a_config_survives_its_dict() -> None:
    assert NetworkConfig.from_dict(SMALL.to_dict()) == SMALL


def test_unknown_settings_are_errors() -> None:
    with pytest.raises(TypeError, match="depth"):
        NetworkConfig.from_dict({"depth": 101})
    with pytest.raises(ModelError, match="resnet34"):
        PolarityNetwork(NetworkConfig.from_dict({"backbone": "resnet34"}))


# Parts left out -------------------------------------------------------------------------------------------


def test_without_channel_attention_every_channel_counts_one() -> None:
    torch.manual_seed(7)
    branch = PolarityIntensityPerception(24, 16, 4, channel_attention=False).eval()
    torch.nn.init.ones_(branch.attention_norm.weight)
    features = maps(2, 24, 3, 5)
    expected = branch.adjust(features).sum(dim=1, keepdim=True) / (1 + branch.attention_norm.eps) ** 0.5
    torch.testing.assert_close(branch(features).attention, expected)


def test_without_spatial_attention_the_gate_is_one_half() -> None:
    features = maps(2, 24, 3, 5)
    fused = EmotionFeatureFusion(24, spatial_attention=False).fuse(features, maps(2, 2, 3, 5))
    torch.testing.assert_close(fused, 1.5 * features)


def test_without_intensities_in_logits_equation_9_is_the_classifier_alone() -> None:
    torch.manual_seed(8)
    fusion, features, attention = (
        EmotionFeatureFusion(24, intensities_in_logits=False),
        maps(2, 24, 3, 5),
        maps(2, 2, 3, 5),
    )
    logits, _ = fusion(features, attention, maps(2, 2))
    torch.testing.assert_close(logits, fusion.classify(pool(fusion.fuse(features, attention))))


def test_a_plain_backbone_learns_from_the_class_alone() -> None:
    """Then the branches get no gradient."""
    torch.manual_seed(9)
    config = NetworkConfig("resnet18", 32, 4, spatial_attention=False, intensities_in_logits=False)
    network = PolarityNetwork(config)
    weights = LossWeights(perception=0.0, regression=0.0, smoothing=0.0)
    loss = polarity_loss(network(pictures(4)), torch.tensor([0, 1, 0, 1]), weights).total
    loss.backward()  # type: ignore[no-untyped-call]
    branches = [*network.negative.parameters(), *network.positive.parameters()]
    assert not any(p.grad.any() for p in branches if p.grad is not None)
    assert network.backbone.conv1.weight.grad.abs().sum() > 0  # type: ignore[union-attr,operator]


def test_attention_starts_at_the_scale_that_training_chooses(network: PolarityNetwork) -> None:
    fresh = copy.deepcopy(network)
    start_attention(fresh, 0.0)
    assert not fresh(pictures()).attention.any()
    start_attention(fresh)
    torch.testing.assert_close(fresh(pictures()).attention, network(pictures()).attention)
