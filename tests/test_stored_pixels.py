"""Stored JPEGs as a network's input, held against Pillow."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.errors import Undecodable
from model.pictures.stored import empty_batch, prepare, prepare_into, prepare_on_gpu
from model.preprocessing import Preprocessing
from tasks.pictures import read_picture

CHOICES = [
    Preprocessing(image_size=64),
    Preprocessing(image_size=224, interpolation="bilinear"),
]


@pytest.fixture(scope="module")
def jpegs(grocery: Path) -> list[bytes]:
    photographs = sorted((grocery / "images").rglob("*.jpg"))[::90][:8]
    wide = Image.open(photographs[0]).resize((301, 120))
    file = io.BytesIO()
    wide.save(file, "PNG")
    return [read_picture(data).pixels for data in (*(path.read_bytes() for path in photographs), file.getvalue())]


@pytest.mark.parametrize("preprocessing", CHOICES)
def test_pixels_are_pillows_within_two_of_255(jpegs: list[bytes], preprocessing: Preprocessing) -> None:
    filter_ = Image.Resampling[preprocessing.interpolation.upper()]
    side = preprocessing.image_size
    for jpeg in jpegs:
        image: Image.Image = Image.open(io.BytesIO(jpeg))
        expected = np.asarray(image.resize((side, side), filter_)).transpose(2, 0, 1).astype(int)
        assert np.abs(prepare(jpeg, preprocessing).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("preprocessing", CHOICES)
def test_a_batch_holds_what_each_picture_gives(jpegs: list[bytes], preprocessing: Preprocessing) -> None:
    batch = empty_batch(len(jpegs), preprocessing.image_size)
    prepare_into(batch, jpegs, preprocessing)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(batch.numpy(), np.stack([prepare(jpeg, preprocessing) for jpeg in jpegs]))


@pytest.mark.filterwarnings("ignore:The image decoding")
@pytest.mark.parametrize("preprocessing", CHOICES)
def test_the_gpus_way_gives_the_same_picture(jpegs: list[bytes], preprocessing: Preprocessing) -> None:
    """Run on the CPU: nvJPEG's own rounding is not in this."""
    found = prepare_on_gpu(jpegs, preprocessing, torch.device("cpu")).numpy().astype(int)
    expected = np.stack([prepare(jpeg, preprocessing) for jpeg in jpegs])
    assert np.abs(found - expected).max() <= 8  # where bicubic overshoots, uint8 clips between its two passes
    assert np.abs(found - expected).mean() < 0.3


def test_damaged_bytes_are_refused_with_a_reason() -> None:
    with pytest.raises(Undecodable, match="not a picture"):
        prepare(b"no picture", CHOICES[0])
    with pytest.raises(Undecodable, match="truncated JPEG"):
        prepare_into(empty_batch(1, 64), [b"\xff\xd8\xff\xe0 cut"], CHOICES[0])
