from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from index.arrays import Floats
from index.codebook import mean_coarse_distance, train_codebook
from index.errors import BadVectors, CorruptIndex
from index.searching import Searcher
from index.shards import write_index, write_shard
from index.spec import IndexSpec
from tests.vectors import clustered, ivfpq, keys_for

FLAT = IndexSpec("flat", 16)


@pytest.fixture(scope="module")
def vectors() -> Floats:
    return clustered(3_000, 64, seed=3)


@pytest.fixture(scope="module")
def codebook(vectors: Floats) -> bytes:
    return train_codebook(vectors, ivfpq(), seed=1)


def test_training_twice_with_one_seed_gives_the_same_bytes(vectors: Floats, codebook: bytes) -> None:
    assert train_codebook(vectors, ivfpq(), seed=1) == codebook
    assert train_codebook(vectors, ivfpq(), seed=2) != codebook


def test_training_returns_an_empty_trained_index(codebook: bytes) -> None:
    index = faiss.deserialize_index(np.frombuffer(codebook, np.uint8))
    assert index.ntotal == 0
    assert index.is_trained


def test_training_works_on_copies_of_one_picture() -> None:
    train_codebook(np.ones((200, 8)), IndexSpec("ivfpq", 8, pca=4, nlist=4, pq_subquantizers=2), seed=0)


def test_too_few_training_rows_are_refused_with_the_number_needed() -> None:
    with pytest.raises(BadVectors, match=r"at least 32 training rows, found 31"):
        train_codebook(clustered(31, 64, seed=0), ivfpq(), seed=0)


def test_a_bad_training_row_is_named(vectors: Floats) -> None:
    sample = vectors.copy()
    sample[17, 3] = np.nan
    with pytest.raises(BadVectors, match=r"1 NaN or infinite: training row 17"):
        train_codebook(sample, ivfpq(), seed=0)


def test_a_new_kind_of_rows_lies_farther_from_the_centroids(vectors: Floats, codebook: bytes) -> None:
    usual = mean_coarse_distance(codebook, vectors, ivfpq())
    unusual = mean_coarse_distance(codebook, clustered(500, 64, seed=99), ivfpq())
    assert unusual > 1.2 * usual


def test_a_shard_is_the_same_bytes_when_written_twice(vectors: Floats, codebook: bytes, tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shard = write_shard(tmp_path / name, 3, vectors, keys_for(3_000), codebook, ivfpq())
        contents.append([(tmp_path / name / file).read_bytes() for file in shard.files(ivfpq())])
    assert contents[0] == contents[1]
    assert (shard.path, shard.rows) == ("shard-00003", 3_000)
    assert shard.files(ivfpq()) == ("shard-00003.vectors.npy", "shard-00003.keys.parquet", "shard-00003.codes.zst")


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


def test_a_flat_shard_takes_no_codebook_and_the_others_need_one(codebook: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no codebook"):
        write_shard(tmp_path, 0, GOOD, keys_for(20), codebook, FLAT)
    with pytest.raises(ValueError, match="needs codebook"):
        write_shard(tmp_path, 0, clustered(20, 64, seed=0), keys_for(20), None, ivfpq())
    with pytest.raises(ValueError, match="nothing to train"):
        train_codebook(GOOD, FLAT, seed=0)


def test_a_codebook_of_another_spec_is_refused(codebook: bytes, tmp_path: Path) -> None:
    with pytest.raises(CorruptIndex, match="lists: expected 16, found 32"):
        write_shard(tmp_path, 0, clustered(20, 64, seed=0), keys_for(20), codebook, ivfpq(nlist=16))
    with pytest.raises(CorruptIndex, match="cannot be read"):
        write_shard(tmp_path, 0, clustered(20, 64, seed=0), keys_for(20), codebook[:1000], ivfpq())


def test_a_whole_index_is_its_shards_codebook_and_description(vectors: Floats, tmp_path: Path) -> None:
    """The same files as written one by one; vectors that are read by slices do as well as an array."""

    class FromDisk:
        def __len__(self) -> int:
            return len(vectors)

        def __getitem__(self, rows: slice) -> Floats:
            return vectors[rows]

    described = write_index(tmp_path / "whole", FromDisk(), keys_for(3_000), ivfpq(), shards=[1_000, 2_000], seed=1)
    codebook = train_codebook(vectors, ivfpq(), seed=1)  # fewer than it would take of a larger catalogue: all of them
    for number, rows in enumerate((slice(0, 1_000), slice(1_000, 3_000))):
        keys = keys_for(3_000).slice(rows.start, rows.stop - rows.start)
        write_shard(tmp_path, number, vectors[rows], keys, codebook, ivfpq())
    for file in ("codebook.faiss", *(name for shard in described.shards for name in shard.files(ivfpq()))):
        expected = codebook if file == "codebook.faiss" else (tmp_path / file).read_bytes()
        assert (tmp_path / "whole" / file).read_bytes() == expected
    assert described.codebook is not None
    assert described.codebook.trained_rows == 3_000
    assert described.codebook.coarse_distance == mean_coarse_distance(codebook, vectors[:2_048], ivfpq())
    searcher = Searcher.open(tmp_path / "whole")
    assert searcher.description == described
    assert searcher.search(vectors[::100], 1).rows.ravel().tolist() == list(range(0, 3_000, 100))
