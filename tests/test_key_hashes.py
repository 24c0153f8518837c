"""Hashes of keys, held against a loop over their bytes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from index.key_hashes import key_hashes

WORD = 1 << 64


def slowly(key: str, seed: int) -> int:
    """The hash by its definition, in Python's own integers."""
    total = sum((byte + 1) * pow(0x9E3779B97F4A7C15, place, WORD) for place, byte in enumerate(key.encode()))
    mixed = (total + seed * 0x9E3779B97F4A7C15) % WORD
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % WORD
    return mixed ^ (mixed >> 31)


@given(st.lists(st.lists(st.text(max_size=20), max_size=5), max_size=3), st.integers(0, 2**70))
def test_a_hash_is_that_of_the_key_s_bytes_wherever_the_key_lies(chunks: list[list[str]], seed: int) -> None:
    keys = pa.chunked_array([pa.array(["before", *chunk], pa.string()).slice(1) for chunk in chunks], pa.string())
    assert key_hashes(keys, seed=seed).tolist() == [slowly(key, seed) for chunk in chunks for key in chunk]


def test_many_keys_get_hashes_of_their_own_evenly_spread() -> None:
    names = [f"shop/{row:06d}/{row % 7}.jpg" for row in range(50_000)]
    hashes = key_hashes(pa.chunked_array([names]), seed=3)
    assert len(np.unique(hashes)) == len(names)
    buckets = np.bincount((hashes >> np.uint64(56)).astype(np.int64), minlength=256)
    assert 130 < buckets.min() <= buckets.max() < 270  # 195 on average, 14 to either side of it
    assert hashes.tolist() != key_hashes(pa.chunked_array([names]), seed=4).tolist()
    assert hashes[[0, 10_000]].tolist() == [slowly(names[0], 3), slowly(names[10_000], 3)]
