"""However somebody saved a backbone's weights, they go in and what was done is said, or they are refused."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from model.backbones.registry import find_backbone
from model.backbones.spec import HEADS, BackboneSpec
from model.errors import WeightsMismatch
from model.published_weights import fit, parse
from model.weights import load_backbone


def extractor() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))


SPEC = BackboneSpec("three-layers", extractor, channels=4, stages=(("",),))


def published() -> dict[str, Tensor]:
    """What a classifier over the three layers was saved as."""
    random = torch.Generator().manual_seed(1)
    state = {
        name: torch.randn(tensor.shape, generator=random) if tensor.ndim else torch.tensor(7)
        for name, tensor in extractor().state_dict().items()
    }
    return state | {"fc.weight": torch.randn(10, 4), "fc.bias": torch.zeros(10)}


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def under(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in published().items()}


CLASSIFIER = "classifier left out (fc.bias, fc.weight)"
WAYS: dict[str, tuple[bytes | Mapping[str, Tensor], str]] = {
    "as they are": ({name: t for name, t in published().items() if not name.startswith("fc.")}, ""),
    "a mapping with a classifier": (published(), CLASSIFIER),
    "safetensors": (save(published()), CLASSIFIER),
    "torch.save": (saved(published()), CLASSIFIER),
    "the old torch.save": (b"", CLASSIFIER),
    "another classifier": (saved(published() | {"fc.weight": torch.randn(3, 4)}), CLASSIFIER),
    "a checkpoint": (saved({"epoch": 3, "state_dict": published()}), f"read from its 'state_dict'; {CLASSIFIER}"),
    "an average": (
        saved({"model": under("x."), "model_ema": published()}), f"read from its 'model_ema'; {CLASSIFIER}",
    ),
    "a checkpoint's model's": (
        saved({"model": {"state_dict": published()}}), f"read from its 'model.state_dict'; {CLASSIFIER}",
    ),
    "several GPUs'": (saved(under("module.")), f"prefix 'module.' left out; {CLASSIFIER}"),
    "a detector's": (
        saved(under("module.backbone.") | {"module.neck.weight": torch.zeros(1)}),
        f"prefix 'module.backbone.' left out; {CLASSIFIER}; 1 other tensors left out (module.neck.weight)",
    ),
    "without counters": (
        {name: t for name, t in published().items() if "num_batches" not in name},
        f"{CLASSIFIER}; 1 BatchNorm counters left at 0",
    ),
    "half": (
        {name: t.half() if t.is_floating_point() else t for name, t in published().items()},
        f"{CLASSIFIER}; converted from float16",
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_weights_go_in_however_they_were_saved_and_what_was_done_is_said(way: str) -> None:
    data, expected = WAYS[way]
    if way == "the old torch.save":
        buffer = io.BytesIO()
        torch.save(published(), buffer, _use_new_zipfile_serialization=False)
        data = buffer.getvalue()
    network = extractor()
    assert load_backbone(network, data, SPEC) == expected
    for name, tensor in network.state_dict().items():
        true = published()[name]
        if "num_batches" in name:
            assert tensor == (0 if way == "without counters" else true)
        else:
            tolerance = 1e-3 if way == "half" else 0
            torch.testing.assert_close(tensor, true, rtol=tolerance, atol=tolerance)


def test_a_backbone_may_have_a_prefix_that_the_file_has_not() -> None:
    own = {f"network.{name}": tensor for name, tensor in extractor().state_dict().items()}
    for content in (published(), under("network."), under("module.network.")):
        fitted = fit(content, own, HEADS)
        assert "classifier left out (" in fitted.adapted
        assert fitted.state.keys() == own.keys()
        assert all(torch.equal(fitted.state[name], published()[name.removeprefix("network.")]) for name in own)


INFINITE, NAN = torch.full((4,), torch.inf), torch.full((4,), torch.nan)
REFUSED: dict[str, tuple[bytes | Mapping[str, Tensor], str]] = {
    "infinite": (published() | {"2.bias": INFINITE}, r"finite weights, found others in 1 tensors: 2\.bias"),
    "not a number": (published() | {"0.bias": NAN}, r"finite weights, found others in 1 tensors: 0\.bias"),
    "of a deeper network": (published() | {"3.weight": torch.zeros(1)}, r"1 unexpected: 3\.weight"),
    "of another width": (
        published() | {"2.bias": torch.zeros(5)}, r"1 of another shape: 2\.bias \(expected \(4,\), found \(5,\)",
    ),
    "of a shallower network": ({n: t for n, t in published().items() if n != "2.bias"}, r"1 missing: 2\.bias"),
    "of nothing known": (saved({"weights": published()}), "expected tensors by name, found weights"),
    "a list": (saved([torch.zeros(1)]), "expected tensors by name, found nothing"),
    "no file of weights": (b"GIF89a" * 10, "found 60 bytes that are neither"),
    "cut short": (saved(published())[:-300], "bytes that are neither"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_weights_that_do_not_fit_are_refused_and_nothing_is_loaded(what: str) -> None:
    data, expected = REFUSED[what]
    network = extractor()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(WeightsMismatch, match=f"three-layers: .*{expected}|{expected}"):
        load_backbone(network, data, SPEC)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


class Code:
    """Opened as a pickle, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_a_file_that_holds_code_is_refused_and_the_code_is_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for data in (saved({"state_dict": Code(trace)}), pickle.dumps(Code(trace), protocol=2)):
        with pytest.raises(WeightsMismatch, match="that are neither"):
            parse(data)
        assert not trace.exists()


def test_a_densenets_old_names_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import densenet121

    spec = find_backbone("torchvision/densenet121")
    with torch.device("meta"):
        names = densenet121(weights=None).state_dict()
    old = {name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): t for name, t in names.items()}
    assert old.keys() != names.keys()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: old)
    assert spec.imagenet is not None and spec.imagenet.fetch().keys() == names.keys()
