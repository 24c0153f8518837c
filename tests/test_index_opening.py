"""What is on disk: empty versions, damaged and contradicting files, deleted rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from shutil import copytree

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from index.arrays import Floats
from index.codebook import CODEBOOK, train_codebook, write_codebook
from index.deletions import write_deleted_rows
from index.description import CodebookHistory, IndexDescription, read_description, write_description
from index.errors import CorruptIndex, NotAnIndex, UnknownKey
from index.searching import Searcher
from index.shards import write_shard
from index.spec import IndexSpec
from tests import built_index
from tests.built_index import DIMENSION, FLAT, ROWS, Built, build_index
from tests.vectors import clustered, ivfpq, keys_for

# pytest finds a file's fixtures by the names in it.
vectors, queries, flat, coded = built_index.vectors, built_index.queries, built_index.flat, built_index.coded


@pytest.mark.parametrize("shards", [0, 1, 2])
@pytest.mark.parametrize("spec", [FLAT, ivfpq()], ids=["flat", "coded"])
def test_an_empty_index_opens_and_has_no_neighbours(spec: IndexSpec, shards: int, coded: Built, tmp_path: Path) -> None:
    codebook = None if spec.kind == "flat" else (coded.directory / CODEBOOK).read_bytes()
    if codebook:
        write_codebook(tmp_path, codebook)
    written = [
        write_shard(tmp_path, number, np.empty((0, DIMENSION)), keys_for(0), codebook, spec) for number in range(shards)
    ]
    history = None if codebook is None else CodebookHistory(CODEBOOK, 1, "the first", ROWS, 0.5)
    write_description(tmp_path, IndexDescription(spec, 0, tuple(written), 1, "none", codebook=history))
    searcher = Searcher.open(tmp_path)
    assert len(searcher) == 0
    assert searcher.search(coded.vectors[:3], 10).rows.shape == (3, 0)
    assert searcher.search(coded.vectors[:3], 10, keep=np.empty(0, bool)).similarity.shape == (3, 0)
    assert searcher.keys([]).num_rows == 0
    with pytest.raises(UnknownKey):
        searcher.find("a")


CODED_FILES = [CODEBOOK, "shard-00000.codes.zst", "shard-00000.vectors.npy", "shard-00000.keys.parquet"]


@pytest.fixture
def damaged(coded: Built, tmp_path: Path) -> Path:
    return Path(copytree(coded.directory, tmp_path / "damaged"))


@pytest.mark.parametrize("name", CODED_FILES)
def test_a_file_cut_short_anywhere_is_refused(damaged: Path, name: str) -> None:
    whole = (damaged / name).read_bytes()
    starts = [*range(0, 200, 9), *np.linspace(200, len(whole) - 1, 25, dtype=int)]
    for size in starts:
        (damaged / name).write_bytes(whole[:size])
        with pytest.raises(CorruptIndex, match=name):
            Searcher.open(damaged)


@pytest.mark.parametrize("name", CODED_FILES)
def test_noise_in_place_of_a_file_is_refused(damaged: Path, name: str) -> None:
    (damaged / name).write_bytes(np.random.default_rng(0).bytes(5_000))
    with pytest.raises(CorruptIndex, match=name):
        Searcher.open(damaged)


@pytest.mark.parametrize("name", CODED_FILES)
def test_a_missing_file_is_named(damaged: Path, name: str) -> None:
    (damaged / name).unlink()
    with pytest.raises(CorruptIndex, match=name):
        Searcher.open(damaged)


def test_a_length_of_a_terabyte_is_not_allocated(damaged: Path) -> None:
    path = damaged / "shard-00000.codes.zst"
    with pa.CompressedInputStream(str(path), "zstd") as stream:
        content = bytearray(stream.read())
    # The codebook's sha256, the name of the kind of lists, four sizes; then the length of the first list's ids.
    content[68:76] = (1 << 40).to_bytes(8, "little")
    with pa.CompressedOutputStream(str(path), "zstd") as stream:
        stream.write(bytes(content))
    with pytest.raises(CorruptIndex, match=r"shard-00000\.codes\.zst"):
        Searcher.open(damaged)


def _other_dtype(directory: Path) -> None:
    np.save(directory / "shard-00000.vectors.npy", np.zeros((1_500, DIMENSION), np.float32))


def _other_dimension(directory: Path) -> None:
    np.save(directory / "shard-00000.vectors.npy", np.zeros((1_500, DIMENSION // 2), np.float16))


def _fewer_vectors(directory: Path) -> None:
    np.save(directory / "shard-00000.vectors.npy", np.zeros((1_499, DIMENSION), np.float16))


def _fewer_keys(directory: Path) -> None:
    parquet.write_table(keys_for(1_499), directory / "shard-00000.keys.parquet")


def _keys_of_another_shard(directory: Path) -> None:
    parquet.write_table(keys_for(1_500, first=1_500), directory / "shard-00000.keys.parquet")


def _no_keys(directory: Path) -> None:
    parquet.write_table(pa.table({"name": ["a"] * 1_500}), directory / "shard-00000.keys.parquet")


def _other_columns(directory: Path) -> None:
    parquet.write_table(
        keys_for(1_500).set_column(1, "product_id", pa.array(range(1_500))),
        directory / "shard-00000.keys.parquet",
    )


def _codes_of_another_shard(directory: Path) -> None:
    (directory / "shard-00000.codes.zst").write_bytes((directory / "shard-00002.codes.zst").read_bytes())


def _other_training(directory: Path) -> None:
    write_codebook(directory, train_codebook(clustered(1_000, DIMENSION, seed=77), ivfpq(), seed=5))


def _other_lists(directory: Path) -> None:
    write_codebook(directory, train_codebook(clustered(1_000, DIMENSION, seed=77), ivfpq(nlist=16), seed=5))


def _more_rows_promised(directory: Path) -> None:
    values = json.loads((directory / "index.json").read_text())
    (directory / "index.json").write_text(json.dumps(values | {"rows": ROWS + 1}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_dtype, "expected float16"),
        (_other_dimension, r"expected float16 of \(N, 64\)"),
        (_fewer_vectors, "expected 1500 rows, found 1499"),
        (_fewer_keys, "expected 1500 rows, found 1499"),
        (_keys_of_another_shard, "1500 image_keys are there twice"),
        (_no_keys, "no column image_key"),
        (_other_columns, "different columns"),
        (_codes_of_another_shard, "expected 1500 rows, found 2300"),
        (_other_training, "encoded by another codebook"),
        (_other_lists, "lists: expected 32, found 16"),
        (_more_rows_promised, "shards hold the rows"),
    ],
)
def test_files_that_contradict_each_other_are_refused(
    damaged: Path, change: Callable[[Path], None], message: str
) -> None:
    change(damaged)
    with pytest.raises(CorruptIndex, match=message):
        Searcher.open(damaged)


def test_an_empty_directory_is_not_an_index(tmp_path: Path) -> None:
    with pytest.raises(NotAnIndex):
        Searcher.open(tmp_path)


# Deleted rows: rows of a shard's files that search must never answer with


def _delete(directory: Path, *deleted: list[int]) -> Searcher:
    """Delete rows of each shard of a copy and open it."""
    name = write_deleted_rows(directory, [np.array(rows, dtype=np.int64) for rows in deleted])
    described = read_description(directory)
    left = described.rows - sum(map(len, deleted))
    write_description(directory, replace(described, rows=left, deleted=name))
    return Searcher.open(directory)


@pytest.mark.parametrize(
    "spec",
    [
        FLAT,
        ivfpq(),
        IndexSpec("pq", DIMENSION, pq_subquantizers=16),
    ],
    ids=["flat", "ivfpq", "pq"],
)
def test_deleted_rows_are_as_if_they_were_never_written(
    spec: IndexSpec, vectors: Floats, queries: Floats, tmp_path: Path
) -> None:
    built = build_index(tmp_path / "built", spec, vectors, [1_500, 0, 2_300, 200])
    copytree(built.directory, tmp_path / "deleted")
    described = read_description(built.directory)
    sizes = [shard.rows for shard in described.shards]
    drawn = np.random.default_rng(0).random(ROWS) < 0.3
    drawn[:20] = True  # also the first of all
    starts = np.cumsum([0, *sizes])
    deleted = [np.flatnonzero(drawn[start:end]).tolist() for start, end in pairwise(starts)]
    searcher = _delete(tmp_path / "deleted", *deleted)
    left = np.flatnonzero(~drawn)
    assert len(searcher) == len(left)
    assert searcher.table.equals(built.searcher.table.take(pa.array(left)))
    keep = np.random.default_rng(1).random(len(left)) < 0.5
    everywhere = np.zeros(ROWS, dtype=bool)
    for mask in (None, keep):
        everywhere[:] = False
        everywhere[left if mask is None else left[mask]] = True
        nprobe = described.spec.nlist
        neighbours = searcher.search(queries, 10, keep=mask, nprobe=nprobe)
        expected = built.searcher.search(queries, 10, keep=everywhere, nprobe=nprobe)
        np.testing.assert_array_equal(left[neighbours.rows], expected.rows)
        np.testing.assert_array_equal(neighbours.similarity, expected.similarity)
        exact, truth = searcher.exact(queries, 10, keep=mask), built.searcher.exact(queries, 10, keep=everywhere)
        np.testing.assert_array_equal(left[exact.rows], truth.rows)


def test_a_deletion_of_rows_that_no_shard_has_is_refused(flat: Built, tmp_path: Path) -> None:
    copytree(flat.directory, tmp_path / "deleted")
    with pytest.raises(CorruptIndex, match="deletes rows that no shard has"):
        _delete(tmp_path / "deleted", [ROWS])
