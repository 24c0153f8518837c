"""`index.json`: what is read is what was written, and nothing else is believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from index.description import CodebookHistory, IndexDescription, IndexShard, read_description, write_description
from index.errors import CorruptIndex, NotAnIndex
from index.spec import IndexSpec

FLAT = IndexSpec("flat", 16)
CODED = IndexSpec("ivfpq", 16, nlist=4, pq_subquantizers=8)
SPEC = asdict(CODED)
CODEBOOK = CodebookHistory(
    "../000003/codebook.faiss", 3, "no index of model 7 was published yet", 400, 0.5, 1.25, 1.5, 20, 0.6
)
DESCRIPTION = IndexDescription(
    CODED,
    30,
    (IndexShard("../000002/shard-00000", 25), IndexShard("shard-00000", 6)),
    7,
    "abc",
    recall={"recall_at_10": 0.99},
    codebook=CODEBOOK,
    deleted="deleted.parquet",
)
GOLDEN = {
    "format": 1,
    "spec": SPEC,
    "rows": 30,
    "shards": [{"path": "../000002/shard-00000", "rows": 25}, {"path": "shard-00000", "rows": 6}],
    "look_version": 7,
    "fingerprint": "abc",
    "nprobe": 32,
    "rerank_factor": 4,
    "recall": {"recall_at_10": 0.99},
    "codebook": {
        "path": "../000003/codebook.faiss",
        "version": 3,
        "reason": "no index of model 7 was published yet",
        "trained_rows": 400,
        "coarse_distance": 0.5,
        "imbalance": 1.25,
        "imbalance_now": 1.5,
        "added_rows": 20,
        "added_distance": 0.6,
    },
    "deleted": "deleted.parquet",
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
        json.dumps(GOLDEN | {"codebook": {"path": "codebook.faiss"}}),
        json.dumps(GOLDEN | {"codebook": None}),
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


@pytest.mark.parametrize(
    "change", [{"nprobe": 0}, {"rerank_factor": 0}, {"rows": 1, "shards": ()}, {"codebook": None}, {"spec": FLAT}]
)
def test_an_impossible_description_is_refused(change: dict[str, object]) -> None:
    make: Callable[..., IndexDescription] = replace
    with pytest.raises(ValueError, match="IndexDescription"):
        make(DESCRIPTION, **change)
