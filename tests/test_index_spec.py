from __future__ import annotations

from dataclasses import asdict
from typing import Any

import faiss
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.spec import IndexKind, IndexSpec


@pytest.mark.parametrize(
    ("dimension", "first"), [(2048, 1_220), (1280, 1_953), (512, 4_882), (128, 19_531), (8, 20_000)]
)
def test_what_is_compared_as_quickly_as_its_codes_gets_an_exact_index(dimension: int, first: int) -> None:
    assert IndexSpec.for_catalogue(0, dimension).kind == "flat"
    assert IndexSpec.for_catalogue(first - 1, dimension).kind == "flat"
    assert IndexSpec.for_catalogue(first, dimension).kind == "ivfpq"


def test_a_number_of_pictures_may_be_given_instead() -> None:
    assert IndexSpec.for_catalogue(19_999, 2048, flat_below=20_000).kind == "flat"
    assert IndexSpec.for_catalogue(300, 2048, flat_below=300).kind == "ivfpq"


@pytest.mark.parametrize(
    ("count", "dimension", "expected"),
    [
        (60_000, 2048, "PCAR256,IVF1024,PQ128x4fs"),
        (1_000_000, 512, "PCAR256,IVF4096,PQ128x4fs"),
        (20_000, 256, "IVF512,PQ128x4fs"),
        (20_000, 64, "IVF512,PQ32x4fs"),
        (20_000, 65, "PCAR64,IVF512,PQ32x4fs"),
    ],
)
def test_the_factory_string_follows_the_measured_recipe(count: int, dimension: int, expected: str) -> None:
    assert IndexSpec.for_catalogue(count, dimension).factory_string() == expected


def test_few_rows_get_few_lists_so_that_each_centroid_has_39_points() -> None:
    spec = IndexSpec.for_catalogue(1_000, 32, flat_below=0)
    assert spec.nlist == 16  # 4·√1000 is nearest to 128, which 1000 rows cannot train


def test_one_row_still_has_a_spec() -> None:
    assert IndexSpec.for_catalogue(1, 8, flat_below=0).kind == "flat"


@given(st.integers(0, 10**8), st.integers(1, 4096), st.sampled_from(["cosine", "euclidean"]))
def test_every_catalogue_has_a_spec_that_survives_its_dictionary(count: int, dimension: int, metric: str) -> None:
    spec = IndexSpec.for_catalogue(count, dimension, metric=metric)  # type: ignore[arg-type]
    assert IndexSpec.from_dict(asdict(spec)) == spec
    if spec.kind != "flat":
        assert spec.nlist * 39 <= count
        assert spec.nlist & (spec.nlist - 1) == 0
        assert spec.training_rows >= 64 * spec.nlist
        assert spec.training_rows <= max(100 * spec.nlist, 4096)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("ivfpq", "PCAR256,IVF512,PQ128x4fs"), ("pq", "PCAR256,IVF1,PQ128x4fs"), ("flat", "Flat")],
)
def test_each_of_the_paper_s_methods_can_be_chosen(kind: IndexKind, expected: str) -> None:
    assert IndexSpec.for_catalogue(20_000, 320, kind=kind).factory_string() == expected


@pytest.mark.parametrize("kind", ["ivfpq", "pq"])
def test_faiss_understands_the_factory_string_and_agrees_on_the_size_of_a_code(kind: IndexKind) -> None:
    spec = IndexSpec.for_catalogue(20_000, 320, kind=kind)
    index: Any = faiss.index_factory(320, spec.factory_string())
    inverted: Any = faiss.downcast_index(index.index)
    assert spec.code_bytes == inverted.code_size + 8
    assert spec.bytes_per_vector == inverted.code_size + 8 + 2 * 320


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "hnsw"},
        {"metric": "manhattan"},
        {"dimension": 0},
        {"pca": 65},
        {"nlist": 0},
        {"kind": "pq", "nlist": 2},
        {"pq_subquantizers": 7},
        {"pq_subquantizers": 0},
    ],
)
def test_an_impossible_spec_is_refused(wrong: dict[str, object]) -> None:
    sound = asdict(IndexSpec("ivfpq", 64, nlist=16, pq_subquantizers=16))
    with pytest.raises(ValueError, match="IndexSpec"):
        IndexSpec.from_dict(sound | wrong)
