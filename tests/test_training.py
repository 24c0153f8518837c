"""Training learns, repeats bit for bit, and says so when it goes wrong."""

from __future__ import annotations

import functools
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from model.augmentation import augment
from model.averaging import WeightAverage
from model.errors import LabelsUnusable, TrainingDiverged, Undecodable
from model.examples import JpegExamples, Subset
from model.losses import LossWeights
from model.network import NetworkConfig, PolarityNetwork
from model.precision import autocast, native_bfloat16
from model.predict import Predictor
from model.recipe import TrainingConfig, parameter_groups, rate_share
from model.training import EpochReport, train
from model.weights import dump_weights
from tests.training_run import PREPROCESSING, Arrays, bright_or_dark, network

QUICK = TrainingConfig(epochs=2, batch_size=8)


def trained(examples: Arrays | Subset, config: TrainingConfig) -> PolarityNetwork:
    result = network()
    train(result, examples, config)
    return result


# Runs -----------------------------------------------------------------------------------------------------


def test_training_learns_what_pictures_never_seen_confirm() -> None:
    learned = trained(bright_or_dark(48), TrainingConfig(epochs=6, batch_size=8))
    fresh = bright_or_dark(32, seed=1)
    found = Predictor(learned, PREPROCESSING).predict(fresh.stored)
    assert np.mean(found.labels == fresh.labels) > 0.9
    gap = found.positive_intensity - found.negative_intensity
    assert gap[fresh.labels == 1].mean() > gap[fresh.labels == 0].mean()


@pytest.mark.parametrize("config", [QUICK, replace(QUICK, ema_decay=0.9, freeze_batchnorm=True)])
def test_the_same_run_twice_gives_the_same_weights_bit_for_bit(config: TrainingConfig) -> None:
    first, second = (dump_weights(trained(bright_or_dark(10), config)) for _ in range(2))
    assert first == second
    assert first != dump_weights(trained(bright_or_dark(10), replace(config, seed=1)))


def test_training_neither_reads_nor_writes_the_global_random_state() -> None:
    result, state = network(), torch.get_rng_state()
    train(result, bright_or_dark(12), QUICK)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_epoch_is_reported_and_its_parts_add_up() -> None:
    reports: list[EpochReport] = []
    weights = LossWeights(regression=0.5, fusion=2.0)
    train(network(), bright_or_dark(20), replace(QUICK, loss=weights), on_epoch=reports.append)
    assert [(r.epoch, r.epochs) for r in reports] == [(1, 2), (2, 2)]
    for report in reports:
        assert report.loss == pytest.approx(report.perception + 2 * report.fusion + 0.5 * report.regression)
        assert 0 <= report.accuracy <= 1 and report.pictures_per_second > 0


def test_the_network_is_left_ready_to_predict() -> None:
    assert not any(module.training for module in trained(bright_or_dark(12), QUICK).modules())


def test_pictures_of_no_weight_teach_nothing() -> None:
    examples = bright_or_dark(16)
    contradicted = replace(examples, labels=np.where(np.arange(16) < 8, examples.labels, 1 - examples.labels))
    weights = (np.arange(16) < 8).astype(np.float32)
    config = replace(QUICK, epochs=1, batch_size=16)
    one = trained(replace(examples, weights=weights), config)
    other = trained(replace(contradicted, weights=weights), config)
    assert dump_weights(one) == dump_weights(other)


def test_frozen_statistics_stay_and_others_move() -> None:
    for frozen in (True, False):
        result = trained(bright_or_dark(12), replace(QUICK, freeze_batchnorm=frozen))
        same = torch.equal(result.backbone.state_dict()["bn1.running_mean"], torch.zeros(16))
        assert same is frozen
        assert int(result.negative.attention_norm.num_batches_tracked) > 0  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [2, 3, 9, 17])
def test_any_number_of_pictures_trains(count: int) -> None:
    trained(bright_or_dark(count), replace(QUICK, epochs=1, batch_size=4))


def test_half_precision_trains_too() -> None:
    reports: list[EpochReport] = []
    config = replace(QUICK, epochs=1, precision="bfloat16")
    train(network(), bright_or_dark(12), config, on_epoch=reports.append)
    assert np.isfinite(reports[0].loss)


