"""A labelled shop of small objects on white is split by product, and copies go where their originals go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks._white_shop import draw_products
from lake.lake import open_lake
from model.split import split
from tasks.retrain.labelled import read_labelled
from tasks.retrain.labels import snapshot_labels
from tests import small_lake

PRODUCTS, COPIES = 60, 12


def test_each_object_on_white_is_a_group_with_its_copies(tmp_path: Path) -> None:
    source, uri = tmp_path / "pictures", str(tmp_path / "lake")
    labels = ["image_key,label"]
    for number, (name, picture) in enumerate(draw_products(PRODUCTS)):
        (source / name).mkdir(parents=True)
        picture.save(source / name / "1.jpg", quality=92)
        labels.append(f"{name}/1.jpg,{number // 8 % 2}")
        if number < COPIES:
            small = picture.resize((280, 280), Image.Resampling.LANCZOS)
            (small if number % 2 else picture.crop((12, 12, 388, 388))).save(source / name / "copy.jpg", quality=90)
            labels.append(f"{name}/copy.jpg,{number // 8 % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(labels))
    small_lake.ingest(uri, str(source))  # no pattern of products: each content by itself
    lake = open_lake(uri)
    labelled = read_labelled(lake, snapshot_labels(lake, str(tmp_path / "labels.csv"), "a-run"), seed=0)
    products = np.array([key.rsplit("/", 1)[0] for key in labelled.keys])
    assert len(labelled.keys) == PRODUCTS + COPIES
    np.testing.assert_array_equal(
        labelled.groups[:, None] == labelled.groups[None], products[:, None] == products[None]
    )
    sides = split(labelled.labels, labelled.groups, seed=0)
    assert not set(products[sides.train]) & set(products[sides.held_out])
