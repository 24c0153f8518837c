"""Training on a frozen trunk's maps: the trunk stays as it is, the head is what training through it would give."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import model.training
from model.checkpoints import weights_fingerprint
from model.frozen import FrozenMaps, mirrored
from model.losses import polarity_loss
from model.network import PolarityNetwork, PolarityOutput
from model.predict import Predictor
from model.recipe import TrainingConfig, parameter_groups, rate_share
from model.training import EpochReport, train
from tests.test_checkpoints import Memory
from tests.training_run import PREPROCESSING, Arrays, bright_or_dark, network

CPU = torch.device("cpu")
PICTURES = 24
CONFIG = TrainingConfig(
    epochs=3, batch_size=8, freeze_backbone=True, flip=False, crop=0.0, colour_jitter=0.0, precision="float32"
)
STEPS = PICTURES // CONFIG.batch_size  # an epoch


def trained(config: TrainingConfig = CONFIG, examples: Arrays | None = None) -> PolarityNetwork:
    found = network()
    train(found, examples or bright_or_dark(PICTURES), config)
    return found


def head_of(found: PolarityNetwork) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in found.state_dict().items() if not name.startswith("backbone.")}


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    return weights_fingerprint(one) == weights_fingerprint(other)


def through_the_network(config: TrainingConfig, examples: Arrays) -> PolarityNetwork:
    """The same training, step by step, from pixels through the whole network without a gradient in its backbone."""
    found = network()
    found.backbone.requires_grad_(False)
    optimizer = torch.optim.AdamW(parameter_groups(found, config))
    found.train()
    found.backbone.eval()
    for step in range(config.epochs * STEPS):
        (seed,) = np.random.SeedSequence([config.seed, 0, 1 + step // STEPS]).generate_state(1)
        order = torch.randperm(PICTURES, generator=torch.Generator().manual_seed(int(seed))).numpy()
        batch = np.array_split(order, STEPS)[step % STEPS]
        for group in optimizer.param_groups:
            group["lr"] = group["highest_rate"] * rate_share(step, config.epochs * STEPS, config.warmup_share)
        output: PolarityOutput = found(PREPROCESSING.normalise(torch.from_numpy(examples.stored[batch])))
        labels, weights = torch.from_numpy(examples.labels[batch]), torch.from_numpy(examples.weights[batch])
        optimizer.zero_grad()
        polarity_loss(output, labels, config.loss, weights).total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(found.parameters(), config.gradient_clip)
        optimizer.step()
    return found.eval()


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_the_trunk_keeps_its_weights_bit_for_bit_and_the_head_learns(ema_decay: float | None) -> None:
    before, after = network(), trained(replace(CONFIG, ema_decay=ema_decay, weight_decay=0.5))
    assert same_weights(after.backbone, before.backbone)  # statistics of its normalisation included
    moved = [name for name, tensor in head_of(after).items() if not torch.equal(tensor, head_of(before)[name])]
    assert len(moved) > len(head_of(before)) / 2


def test_the_head_is_what_training_through_the_network_gives() -> None:
    examples, unseen = bright_or_dark(PICTURES), bright_or_dark(16, seed=1).stored
    first, ours, theirs = (
        Predictor(each, PREPROCESSING).predict(unseen)
        for each in (network(), trained(CONFIG, examples), through_the_network(CONFIG, examples))
    )
    # Cached maps are float16, and yet what comes of them is nearly the same.
    np.testing.assert_allclose(ours.polarity, theirs.polarity, atol=2e-5)
    np.testing.assert_allclose(ours.positive_intensity, theirs.positive_intensity, atol=2e-5)
    assert np.abs(theirs.polarity - first.polarity).max() > 2e-3


def test_a_training_cut_off_is_taken_up_and_ends_with_the_same_weights() -> None:
    def cut(report: EpochReport) -> None:
        if report.epoch == 2:
            raise KeyboardInterrupt

    store, examples = Memory(), bright_or_dark(PICTURES)
    with pytest.raises(KeyboardInterrupt):
        train(network(), examples, CONFIG, on_epoch=cut, checkpoint=store, checkpoint_every=1)
    epochs: list[int] = []
    again = network()
    train(again, examples, CONFIG, on_epoch=lambda report: epochs.append(report.epoch), checkpoint=store)
    assert epochs == [3]
    assert same_weights(again, trained())


def test_maps_that_memory_has_no_room_for_go_to_a_file_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    examples, trunk = bright_or_dark(70), network().backbone.eval()  # more than one batch of maps
    here, there = (FrozenMaps(trunk, examples, CPU, cache_bytes=size) for size in (1 << 30, 1))
    everything = np.arange(len(examples))
    assert not isinstance(here._maps, np.memmap) and isinstance(there._maps, np.memmap)
    np.testing.assert_array_equal(here[everything], there[everything])
    with torch.no_grad():
        expected = trunk(PREPROCESSING.normalise(torch.from_numpy(examples.stored)))
    np.testing.assert_allclose(there[everything], expected.numpy(), rtol=2e-3, atol=1e-4)
    with_room = trained()
    monkeypatch.setattr(model.training, "FrozenMaps", partial(FrozenMaps, cache_bytes=1))
    assert same_weights(trained(), with_room)


def test_maps_are_computed_once_however_many_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    pixels = Arrays.pixels

    def counted(self: Arrays, indices: np.typing.NDArray[np.int64]) -> np.typing.NDArray[np.uint8]:
        asked.extend(indices.tolist())
        return pixels(self, indices)

    monkeypatch.setattr(Arrays, "pixels", counted)
    trained(replace(CONFIG, epochs=4))
    assert sorted(asked) == list(range(PICTURES))


def test_mirroring_turns_about_half_of_the_maps_and_leaves_the_others() -> None:
    maps = torch.rand(400, 2, 3, 4)
    found = mirrored(maps, torch.Generator().manual_seed(0))
    is_turned = [torch.equal(new, old.flip(2)) for new, old in zip(found, maps, strict=True)]
    is_left = [torch.equal(new, old) for new, old in zip(found, maps, strict=True)]
    assert all(turned != left for turned, left in zip(is_turned, is_left, strict=True))
    assert 150 < sum(is_turned) < 250