@pytest.mark.parametrize(("able", "native"), [({"amx_bf16": True}, True), ({"avx512_f": True}, False)])
def test_auto_is_bfloat16_only_where_the_processor_has_it(
    able: dict[str, bool], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    cpu = torch.device("cpu")
    assert native_bfloat16(cpu) is native
    with autocast(cpu, "auto"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if native else torch.float32)
    with autocast(cpu, "float32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_a_compiled_network_keeps_the_names_and_nearly_the_values_of_its_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The backend that compiles nothing: the test needs no C++ compiler, and the wrapping is the same.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    config = replace(QUICK, precision="float32")
    plain = trained(bright_or_dark(12), config).state_dict()
    compiled = trained(bright_or_dark(12), replace(config, compile=True)).state_dict()
    assert list(compiled) == list(plain)
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-3, atol=1e-4)


def test_divergence_stops_the_run_and_names_epoch_and_step() -> None:
    diverging = replace(QUICK, head_rate=1e30, backbone_rate=1e30, warmup_share=0.0)
    with pytest.raises(TrainingDiverged, match=r"at epoch 1, step 2.*lower head_rate"):
        train(network(), bright_or_dark(16), diverging)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (bright_or_dark(1), "at least 2 pictures .* found 1"),
        (replace(bright_or_dark(4), labels=np.array([0, 1, 2, 1])), "found also \\[2\\]"),
        (replace(bright_or_dark(4), weights=np.zeros(4, np.float32)), "expected weights"),
    ],
)
def test_examples_that_cannot_train_are_refused(examples: Arrays, message: str) -> None:
    with pytest.raises(LabelsUnusable, match=message):
        train(network(), examples, QUICK)


# Its parts ------------------------------------------------------------------------------------------------


def test_the_rate_rises_then_falls_and_is_never_0() -> None:
    shares = [rate_share(step, 100, 0.1) for step in range(100)]
    peak = shares.index(max(shares))
    assert peak == 10 and shares[peak] == 1.0
    assert shares[:11] == sorted(shares[:11]) and shares[10:] == sorted(shares[10:], reverse=True)
    assert 0 < min(shares) < 0.1
    assert rate_share(0, 1, 0.1) == 1.0


def test_every_parameter_is_in_one_group_with_its_rate_and_decay() -> None:
    config, built = TrainingConfig(head_rate=0.3, backbone_rate=0.2, weight_decay=0.1), network()
    groups = parameter_groups(built, config)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in built.parameters())
    backbone = {id(p) for p in built.backbone.parameters()}
    for group in groups:
        for parameter in group["params"]:
            assert group["highest_rate"] == (0.2 if id(parameter) in backbone else 0.3)
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)


def test_each_stage_of_the_backbone_learns_at_a_share_of_the_rate_above_it() -> None:
    config = TrainingConfig(head_rate=3.0, backbone_rate=1.0, layer_decay=0.5)
    built = PolarityNetwork(NetworkConfig(backbone="resnet18", channels=16, reduction=4))
    rates = {id(p): group["highest_rate"] for group in parameter_groups(built, config) for p in group["params"]}
    expected = {"conv1": 1 / 16, "bn1": 1 / 16, "layer1": 1 / 8, "layer2": 1 / 4, "layer3": 1 / 2, "layer4": 1.0}
    for name, parameter in built.named_parameters():
        part, stage = name.split(".")[:2]
        assert rates[id(parameter)] == (expected[stage] if part == "backbone" else 3.0)
    assert parameter_groups(built, config)[-1]["highest_rate"] == 3.0


def test_the_average_forgets_its_random_beginning() -> None:
    built = network()
    average = WeightAverage(built, decay=0.999)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.fill_(1.0)
    for step in range(1, 101):
        average.update(built, step)
    average.copy_to(built)
    assert all(bool((p - 1).abs().max() < 1e-3) for p in built.parameters())


