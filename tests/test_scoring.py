"""Feeding a device: every picture gets its own score, whatever the batches, the threads and the failures."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from model.errors import ModelError, Undecodable
from model.network import NetworkConfig, PolarityNetwork
from model.pictures.stored import prepare
from model.predict import Predictions, Predictor
from model.preprocessing import Preprocessing
from tasks.score import scorer as scoring
from tasks.score.config import Compile, ScoreConfig
from tasks.score.scorer import CpuScorer, GpuScorer, Scorer, Watches, make_scorer

PREPROCESSING = Preprocessing(image_size=32)
KINDS = (CpuScorer, GpuScorer)  # the way to a GPU is the same with the network on the CPU


def new_model() -> Predictor:
    torch.manual_seed(0)
    network = PolarityNetwork(NetworkConfig(backbone="resnet18", channels=16, reduction=4))
    torch.nn.init.ones_(network.positive.attention_norm.weight)
    return Predictor(network, PREPROCESSING)


@pytest.fixture(scope="module")
def model() -> Predictor:
    return new_model()


@pytest.fixture(scope="module")
def jpegs() -> list[bytes]:
    return [_jpeg(seed) for seed in range(23)]


@pytest.fixture(scope="module")
def expected(model: Predictor, jpegs: list[bytes]) -> Predictions:
    return model.predict(np.stack([prepare(jpeg, PREPROCESSING) for jpeg in jpegs]))


def _jpeg(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((80, 60)).save(file, "JPEG")
    return file.getvalue()


def run(scorer: Scorer, jpegs: list[bytes], watches: Watches | None = None) -> Predictions:
    found = scorer.score(iter(jpegs), watches or Watches(1), pictures=len(jpegs), of=len(jpegs))
    return Predictions.concatenate(list(found))


def same(found: Predictions, wanted: Predictions) -> None:
    np.testing.assert_allclose(found.polarity, wanted.polarity, atol=1e-5)
    np.testing.assert_allclose(found.embedding, wanted.embedding, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 4, 23, 64])
def test_scores_come_in_the_pictures_order_whatever_the_batch(
    kind: type[Scorer], batch_size: int, model: Predictor, jpegs: list[bytes], expected: Predictions
) -> None:
    scorer = kind(model, ScoreConfig(batch_size=batch_size, decode_threads=3))  # type: ignore[call-arg]
    same(run(scorer, jpegs), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_shards_at_once_get_each_their_own_scores(
    kind: type[Scorer], model: Predictor, jpegs: list[bytes], expected: Predictions
) -> None:
    scorer = kind(model, ScoreConfig(batch_size=3, decode_threads=2))  # type: ignore[call-arg]
    orders = [np.random.default_rng(seed).permutation(len(jpegs)) for seed in range(6)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda order: run(scorer, [jpegs[row] for row in order]), orders))
    for order, each in zip(orders, found, strict=True):
        np.testing.assert_allclose(each.polarity, expected.polarity[order], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_picture_fails_its_shard_and_the_next_one_goes_on(
    kind: type[Scorer], model: Predictor, jpegs: list[bytes], expected: Predictions
) -> None:
    scorer = kind(model, ScoreConfig(batch_size=4, decode_threads=2))  # type: ignore[call-arg]
    with pytest.raises(Undecodable, match="not a picture"):
        run(scorer, [*jpegs[:9], b"damaged", *jpegs[9:]])
    same(run(scorer, jpegs), expected)


def test_a_reader_that_fails_or_a_consumer_that_stops_leaves_the_scorer_usable(
    model: Predictor, jpegs: list[bytes], expected: Predictions
) -> None:
    scorer = make_scorer(model, ScoreConfig(batch_size=2))

    def broken() -> Iterator[bytes]:
        yield from jpegs[:7]
        raise OSError("the store is gone")

    with pytest.raises(OSError, match="the store is gone"):
        list(scorer.score(broken(), Watches(1), pictures=9, of=9))
    abandoned = scorer.score(iter(jpegs), Watches(1), pictures=23, of=23)
    next(abandoned)
    abandoned.close()  # type: ignore[attr-defined]
    same(run(scorer, jpegs), expected)
    assert list(scorer.score(iter(()), Watches(1), pictures=0, of=0)) == []


def test_the_next_shard_is_scored_while_nobody_takes_the_last_scores_of_the_one_before(
    model: Predictor, jpegs: list[bytes], expected: Predictions
) -> None:
    scorer = make_scorer(model, ScoreConfig(batch_size=4))
    before = scorer.score(iter(jpegs[:8]), Watches(1), pictures=8, of=31)
    parts = [next(before)]  # fewer batches than may be in flight: all are handed over
    with ThreadPoolExecutor(1) as pool:
        same(pool.submit(run, scorer, jpegs).result(timeout=60), expected)
    same(Predictions.concatenate([*parts, *before]), Predictions(*(column[:8] for column in vars(expected).values())))


class Narrow(torch.nn.Module):
    """A device without memory for more than so many pictures."""

    def __init__(self, whole: torch.nn.Module, most: int) -> None:
        super().__init__()
        self.whole, self.most = whole, most
        self.asked: list[int] = []

    def forward(self, pixels: torch.Tensor) -> object:
        self.asked.append(len(pixels))
        if len(pixels) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.whole(pixels)


def test_batches_that_do_not_fit_are_halved_from_then_on(jpegs: list[bytes], expected: Predictions) -> None:
    model = new_model()
    narrow = model._scoring = Narrow(model._scoring, most=3)
    same(run(GpuScorer(model, ScoreConfig(batch_size=8, compile="never")), jpegs), expected)
    assert [size for size in narrow.asked if size > 3] == [8, 4]  # each tried once
    narrow.most = 0
    with pytest.raises(ModelError, match="has not the memory to score one picture"):
        model.predict(np.zeros((1, 3, 32, 32), np.uint8))


def test_threads_of_others_keep_their_number(model: Predictor, jpegs: list[bytes]) -> None:
    found: list[int] = []
    before = torch.get_num_threads()
    run(make_scorer(model, ScoreConfig(batch_size=4)), jpegs)
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert (found, torch.get_num_threads()) == ([before], before)


def test_times_say_how_long_each_stage_was_busy(model: Predictor, jpegs: list[bytes]) -> None:
    scorer = make_scorer(model, ScoreConfig(batch_size=4))
    watches = scorer.watches()

    def slowly() -> Iterator[bytes]:
        for jpeg in jpegs:
            with watches.read.busy():
                time.sleep(0.005)
            yield jpeg

    list(scorer.score(slowly(), watches, pictures=23, of=23))
    times = {time_.name: time_ for time_ in watches.times()}
    assert list(times) == ["read pixels", "prepare", "infer", "write scores"]
    assert times["read pixels"].busy_s >= 23 * 0.005
    assert times["prepare"].busy_s > 0 and times["infer"].busy_s > 0
    assert times["write scores"].busy_s == 0


@pytest.mark.parametrize(("how", "repays_s", "compiled"), [("auto", 0.0, 1), ("auto", 1e9, 0), ("never", 0.0, 0)])
def test_auto_compiles_where_the_run_is_long(
    how: Compile, repays_s: float, compiled: int, monkeypatch: pytest.MonkeyPatch, jpegs: list[bytes]
) -> None:
    model = new_model()
    asked: list[int] = []
    monkeypatch.setattr(model, "compile", asked.append)
    monkeypatch.setattr(scoring, "COMPILE_REPAYS_S", repays_s)
    scorer = make_scorer(model, ScoreConfig(batch_size=4, compile=how))
    run(scorer, jpegs)
    run(scorer, jpegs)
    assert asked == [4] * compiled


def test_what_can_not_be_compiled_is_an_error_only_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, jpegs: list[bytes], expected: Predictions
) -> None:
    def no_compiler(*_: object, **__: object) -> object:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: no_compiler)
    monkeypatch.setattr(scoring, "COMPILE_REPAYS_S", 0.0)
    same(run(make_scorer(new_model(), ScoreConfig(batch_size=4, compile="auto")), jpegs), expected)
    with pytest.raises(ModelError, match="set compile to never: no C\\+\\+ compiler"):
        run(make_scorer(new_model(), ScoreConfig(batch_size=4, compile="always")), jpegs)
