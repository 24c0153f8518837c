import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from index.building import (
    Codebook,
    IndexDescription,
    Shard,
    mean_coarse_distance,
    read_description,
    train_quantizers,
    write_description,
    write_shard,
)
from index.errors import BadVectors, CorruptIndex, NotAnIndex
from index.spec import IndexSpec
from tests.vectors import Floats, clustered, ivfpq, keys_for

FLAT = IndexSpec("flat", 16)


@pytest.fixture(scope="module")
def vectors() -> Floats:
    return clustered(3_000, 64, seed=3)


@pytest.fixture(scope="module")
def trained(vectors: Floats) -> bytes:
    return train_quantizers(vectors, ivfpq(), seed=1)


def test_training_twice_with_one_seed_gives_the_same_bytes(vectors: Floats, trained: bytes) -> None:
    assert train_quantizers(vectors, ivfpq(), seed=1) == trained
    assert train_quantizers(vectors, ivfpq(), seed=2) != trained


def test_training_returns_an_empty_trained_index(trained: bytes) -> None:
    index = faiss.deserialize_index(np.frombuffer(trained, np.uint8))
    assert index.ntotal == 0
    assert index.is_trained


def test_training_works_on_copies_of_one_picture() -> None:
    train_quantizers(np.ones((200, 8)), IndexSpec("ivfpq", 8, pca=4, nlist=4, pq_subquantizers=2), seed=0)


def test_too_few_training_rows_are_refused_with_the_number_needed() -> None:
    with pytest.raises(BadVectors, match=r"at least 32 training rows, found 31"):
        train_quantizers(clustered(31, 64, seed=0), ivfpq(), seed=0)


def test_a_bad_training_row_is_named(vectors: Floats) -> None:
    sample = vectors.copy()
    sample[17, 3] = np.nan
    with pytest.raises(BadVectors, match=r"1 NaN or infinite: training row 17"):
        train_quantizers(sample, ivfpq(), seed=0)


def test_a_new_kind_of_rows_lies_farther_from_the_centroids(vectors: Floats, trained: bytes) -> None:
    usual = mean_coarse_distance(trained, vectors, ivfpq())
    unusual = mean_coarse_distance(trained, clustered(500, 64, seed=99), ivfpq())
    assert unusual > 1.2 * usual


def test_a_shard_is_the_same_bytes_when_written_twice(vectors: Floats, trained: bytes, tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shard = write_shard(tmp_path / name, 3, vectors, keys_for(3_000), trained, ivfpq())
        contents.append([(tmp_path / name / file).read_bytes() for file in shard.files])
    assert contents[0] == contents[1]
    assert (shard.number, shard.rows) == (3, 3_000)
    assert shard.files == ("shard-00003.vectors.npy", "shard-00003.keys.parquet", "shard-00003.codes.zst")


def test_vectors_are_stored_with_length_one_under_cosine(tmp_path: Path) -> None:
    vectors = clustered(20, 16, seed=1) * np.geomspace(1e-30, 1e30, 20, dtype=np.float32)[:, None]
    write_shard(tmp_path, 0, vectors, keys_for(20), None, FLAT)
    stored = np.load(tmp_path / "shard-00000.vectors.npy")
    assert stored.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(stored.astype(np.float32), axis=1), 1, atol=1e-3)


def test_columns_of_the_keys_pass_through(tmp_path: Path) -> None:
    keys = keys_for(20)
    write_shard(tmp_path, 0, clustered(20, 16, seed=1), keys, None, FLAT)
    assert parquet.read_table(tmp_path / "shard-00000.keys.parquet").equals(keys)


def _with(row: int, value: float) -> Floats:
    vectors = clustered(20, 16, seed=1)
    vectors[row] = value
    return vectors


def _named(*names: str | None) -> pa.Table:
    return pa.table({"image_key": pa.array(names, pa.string())})


GOOD = clustered(20, 16, seed=1)


@pytest.mark.parametrize(
    ("vectors", "keys", "message"),
    [
        (_with(4, np.nan), keys_for(20), r"1 NaN or infinite: 'shop/000004\.jpg'"),
        (_with(5, np.inf), keys_for(20), r"1 NaN or infinite: 'shop/000005\.jpg'"),
        (_with(6, 0), keys_for(20), r"1 all zero: 'shop/000006\.jpg'"),
        (GOOD * 0, keys_for(20), r"20 all zero: 'shop/000000\.jpg', .*000002\.jpg', …"),
        (GOOD[:, :8], keys_for(20), r"expected vectors of shape \(N, 16\), found \(20, 8\)"),
        (GOOD[0], keys_for(1), r"expected vectors of shape \(N, 16\), found \(16,\)"),
        (GOOD, keys_for(19), "20 vectors but 19 keys"),
        (GOOD[:3], _named("a", "b", "a"), "1 duplicate image_keys: 'a'"),
        (GOOD[:3], _named("a", None, "b"), "1 of 3 image_keys are missing"),
        (GOOD[:1], pa.table({"key": ["a"]}), "no column image_key"),
        (GOOD[:1], pa.table({"image_key": [1]}), "image_key: expected strings, found int64"),
    ],
)
def test_what_faiss_would_swallow_is_refused_before_anything_is_written(
    vectors: Floats, keys: pa.Table, message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadVectors, match=message):
        write_shard(tmp_path, 0, vectors, keys, None, FLAT)
    assert not list(tmp_path.iterdir())