def random_pictures(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()


def test_without_any_augmentation_pictures_stay() -> None:
    plain = TrainingConfig(flip=False, crop=0.0, colour_jitter=0.0)
    pictures = random_pictures(3)
    assert torch.equal(augment(pictures, plain, torch.Generator().manual_seed(0)), pictures.float())


def test_flipping_mirrors_about_half_of_the_pictures_exactly() -> None:
    config = TrainingConfig(flip=True, crop=0.0, colour_jitter=0.0)
    pictures = random_pictures(64)
    found = augment(pictures, config, torch.Generator().manual_seed(0))
    same = [torch.allclose(f, p.float(), atol=0.01) for f, p in zip(found, pictures, strict=True)]
    mirrored = [torch.allclose(f, p.float().flip(2), atol=0.01) for f, p in zip(found, pictures, strict=True)]
    assert all(one != other for one, other in zip(same, mirrored, strict=True))
    assert 16 < sum(mirrored) < 48


def test_crops_stay_inside_the_picture_and_keep_its_greys() -> None:
    ramp = torch.linspace(50, 200, 32).expand(16, 3, 32, 32).round().byte()
    config = TrainingConfig(flip=False, crop=0.3, colour_jitter=0.0)
    found = augment(ramp, config, torch.Generator().manual_seed(0))
    assert found.min() >= 50 and found.max() <= 200
    spans = found[:, 0, 0, -1] - found[:, 0, 0, 0]
    assert bool((spans > 0.65 * 150).all()) and spans.std() > 3


def test_colour_jitter_is_mild_and_keeps_the_hue_of_grey() -> None:
    grey = torch.full((16, 3, 32, 32), 128, dtype=torch.uint8)
    config = TrainingConfig(flip=False, crop=0.0, colour_jitter=0.03)
    found = augment(grey, config, torch.Generator().manual_seed(0))
    assert (found - 128).abs().max() <= 128 * 0.031 and found.std() > 0.5
    torch.testing.assert_close(found[:, 0], found[:, 2])


# Examples -------------------------------------------------------------------------------------------------


def jpeg(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (50, 40), (level, level, level)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("cache_bytes", [1 << 20, 0])
def test_jpeg_examples_are_their_pictures_in_any_order(cache_bytes: int) -> None:
    levels = np.array([10, 60, 110, 160, 210])
    examples = JpegExamples(
        [jpeg(level) for level in levels],
        np.array([0, 1, 0, 1, 0]),
        np.ones(5, np.float32),
        PREPROCESSING,
        threads=2,
        cache_bytes=cache_bytes,
    )
    for indices in ([4, 0], [1, 1, 3], [2, 0, 4]):
        pixels = examples.pixels(np.array(indices))
        assert pixels.shape == (len(indices), 3, 32, 32)
        np.testing.assert_allclose(pixels.mean(axis=(1, 2, 3)), levels[indices], atol=2)


def test_a_cached_picture_is_not_decoded_again() -> None:
    jpegs = [jpeg(10), jpeg(200)]
    examples = JpegExamples(jpegs, np.array([0, 1]), np.ones(2, np.float32), PREPROCESSING)
    first = examples.pixels(np.array([0, 1]))
    jpegs[:] = [b"", b""]
    np.testing.assert_array_equal(examples.pixels(np.array([0, 1])), first)


def test_an_undecodable_example_is_named() -> None:
    examples = JpegExamples([jpeg(10), b"not a picture"], np.array([0, 1]), np.ones(2, np.float32), PREPROCESSING)
    with pytest.raises(Undecodable, match="example 1: "):
        train(network(), examples, QUICK)


def test_a_subset_counts_within_itself() -> None:
    whole = bright_or_dark(10)
    part = Subset(whole, np.array([7, 2, 5]))
    assert len(part) == 3
    np.testing.assert_array_equal(part.labels, [1, 0, 1])
    np.testing.assert_array_equal(part.pixels(np.array([2, 0])), whole.stored[[5, 7]])


def test_a_choice_that_makes_no_sense_is_an_error_and_the_others_are_json() -> None:
    chosen = TrainingConfig(epochs=3, ema_decay=0.95, loss=LossWeights(smoothing=0.2), seed=4)
    fields = json.loads(json.dumps(chosen.to_dict()))
    assert fields["ema_decay"] == 0.95 and fields["loss"]["smoothing"] == 0.2
    with pytest.raises(ValueError, match="batch_size"):
        TrainingConfig(batch_size=1)
    with pytest.raises(ValueError, match="layer_decay"):
        TrainingConfig(layer_decay=0.0)
    with pytest.raises(ValueError, match="precision"):
        TrainingConfig(precision="float8")  # type: ignore[arg-type]
