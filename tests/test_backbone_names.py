"""Names find backbones, wrong ones near ones; sizes that do not fit are refused; the list says what is at hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from model.backbones import listing
from model.backbones.names import DEFAULT
from model.backbones.registry import find_backbone
from model.errors import ModelError, UnfitPicture
from tasks.config import ModelChoice
from tasks.looks import new_backbone
from tests.command_line import Run

WRONG = {
    "resnet81": "no backbone is named 'resnet81': did you mean resnet18",
    "clip": "did you mean efficientnet-lite0, resnet18, resnet50, resnet101, torchvision/NAME, timm/NAME",
    "torchvision/mobilenet_v3_larg": "did you mean torchvision/mobilenet_v3_large",
    "timm/vit_tiny_patch16_224.augreg_in21": "did you mean timm/vit_tiny_patch16_224",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_name_is_refused_with_near_ones(name: str) -> None:
    with pytest.raises(ModelError, match=WRONG[name]):
        find_backbone(name)
    with pytest.raises(ValidationError, match=WRONG[name]):
        ModelChoice(backbone=name)


def test_without_timm_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match=r"timm is not installed: pip install 'vitrine\[timm\]'"):
        find_backbone("timm/never_asked_for")
    with pytest.raises(ModelError, match=r"pip install 'vitrine\[timm\]'"):
        listing.list_backbones(timm=True)


def test_neither_package_is_imported_for_another_backbones_sake() -> None:
    program = """
import sys
from tasks.config import ModelChoice
assert "torch" not in sys.modules
from tasks.looks import new_backbone
for name in (None, "resnet18"):
    new_backbone(ModelChoice(backbone=name, image_size=64, weights="random" if name else None))
assert not {"torchvision", "timm"} & set(sys.modules), "imported"
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_choice_of_nothing_is_the_bundled_trunk() -> None:
    assert ModelChoice().start == "bundled" and ModelChoice(backbone="resnet18").start == "imagenet"
    assert ModelChoice(default_weights="random").start == "random"
    assert ModelChoice(default_weights="random", weights="imagenet").start == "imagenet"
    _, spec, preprocessing, adapted = new_backbone(ModelChoice())
    assert spec.name == DEFAULT and preprocessing.image_size == 224
    assert preprocessing.mean == (127 / 255,) * 3 and "_fc.weight" in adapted


SIZES = [
    ("timm/vit_small_patch14_dinov2.lvd142m", 64, "at least 42×42 pixels and multiples of 14, found 64×64: take 70"),
    ("timm/levit_128s", 64, "expected 224×224 pixels, found 64×64: take 224"),
    ("torchvision/inception_v3", 64, "expected at least 75×75 pixels, found 64×64: take 75"),
    ("torchvision/vit_b_16", 100, "multiples of 16, found 100×100: take 96"),
]


@pytest.mark.parametrize(("name", "side", "expected"), SIZES)
def test_a_size_that_the_backbone_cannot_take_is_refused_before_anything_is_built(
    name: str, side: int, expected: str
) -> None:
    with pytest.raises(UnfitPicture, match=expected):
        new_backbone(ModelChoice(backbone=name, image_size=side, weights="random"))
    spec = find_backbone(name)
    spec.check_sides(*[spec.fitting_side(side)] * 2)


PREPROCESSING = [
    ("torchvision/efficientnet_b1", 240, 0.485, "bicubic"),
    ("torchvision/googlenet", 224, 0.5, "bilinear"),
    ("timm/vit_base_patch16_siglip_224.webli", 224, 0.5, "bicubic"),
    ("timm/vit_small_patch14_dinov2.lvd142m", 518, 0.485, "bicubic"),
]


@pytest.mark.parametrize(("name", "side", "mean", "interpolation"), PREPROCESSING)
def test_a_backbone_brings_the_preprocessing_of_its_weights(
    name: str, side: int, mean: float, interpolation: str
) -> None:
    found = find_backbone(name).preprocessing
    assert (found.image_size, found.mean[0], found.interpolation) == (side, mean, interpolation)


def test_learning_of_a_backbone_draws_nothing_at_random() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    find_backbone("timm/test_vit2")
    find_backbone("torchvision/vit_b_32")
    assert torch.equal(torch.rand(1), expected)


def test_the_list_says_what_each_backbone_costs_and_whether_its_weights_are_at_hand(run: Run, tmp_path: Path) -> None:
    weights = tmp_path / "hub/checkpoints/resnet18-f37072fd.pth"
    weights.parent.mkdir(parents=True)
    weights.touch()
    said = run("backbones", "--json", TORCH_HOME=str(tmp_path))
    rows = {row.pop("name"): row for row in json.loads(said.out)}
    assert rows["efficientnet-lite0"]["weights"] == "bundled"
    assert rows["resnet18"]["weights"] == rows["torchvision/resnet18"]["weights"] == "cached"
    assert rows["resnet50"]["weights"] == "download"
    assert rows["resnet18"] | {"weights": ""} == {
        "parameters": 11_176_512, "multiply_adds": 1_813_561_344, "image_size": 224, "weights": "",
    }  # fmt: skip
    # Published figures agree but for the classifier, of 512 × 1000 weights.
    assert rows["torchvision/resnet18"]["parameters"] == 11_176_512 + 513_000
    assert len(rows) > 80
    assert "torchvision/swin_t" in run("backbones", "swin_?").out


def test_timms_models_are_listed_with_their_costs_where_few_are_asked_for() -> None:
    (row,) = listing.list_backbones("test_vit3*", timm=True)
    assert (row.name, row.image_size) == ("timm/test_vit3.r160_in1k", 160)
    assert row.parameters == sum(p.numel() for p in find_backbone(row.name).build().parameters())
    assert row.multiply_adds and row.weights in {"cached", "download"}
    many = listing.list_backbones("resnet", timm=True)
    assert len(many) > listing.MOST_MEASURED and {each.parameters for each in many} == {None}
