"""Folded, narrower and compiled networks agree with the trained one, within what the measurements state."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from model.backbones.registry import BACKBONES
from model.backbones.spec import BackboneSpec
from model.choices import ScoringPrecision
from model.errors import ModelError
from model.folding import fold_batchnorms
from model.network import NetworkConfig, PolarityNetwork
from model.pictures.stored import prepare
from model.precision import scoring_dtype
from model.predict import Predictions, Predictor
from model.preprocessing import Preprocessing
from tasks.pictures import read_picture
from vitrine.demo.draw_catalogue import draw_catalogue

PREPROCESSING = Preprocessing(image_size=64)
K = 10


def lively(backbone: str) -> PolarityNetwork:
    """A network whose BatchNorms have seen something: folding an untouched one would prove nothing."""
    random = torch.Generator().manual_seed(5)
    torch.manual_seed(5)
    network = PolarityNetwork(NetworkConfig(backbone=backbone, channels=32, reduction=4))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            size = module.num_features
            module.running_mean = torch.randn(size, generator=random) * 0.2
            module.running_var = torch.rand(size, generator=random) + 0.5
            nn.init.uniform_(module.weight, 0.7, 1.1, generator=random)
            nn.init.uniform_(module.bias, -0.2, 0.2, generator=random)
    return network.eval()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.uint8]:
    folder = tmp_path_factory.mktemp("pictures")
    drawn = draw_catalogue(folder, products=30, views=4, size=64, broken=0)
    stored = (read_picture(Path(folder, picture.image_key).read_bytes()).pixels for picture in drawn)
    return np.stack([prepare(jpeg, PREPROCESSING) for jpeg in stored])


def recall_of_neighbours(found: Predictions, expected: Predictions) -> float:
    """How many of each picture's K nearest others are the same."""
    near, truth = (
        np.argsort(-(e @ e.T) + 2 * np.eye(len(e)), axis=1)[:, :K] for e in (found.embedding, expected.embedding)
    )
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(near, truth, strict=True)]))


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@torch.no_grad()
def test_a_folded_backbone_gives_the_same_features_without_batchnorms(backbone: str) -> None:
    whole = lively(backbone).backbone
    folded = fold_batchnorms(whole)
    batch = torch.randn(3, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    expected = whole(batch)
    torch.testing.assert_close(folded(batch), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in whole.modules())


def test_float32_scores_are_those_of_the_network_as_trained(pictures: NDArray[np.uint8]) -> None:
    network = lively("resnet18")
    found = Predictor(network, PREPROCESSING).predict(pictures)
    with torch.no_grad():
        output = network(PREPROCESSING.normalise(torch.from_numpy(pictures)))
    np.testing.assert_allclose(found.polarity, output.logits.softmax(1)[:, 1].numpy(), atol=1e-5)
    np.testing.assert_allclose(found.embedding, output.embedding.numpy(), atol=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_narrower_float_keeps_polarity_and_neighbours(
    pictures: NDArray[np.uint8], precision: ScoringPrecision
) -> None:
    network = lively("resnet18")
    expected = Predictor(network, PREPROCESSING).predict(pictures)
    found = Predictor(network, PREPROCESSING, precision=precision).predict(pictures)
    assert found.polarity.std() > 0.003  # the network tells these pictures apart
    np.testing.assert_allclose(found.polarity, expected.polarity, atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(found.embedding, axis=1), 1, rtol=1e-5)
    assert recall_of_neighbours(found, expected) >= 0.97


def test_a_narrower_float_scores_a_picture_alike_in_any_company(pictures: NDArray[np.uint8]) -> None:
    model = Predictor(lively("resnet18"), PREPROCESSING, precision="bfloat16")
    together = model.predict(pictures[:32])
    for row in (0, 13, 31):
        alone = model.predict(pictures[row : row + 1])
        assert alone.polarity[0] == pytest.approx(together.polarity[row], abs=1e-3)
        assert float(alone.embedding[0] @ together.embedding[row]) > 0.9999
    np.testing.assert_array_equal(model.predict(pictures[:32]).polarity, together.polarity)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch compiles with a C++ compiler")
@pytest.mark.filterwarnings("default")  # torch's own, while it compiles
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compiled_network_scores_as_the_same_network_does(
    pictures: NDArray[np.uint8], precision: ScoringPrecision
) -> None:
    model = Predictor(lively("resnet18"), PREPROCESSING, precision=precision)
    eager = model.predict(pictures[:24])
    model.compile(16)
    parts = [model.predict(pictures[start:stop]) for start, stop in ((0, 16), (16, 24))]  # the second is filled up
    found = Predictions.concatenate(parts)
    assert model.arithmetic == f"{precision}, compiled"
    assert not (found.embedding == eager.embedding).all()  # it was indeed another program
    np.testing.assert_allclose(found.polarity, eager.polarity, atol=0.01 if precision == "bfloat16" else 1e-4)
    assert (found.embedding * eager.embedding).sum(axis=1).min() > (0.999 if precision == "bfloat16" else 0.999999)


def test_auto_takes_the_smallest_float_that_the_device_is_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    for capability, expected in (((9, 0), torch.bfloat16), ((7, 5), torch.float16), ((6, 1), torch.float32)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device, found=capability: found)
        assert scoring_dtype(cuda, "auto") == expected
    for able, expected in (({"avx512_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=able: found)
        assert scoring_dtype(cpu, "auto") == expected
    assert scoring_dtype(cuda, "float32") == torch.float32


class NormThenRelu(nn.BatchNorm2d):
    """A BatchNorm that holds the activation, as timm's does."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return super().forward(maps).relu()


class Extractor(nn.Module):
    """A small feature extractor; `swapped`, it runs its convolutions in another order than it registers them."""

    def __init__(self, norm: type[nn.BatchNorm2d], swapped: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Conv2d(3, 16, 8, 8, bias=False)
        self.first, self.norm, self.second = nn.Conv2d(16, 16, 3, padding=1), norm(16), nn.Conv2d(16, 16, 3, padding=1)
        for affine in (self.norm.weight, self.norm.bias):
            nn.init.uniform_(affine, -1, 1)
        self.swapped = swapped

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        first, second = (self.second, self.first) if self.swapped else (self.first, self.second)
        maps: torch.Tensor = second(self.norm(first(self.stem(pictures))))
        return maps


Over = Callable[[nn.Module], PolarityNetwork]


@pytest.fixture
def over(monkeypatch: pytest.MonkeyPatch) -> Over:
    """The polarity network over a feature extractor whose BatchNorms are folded."""

    def build(extractor: nn.Module) -> PolarityNetwork:
        spec = BackboneSpec("extractor", lambda: extractor, channels=16, stages=(("",),))
        monkeypatch.setitem(BACKBONES, spec.name, spec)
        return PolarityNetwork(NetworkConfig(spec.name, channels=16, reduction=4)).eval()

    return build


@torch.no_grad()
def test_a_norm_that_does_more_than_norming_is_kept(pictures: NDArray[np.uint8], over: Over) -> None:
    network = over(Extractor(NormThenRelu))
    found = Predictor(network, PREPROCESSING).predict(pictures[:8])
    expected = network(PREPROCESSING.normalise(torch.from_numpy(pictures[:8])))
    np.testing.assert_allclose(found.embedding, expected.embedding.numpy(), atol=1e-5)


@pytest.mark.parametrize("swapped", [False, True])
@torch.no_grad()
def test_a_norm_is_folded_into_the_convolution_that_runs_before_it(swapped: bool) -> None:
    """Whatever the order in which they are registered."""
    extractor = Extractor(nn.BatchNorm2d, swapped).eval()
    batch = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    folded = fold_batchnorms(extractor)
    torch.testing.assert_close(folded(batch), extractor(batch), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


class Shared(nn.Module):
    """Convolutions whose outputs are not a BatchNorm's alone: `how` says why."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.how, self.norm = how, nn.BatchNorm2d(16)
        self.conv, self.other = nn.Conv2d(3, 16, 8, 8, bias=False), nn.Conv2d(16, 16, 1)
        nn.init.uniform_(self.norm.weight, 0.5, 2)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        maps = self.conv(pictures)
        takers: dict[str, Callable[[], torch.Tensor]] = {
            "its output is added too": lambda: self.norm(maps) + maps,
            "another module takes it too": lambda: self.norm(maps) + self.other(maps),
            "it is changed in between": lambda: self.norm(maps.mul_(2)),
            "it runs twice": lambda: self.norm(maps) + self.norm(self.conv(pictures.flip(3))),
            "the norm runs twice": lambda: self.norm(self.other(self.norm(maps))),
        }
        return takers[self.how]()


@pytest.mark.parametrize(
    "how",
    ["its output is added too", "another module takes it too", "it is changed in between", "it runs twice",
     "the norm runs twice"],
)  # fmt: skip
@torch.no_grad()
def test_a_norm_stays_where_a_convolution_does_not_feed_it_alone(how: str) -> None:
    extractor = Shared(how).eval()
    batch = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    folded = fold_batchnorms(extractor)
    assert torch.equal(folded(batch), extractor(batch))
    assert isinstance(folded.get_submodule("norm"), nn.BatchNorm2d)


def test_a_network_that_folding_changes_is_an_error_rather_than_an_answer(
    over: Over, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = over(Extractor(nn.BatchNorm2d))
    Predictor(network, PREPROCESSING)

    def wrongly(backbone: nn.Module, _side: int) -> nn.Module:
        changed = copy.deepcopy(backbone)
        changed.set_submodule("norm", nn.Identity())
        return changed

    monkeypatch.setattr("model.backbones.spec.fold_batchnorms", wrongly)
    with pytest.raises(ModelError, match="the folded network gives other answers than the network itself"):
        Predictor(network, PREPROCESSING)
