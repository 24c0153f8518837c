"""Scores do not depend on company, device settings come out clear."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.calibration import Calibration
from model.devices import choose_device
from model.errors import ModelError
from model.network import NetworkConfig, PolarityNetwork, probabilities
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


def pictures(count: int, seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 64, 64), np.uint8)


def test_predictions_are_the_networks_outputs_column_by_column(predictor: Predictor) -> None:
    batch = pictures(5)
    found = predictor.predict(batch)
    with torch.no_grad():
        output = network().eval()(PREPROCESSING.normalise(torch.from_numpy(batch)))
    expected = (
        (found.polarity, probabilities(output)[:, 1]),
        (found.logit, output.logits[:, 1] - output.logits[:, 0]),
        (found.negative_intensity, output.intensities[:, 0]),
        (found.positive_intensity, output.intensities[:, 1]),
        (found.embedding, output.embedding),
    )
    for column, tensor in expected:
        np.testing.assert_allclose(column, tensor.numpy(), rtol=1e-4, atol=1e-5)


def test_a_picture_scores_the_same_alone_and_in_company(predictor: Predictor) -> None:
    batch = pictures(7)
    together = predictor.predict(batch)
    for position in range(7):
        alone = predictor.predict(batch[position : position + 1])
        assert alone.polarity[0] == pytest.approx(together.polarity[position], abs=1e-5)
        np.testing.assert_allclose(alone.embedding[0], together.embedding[position], atol=1e-5)


def test_order_of_a_batch_is_the_order_of_its_scores(predictor: Predictor) -> None:
    batch = pictures(6)
    order = np.random.default_rng(2).permutation(6)
    np.testing.assert_allclose(
        predictor.predict(batch[order]).polarity, predictor.predict(batch).polarity[order], atol=1e-5
    )


def test_predictions_are_float32_rows_of_unit_norm(predictor: Predictor) -> None:
    found = predictor.predict(pictures(3))
    assert {a.dtype for a in vars(found).values()} == {np.dtype(np.float32)}
    assert found.embedding.shape == (3, predictor.embedding_size) == (3, 512)
    np.testing.assert_allclose(np.linalg.norm(found.embedding, axis=1), 1, rtol=1e-5)


def test_a_calibration_is_applied_to_the_log_odds_and_ranks_remain_where_polarity_is_1() -> None:
    sure = network()
    with torch.no_grad():
        sure.fusion.classify.bias[:] = torch.tensor([-30.0, 30.0])
    raw = Predictor(sure, PREPROCESSING).predict(pictures(6))
    assert set(raw.polarity.tolist()) == {1.0}
    assert len(set(raw.logit.tolist())) == 6
    calibration = Calibration(25.0, ((58.0, 1.0), (62.0, 2.0)))
    served = Predictor(sure, PREPROCESSING, calibration=calibration).predict(pictures(6))
    np.testing.assert_allclose(served.logit, calibration.apply(raw.logit), rtol=1e-6)
    np.testing.assert_allclose(served.polarity, 1 / (1 + np.exp(-served.logit.astype(np.float64))), rtol=1e-6)
    np.testing.assert_array_equal(np.argsort(served.logit), np.argsort(raw.logit))
    again = raw.calibrated(calibration)
    assert all(
        np.array_equal(one, other) for one, other in zip(vars(again).values(), vars(served).values(), strict=True)
    )


def test_labels_follow_the_threshold_of_evaluation(predictor: Predictor) -> None:
    found = predictor.predict(pictures(8))
    np.testing.assert_array_equal(found.labels, (found.polarity >= 0.5).astype(np.int64))


def test_no_pictures_give_no_rows(predictor: Predictor) -> None:
    found = predictor.predict(pictures(0))
    assert found.polarity.shape == (0,) and found.embedding.shape == (0, 512)


def test_arrays_over_bytes_are_welcome(predictor: Predictor) -> None:
    batch = pictures(2)
    view = np.frombuffer(batch.tobytes(), np.uint8).reshape(batch.shape)
    np.testing.assert_array_equal(predictor.predict(view).polarity, predictor.predict(batch).polarity)


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((2, 3, 32, 32), np.uint8),
        np.zeros((2, 64, 64, 3), np.uint8),
        np.zeros((2, 3, 64, 64), np.float32),
    ],
)
def test_another_shape_or_type_is_refused(predictor: Predictor, batch: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="expected uint8 B×3×64×64, found"):
        predictor.predict(batch)


def test_weights_that_give_no_numbers_are_an_error_not_a_score() -> None:
    damaged = network()
    torch.nn.init.constant_(damaged.fusion.classify.bias, float("nan"))
    with pytest.raises(ModelError, match="for 3 of 3 pictures"):
        Predictor(damaged, PREPROCESSING).predict(pictures(3))


def test_half_precision_stays_close(predictor: Predictor) -> None:
    batch = pictures(4)
    half = Predictor(network(), PREPROCESSING, precision="bfloat16").predict(batch)
    full = predictor.predict(batch)
    np.testing.assert_allclose(half.polarity, full.polarity, atol=0.02)
    assert (half.embedding * full.embedding).sum(axis=1).min() > 0.999


def test_auto_chooses_a_device_that_works() -> None:
    device = choose_device("auto")
    assert float(torch.ones(1, device=device)) == 1.0


def test_a_device_that_is_not_there_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match=r"expected cuda on this machine, found only .*cpu"):
        choose_device("cuda")
    with pytest.raises(ModelError, match="expected auto, cpu, cuda or mps, found 'tpu'"):
        choose_device("tpu")
