"""Attention maps are the network's own, in its order; a peak stands where the map is highest."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.attention import attention_maps, peak
from model.network import NetworkConfig, PolarityNetwork
from model.predict import Predictor
from model.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(image_size=64)


def network() -> PolarityNetwork:
    torch.manual_seed(0)
    network = PolarityNetwork(NetworkConfig(backbone="resnet18", channels=32, reduction=4))
    for branch in (network.negative, network.positive):
        torch.nn.init.ones_(branch.attention_norm.weight)
    return network


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(network(), PREPROCESSING)


def pictures(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, 3, 64, 64), np.uint8)


def test_maps_are_each_branchs_own_and_the_negative_comes_first(predictor: Predictor) -> None:
    batch = pictures(3)
    found = attention_maps(predictor, batch)
    alone = network().eval()
    with torch.no_grad():
        features = alone.backbone(PREPROCESSING.normalise(torch.from_numpy(batch)))
        expected = [branch(features).attention[:, 0].numpy() for branch in (alone.negative, alone.positive)]
    assert found.dtype == np.float32 and found.shape == (3, 2, 2, 2)
    for column, maps in enumerate(expected):
        np.testing.assert_allclose(found[:, column], maps, rtol=1e-3, atol=1e-5)
    assert not np.allclose(found[:, 0], found[:, 1])


def test_an_untrained_network_looks_nowhere() -> None:
    fresh = PolarityNetwork(NetworkConfig(backbone="resnet18", channels=32, reduction=4))
    maps = attention_maps(Predictor(fresh, PREPROCESSING), pictures(1))
    assert np.isnan(peak(maps[0, 0])).all()


def test_no_pictures_give_no_maps_and_bytes_are_welcome(predictor: Predictor) -> None:
    assert attention_maps(predictor, pictures(0)).shape == (0, 2, 2, 2)
    view = np.frombuffer(pictures(1).tobytes(), np.uint8).reshape(1, 3, 64, 64)
    np.testing.assert_array_equal(attention_maps(predictor, view), attention_maps(predictor, pictures(1)))


def test_another_shape_or_type_is_refused(predictor: Predictor) -> None:
    for batch in (np.zeros((1, 3, 32, 32), np.uint8), np.zeros((1, 3, 64, 64), np.float32)):
        with pytest.raises(ValueError, match="expected uint8 B×3×64×64, found"):
            attention_maps(predictor, batch)  # type: ignore[arg-type]


@pytest.mark.parametrize(("height", "width"), [(1, 2), (2, 2), (7, 7), (3, 5)])
def test_the_peak_is_the_centre_of_the_highest_cell(height: int, width: int) -> None:
    for row in range(height):
        for column in range(width):
            attention = np.full((height, width), -3.0, np.float32)
            attention[row, column] = -2.5
            y, x = peak(attention)
            assert (int(y * height), int(x * width)) == (row, column)
            assert y * height % 1 == pytest.approx(0.5) and x * width % 1 == pytest.approx(0.5)


def test_a_flat_or_broken_map_has_no_peak() -> None:
    broken = np.eye(3)
    broken[1, 1] = np.nan
    for attention in (np.zeros((4, 4)), np.ones((1, 1)), broken):
        assert all(map(math.isnan, peak(attention)))