def test_euclidean_vectors_may_be_zero_but_not_beyond_fp16(tmp_path: Path) -> None:
    spec = IndexSpec("flat", 16, "euclidean")
    write_shard(tmp_path, 0, np.zeros((1, 16)), keys_for(1), None, spec)
    with pytest.raises(BadVectors, match="1 too large for fp16"):
        write_shard(tmp_path, 1, np.full((1, 16), 70_000.0), keys_for(1), None, spec)


def test_a_flat_shard_takes_no_quantizers_and_the_others_need_them(trained: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no trained"):
        write_shard(tmp_path, 0, GOOD, keys_for(20), trained, FLAT)
    with pytest.raises(ValueError, match="needs trained"):
        write_shard(tmp_path, 0, clustered(20, 64, seed=0), keys_for(20), None, ivfpq())
    with pytest.raises(ValueError, match="nothing to train"):
        train_quantizers(GOOD, FLAT, seed=0)


def test_quantizers_of_another_spec_are_refused(trained: bytes, tmp_path: Path) -> None:
    with pytest.raises(CorruptIndex, match="lists: expected 16, found 32"):
        write_shard(tmp_path, 0, clustered(20, 64, seed=0), keys_for(20), trained, ivfpq(nlist=16))
    with pytest.raises(CorruptIndex, match="cannot be read"):
        write_shard(tmp_path, 0, clustered(20, 64, seed=0), keys_for(20), trained[:1000], ivfpq())


SPEC = FLAT.to_dict()
CODEBOOK = Codebook("../000003/trained.faiss", 3, "no index of model 7 was published yet", 400, 0.5, 1.25, 1.5, 20, 0.6)
DESCRIPTION = IndexDescription(
    FLAT,
    30,
    (Shard("../000002/shard-00000", 25), Shard("shard-00000", 6)),
    7,
    "abc",
    recall={"recall_at_10": 0.99},
    codebook=CODEBOOK,
    masked="masked.parquet",
)
GOLDEN = {
    "format": 1,
    "spec": SPEC,
    "rows": 30,
    "shards": [{"path": "../000002/shard-00000", "rows": 25}, {"path": "shard-00000", "rows": 6}],
    "model_version": 7,
    "fingerprint": "abc",
    "nprobe": 32,
    "rerank_factor": 4,
    "recall": {"recall_at_10": 0.99},
    "codebook": {
        "path": "../000003/trained.faiss",
        "version": 3,
        "reason": "no index of model 7 was published yet",
        "trained_rows": 400,
        "coarse_distance": 0.5,
        "imbalance": 1.25,
        "imbalance_now": 1.5,
        "added_rows": 20,
        "added_distance": 0.6,
    },
    "masked": "masked.parquet",
}


def test_a_description_is_read_as_written(tmp_path: Path) -> None:
    assert write_description(tmp_path, DESCRIPTION) == "index.json"
    assert read_description(tmp_path) == DESCRIPTION
    assert json.loads((tmp_path / "index.json").read_text()) == GOLDEN


def test_a_directory_without_a_known_description_is_not_an_index(tmp_path: Path) -> None:
    with pytest.raises(NotAnIndex, match=r"no index\.json"):
        read_description(tmp_path)
    others: list[object] = [[], {}, GOLDEN | {"format": 2}]
    for other in others:
        (tmp_path / "index.json").write_text(json.dumps(other))
        with pytest.raises(NotAnIndex, match="expected format 1"):
            read_description(tmp_path)


def _without(name: str) -> dict[str, object]:
    return {key: value for key, value in GOLDEN.items() if key != name}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"format": 1}',
        json.dumps(GOLDEN | {"shards": 2}),
        json.dumps(GOLDEN | {"rows": 32}),
        json.dumps(GOLDEN | {"codebook": {"path": "trained.faiss"}}),
        json.dumps(_without("spec")),
        json.dumps(_without("nprobe")),
        json.dumps(GOLDEN | {"rows": -1}),
        json.dumps(GOLDEN | {"rows": "30"}),
        json.dumps(GOLDEN | {"shards": []}),
        json.dumps(GOLDEN | {"spec": {"kind": "hnsw", "dimension": 16}}),
        json.dumps(GOLDEN | {"spec": None}),
        json.dumps(GOLDEN | {"recall": [1]}),
    ],
)
def test_a_damaged_description_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(CorruptIndex):
        read_description(tmp_path)


@pytest.mark.parametrize("change", [{"nprobe": 0}, {"rerank_factor": 0}, {"rows": 1, "shards": ()}])
def test_an_impossible_description_is_refused(change: dict[str, object]) -> None:
    make: Callable[..., IndexDescription] = replace
    with pytest.raises(ValueError, match="IndexDescription"):
        make(DESCRIPTION, **change)
