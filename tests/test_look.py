from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.colour_histogram import AXIS_REACH, STRIDE, ColourConfig, ColourFeatures, ColourHistogram
from model.errors import ModelError
from model.look import LookConfig, LookNetwork, pool_maps
from model.preprocessing import Preprocessing
from model.weights import dump_weights, load_weights

SIDE = 64
SMALL = ColourConfig(features=16, lightnesses=3, hues=5)


def pictures(count: int, seed: int = 0, side: int = SIDE) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=random)


def flat(*colours: tuple[int, int, int], side: int = SIDE) -> torch.Tensor:
    return torch.tensor(colours, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, side, side).clone()


@pytest.fixture(scope="module")
def look() -> Iterator[LookNetwork]:
    torch.manual_seed(0)
    with torch.inference_mode():
        yield LookNetwork(LookConfig(backbone="resnet18", colour=SMALL))


def test_a_configuration_survives_a_manifest() -> None:
    for config in (LookConfig(), LookConfig("resnet18", "mean", None, 64), LookConfig(colour=SMALL, dimensions=8)):
        assert LookConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "median"}, "pooling: expected one of mean, gem"),
        ({"dimensions": 0}, "dimensions: expected 1 to 1536, found 0"),
        ({"dimensions": 1281, "colour": None}, "dimensions: expected 1 to 1280, found 1281"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LookConfig.from_dict(fields)


def test_a_backbone_that_is_none_is_refused_and_near_ones_are_named() -> None:
    with pytest.raises(ModelError, match="no backbone is named 'resnet19': did you mean resnet18"):
        LookConfig.from_dict({"backbone": "resnet19"})


@pytest.mark.parametrize(
    "fields", [{"weight": 0}, {"hues": 4}, {"features": 3}, {"features": 1000}, {"background": -1}]
)
def test_a_colour_part_that_cannot_be_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="colour"):
        ColourConfig.from_dict(fields)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(TypeError, match="poling"):
        LookConfig.from_dict({"poling": "mean"})


def test_embeddings_are_unit_float32_whatever_the_trunk_computes_in(look: LookNetwork) -> None:
    pixels = pictures(3)
    maps = look.backbone(Preprocessing(image_size=SIDE).normalise(pixels))
    for dtype in (torch.float32, torch.bfloat16):
        embedding = look.embed(maps.to(dtype), pixels)
        assert embedding.dtype == torch.float32
        assert embedding.shape == (3, look.embedding_size)
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(look.embed(maps.bfloat16(), pixels), look.embed(maps, pixels), atol=2e-3, rtol=0)


def test_forward_is_one_pass_of_the_trunk_and_embed(look: LookNetwork) -> None:
    pixels, preprocessing = pictures(2), Preprocessing(image_size=SIDE, mean=(0.5, 0.4, 0.3))
    maps = look.backbone(preprocessing.normalise(pixels))
    assert torch.equal(look(pixels, preprocessing), look.embed(maps, pixels))


def test_a_pictures_embedding_does_not_depend_on_its_batch(look: LookNetwork) -> None:
    pixels, preprocessing = pictures(5), Preprocessing(image_size=SIDE)
    together = look(pixels, preprocessing)
    alone = torch.cat([look(picture[None], preprocessing) for picture in pixels])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    assert torch.equal(look(pixels, preprocessing), together)


def test_the_trunk_stays_frozen_and_in_evaluation_mode(look: LookNetwork) -> None:
    look.train()
    assert not look.backbone.training
    assert not any(parameter.requires_grad for parameter in look.parameters())


def test_without_colour_the_embedding_is_the_pooled_maps(look: LookNetwork) -> None:
    plain = LookNetwork(LookConfig("resnet18", "mean", colour=None))
    maps = torch.rand(2, 512, 2, 2)
    expected = maps.numpy().mean((2, 3))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(plain.embed(maps, pictures(2)), expected, rtol=1e-5)


def test_gem_is_the_root_of_the_mean_cube() -> None:
    maps = torch.rand(2, 3, 4, 5) - 0.2
    expected = np.cbrt((np.maximum(maps.numpy(), 0).astype(np.float64) ** 3).mean((2, 3)))
    np.testing.assert_allclose(pool_maps(maps, "gem"), expected, rtol=1e-5)


def test_the_similarity_is_the_trunks_and_the_colours_by_their_weight(look: LookNetwork) -> None:
    pixels, maps = pictures(4), torch.rand(4, 512, 2, 2)
    embedding = look.embed(maps, pixels)
    shapes = torch.nn.functional.normalize(pool_maps(maps, "gem"), dim=1)
    colours = ColourFeatures(SMALL)(pixels)
    expected = (shapes @ shapes.T + SMALL.weight * colours @ colours.T) / (1 + SMALL.weight)
    torch.testing.assert_close(embedding @ embedding.T, expected)


