from __future__ import annotations

import colorsys

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.baselines import Baseline, colour_histograms, hash_search, plain_hash, polarity_baselines
from model.errors import LabelsUnusable
from model.split import Split, split

PICTURES = 240


def labelled(seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.str_], Split, NDArray[np.float64]]:
    """Products of four pictures with one label each, and features that tell it but for noise."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.integers(0, 2, PICTURES // 4), 4)
    groups = np.array([f"p{row // 4}" for row in range(PICTURES)])
    features = rng.normal(size=(PICTURES, 5)) + 1.2 * labels[:, None] * np.eye(5)[0]
    return labels, groups, split(labels, groups, seed=0), features


def baselines(polarity: NDArray[np.float64], **features: NDArray[np.float64]) -> dict[str, Baseline]:
    labels, groups, sides, _ = labelled()
    return {
        baseline.name.removeprefix("a logistic regression on "): baseline
        for baseline in polarity_baselines(labels, groups, sides, polarity, features, bootstrap=200)
    }


def test_the_majority_class_is_that_of_the_training_side() -> None:
    labels, _, sides, _ = labelled()
    held_out = labels[sides.held_out]
    majority = baselines(held_out.astype(np.float64))["the more frequent class of the training side"]
    common = int(labels[sides.train].mean() >= 0.5)
    assert majority.evaluation.accuracy == (held_out == common).mean()
    assert (majority.evaluation.balanced_accuracy, majority.evaluation.auroc) == (0.5, 0.5)
    assert majority.gain == 0.5
    assert majority.beaten
    assert majority.words is None


def test_features_that_tell_the_label_are_found_and_others_are_not() -> None:
    labels, _, sides, features = labelled()
    noise = np.random.default_rng(1).normal(size=features.shape)
    found = baselines(labels[sides.held_out].astype(np.float64), trunk=features, noise=noise)
    assert found["trunk"].evaluation.auroc > 0.7
    assert abs(found["noise"].evaluation.auroc - 0.5) < 0.2


def test_only_the_training_side_teaches() -> None:
    labels, groups, sides, features = labelled()
    polarity = labels[sides.held_out].astype(np.float64)
    changed, flipped = features.copy(), labels.copy()
    rest = np.setdiff1d(np.arange(PICTURES), sides.train)
    changed[np.setdiff1d(rest, sides.held_out)] = 1000
    one = polarity_baselines(labels, groups, sides, polarity, {"trunk": features}, bootstrap=20)
    other = polarity_baselines(labels, groups, sides, polarity, {"trunk": changed}, bootstrap=20)
    assert one == other
    flipped[sides.held_out] = 1 - labels[sides.held_out]
    mirrored = polarity_baselines(flipped, groups, sides, polarity, {"trunk": features}, bootstrap=20)
    assert mirrored[1].evaluation.auroc == pytest.approx(1 - one[1].evaluation.auroc)


def test_a_network_that_does_not_beat_a_baseline_is_told_so() -> None:
    labels, _, sides, features = labelled()
    random = np.random.default_rng(2).random(len(sides.held_out))
    found = baselines(random, trunk=features)["trunk"]
    assert not found.beaten
    assert found.words is not None
    assert found.words.startswith("The network does not beat a logistic regression on trunk: balanced accuracy −0.")
    assert found.to_dict()["gain"] == found.gain < 0
    best = labels[sides.held_out].astype(np.float64)
    assert baselines(best, trunk=features)["trunk"].words is None


def test_odd_requests_are_refused() -> None:
    labels, groups, sides, features = labelled()
    with pytest.raises(ValueError, match="trunk: expected one a label"):
        polarity_baselines(labels, groups, sides, features[sides.held_out, 0], {"trunk": features[1:]})
    one_class = Split(sides.train, sides.validation, sides.held_out[labels[sides.held_out] == 1])
    with pytest.raises(LabelsUnusable):
        polarity_baselines(labels, groups, one_class, np.ones(len(one_class.held_out)), {"trunk": features})


def test_training_sides_of_few_groups_have_a_baseline_too() -> None:
    labels, groups = np.array([0, 0, 1, 1, 0, 1]), np.array(["a", "a", "b", "b", "c", "d"])
    sides = Split(np.arange(4), np.empty(0, np.int64), np.arange(4, 6))
    features = labels[:, None] + 0.0
    found = polarity_baselines(labels, groups, sides, np.array([0.5, 0.5]), {"trunk": features}, bootstrap=20)
    assert found[1].evaluation.accuracy == 1


# Look ------------------------------------------------------------------------------------------------------------


def test_the_histogram_is_a_loop_over_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 20, 20), dtype=np.uint8)
    for picture, found in zip(pixels, colour_histograms(pixels), strict=True):
        counts = np.zeros((16, 4, 4))
        for red, green, blue in picture[:, ::2, ::2].reshape(3, -1).T:
            parts = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
            counts[tuple(min(int(part * n), n - 1) for part, n in zip(parts, (16, 4, 4), strict=True))] += 1
        # A value on the edge between two bins may fall to either by rounding.
        assert np.abs(found**2 - counts.ravel() / counts.sum()).sum() < 0.05


def test_the_hash_finds_the_copy_before_all_others() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)
    pictures = [np.asarray(Image.fromarray(each).resize((96, 96), Image.Resampling.BICUBIC)) for each in coarse]
    copies = [np.asarray(Image.fromarray(each).resize((64, 64), Image.Resampling.BOX)) for each in pictures]
    search = hash_search(np.stack([plain_hash(each) for each in (*pictures, *copies)]))
    rows, near = search(np.arange(12), 2)
    assert [set(pair) for pair in rows.tolist()] == [{row, row + 12} for row in range(12)]
    assert (np.diff(near, axis=1) <= 1e-6).all()
