"""What the network sees of a picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

SMALL = Preprocessing(image_size=32)


def gradient(height: int, width: int) -> np.ndarray:
    """Red grows to the right, green downwards, blue is 128."""
    rgb = np.full((height, width, 3), 128, np.uint8)
    rgb[..., 0] = np.linspace(0, 255, width).round().astype(np.uint8)
    rgb[..., 1] = np.linspace(0, 255, height).round().astype(np.uint8)[:, None]
    return rgb


@settings(max_examples=40)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    level=st.integers(0, 255),
    preprocessing=st.sampled_from([SMALL, Preprocessing(image_size=48, interpolation="bilinear")]),
)
def test_a_plain_picture_of_any_size_stays_plain(
    height: int, width: int, level: int, preprocessing: Preprocessing
) -> None:
    resized = preprocessing.resize(np.full((height, width, 3), level, np.uint8))
    side = preprocessing.image_size
    assert resized.shape == (3, side, side) and resized.dtype == np.uint8 and resized.flags.c_contiguous
    assert (resized == level).all()


def test_channels_come_first_and_axes_keep_their_directions() -> None:
    red, green, blue = SMALL.resize(gradient(100, 60)).astype(int)
    assert (np.diff(red, axis=1) >= 0).all() and red[0, -1] - red[0, 0] > 230
    assert (np.diff(green, axis=0) >= 0).all() and green[-1, 0] - green[0, 0] > 230
    assert (blue == 128).all()


def test_what_stands_at_the_edge_stays_in_view() -> None:
    rgb = np.full((64, 192, 3), 255, np.uint8)
    rgb[:, :24] = 0  # damage at the left edge
    assert SMALL.resize(rgb).min() == 0


def test_shrinking_averages_rather_than_skips() -> None:
    checkers = np.zeros((512, 512, 3), np.uint8)
    checkers[::2, ::2] = checkers[1::2, 1::2] = 255
    resized = SMALL.resize(checkers).astype(int)
    assert abs(resized - 127.5).max() < 3


def test_normalising_is_the_textbook_formula() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)
    mean, std = (np.array(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    expected = (batch / 255 - mean) / std
    tensor = torch.from_numpy(batch)
    found = SMALL.normalise(tensor)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(SMALL.normalise(tensor.float()).numpy(), found.numpy())


def test_normalising_leaves_its_input_alone() -> None:
    batch = torch.full((1, 3, 32, 32), 7.0)
    SMALL.normalise(batch)
    assert bool((batch == 7).all())


def test_settings_survive_their_dict_and_json() -> None:
    import json

    chosen = Preprocessing(64, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear")
    assert Preprocessing.from_dict(json.loads(json.dumps(chosen.to_dict()))) == chosen


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(TypeError, match="letterbox"):
        Preprocessing.from_dict({"image_size": 64, "letterbox": True})


@pytest.mark.parametrize(
    ("key", "value"),
    [("image_size", 31), ("interpolation", "nearest"), ("std", [0, 1, 1])],
)
def test_a_setting_that_makes_no_sense_is_an_error(key: str, value: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        Preprocessing.from_dict({key: value})