def test_the_projection_is_affine_and_saved_with_the_weights() -> None:
    torch.manual_seed(1)
    config = LookConfig("resnet18", colour=SMALL, dimensions=5)
    look, other = LookNetwork(config), LookNetwork(config)
    assert look.projection is not None
    mean, matrix = torch.randn(528), torch.randn(528, 5)
    look.projection.set(mean, matrix)
    load_weights(other, dump_weights(look))
    pixels, preprocessing = pictures(2), Preprocessing(image_size=SIDE)
    with torch.inference_mode():
        maps = look.backbone(preprocessing.normalise(pixels))
        projected = (look.describe(maps, pixels) - mean) @ matrix
        expected = projected / projected.norm(dim=1, keepdim=True)
        torch.testing.assert_close(look.embed(maps, pixels), expected)
        assert torch.equal(other(pixels, preprocessing), look(pixels, preprocessing))
    with pytest.raises(ValueError, match=r"expected \(528,\) and \(528, 5\), found \(528,\) and \(5, 528\)"):
        look.projection.set(mean, matrix.T)


# The colours -----------------------------------------------------------------------------------------------------


def oklab(rgb: tuple[int, int, int]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Björn Ottosson's C++, line by line."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
    r, g, b = linear
    l_ = np.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b)
    m_ = np.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b)
    s_ = np.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b)
    return np.array(
        [
            0.2104542553 * l_ + 0.7936177850 * m_ - 0.0040720468 * s_,
            1.9779984951 * l_ - 2.4285922050 * m_ + 0.4505937099 * s_,
            0.0259040371 * l_ + 0.7827717662 * m_ - 0.8086757660 * s_,
        ]
    )


def shares(value: float, low: float, high: float, bins: int) -> list[float]:
    place = min(1.0, max(0.0, (value - low) / (high - low))) * (bins - 1)
    return [max(0.0, 1 - abs(place - number)) for number in range(bins)]


def slow_histogram(picture: torch.Tensor, config: ColourConfig) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """One pixel after the other, every one counting alike."""
    counts = np.zeros((config.hues, config.lightnesses, config.hues))
    for row in picture[:, ::STRIDE, ::STRIDE].permute(1, 2, 0).tolist():
        for pixel in row:
            light, a, b = oklab(tuple(pixel))
            of_a, of_b = (shares(axis, -AXIS_REACH, AXIS_REACH, config.hues) for axis in (a, b))
            counts += np.einsum("i,j,k", of_a, shares(light, 0, 1, config.lightnesses), of_b)
    roots = np.sqrt(counts.ravel())
    return np.asarray(roots / np.linalg.norm(roots))


def test_the_histogram_is_a_loop_over_pixels() -> None:
    config = ColourConfig(features=16, lightnesses=3, hues=5, background=0)
    pixels = pictures(2, side=32)
    expected = np.stack([slow_histogram(picture, config) for picture in pixels])
    np.testing.assert_allclose(ColourHistogram(config)(pixels), expected, atol=1e-5)


def test_what_stands_at_the_border_hardly_counts() -> None:
    histogram = ColourHistogram(SMALL)
    red, on_black, on_white = flat((200, 30, 40), (20, 20, 20), (250, 250, 250))
    for picture in (on_black, on_white):
        picture[:, 16:48, 16:48] = red[:, 16:48, 16:48]
    ours = histogram(torch.stack([red, on_black, on_white]))
    assert ours[1] @ ours[2] > 0.98
    everything = ColourHistogram(ColourConfig(features=16, lightnesses=3, hues=5, background=0))
    theirs = everything(torch.stack([red, on_black, on_white]))
    assert theirs[1] @ theirs[2] < 0.6


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=4))
def test_a_picture_of_one_colour_has_a_histogram_too(colours: list[tuple[int, int, int]]) -> None:
    histograms = ColourHistogram(SMALL)(flat(*colours, side=32))
    assert bool(torch.isfinite(histograms).all())
    torch.testing.assert_close(histograms.norm(dim=1), torch.ones(len(colours)))


def test_the_features_dot_products_are_the_histograms_gaussian_kernel() -> None:
    config = ColourConfig(features=512)
    pixels = torch.cat([pictures(6), flat((200, 40, 50), (190, 60, 50), (20, 40, 220), (240, 240, 240))])
    histograms, features = ColourHistogram(config)(pixels), ColourFeatures(config)(pixels)
    kernel = torch.exp(-config.sharpness * (1 - histograms @ histograms.T))
    torch.testing.assert_close(features @ features.T, kernel, atol=0.2, rtol=0)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(len(pixels)))
    assert float((features @ features.T - kernel).abs().mean()) < 0.04


def test_the_same_configuration_draws_the_same_frequencies() -> None:
    torch.manual_seed(5)
    one = ColourFeatures(SMALL)
    torch.manual_seed(6)
    assert torch.equal(ColourFeatures(SMALL).frequencies, one.frequencies)
