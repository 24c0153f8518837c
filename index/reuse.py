"""Decides what of the last version serves again: which shards are written again, and when to train the codebook again.

Knows counts and distances, not files. The rules are those of a log-structured store: a shard is never changed,
what leaves it is marked as deleted, and now and then some shards are written again without what left them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from index.description import CodebookHistory

FARTHEST = 1.2  # times the training's mean coarse distance, of the rows added since
IMBALANCE = 1.5  # times the imbalance of the lists when they were new
ADDED_SHARE = 0.05  # of all rows must have been added before their distance counts: a training can answer no less
ADDED_AT_LEAST = 100


@dataclass(frozen=True)
class ShardLimits:
    """How large shards are, and when they are written again.

    Of `alike` small shards that differ in size by less than that factor one is made, so that a row is written
    again once for each power of `alike` that lies between a night's rows and a full shard.
    """

    vectors: int
    deleted_share: float
    alike: int = 8

    def __post_init__(self) -> None:
        if self.vectors < 1 or not 0 <= self.deleted_share <= 1 or self.alike < 2:
            raise ValueError(f"expected vectors ≥ 1, deleted_share in 0..1 and alike ≥ 2: {self}")


@dataclass(frozen=True)
class ShardCounts:
    """How many rows a shard of the last version holds, and how many of them still live."""

    rows: int
    live: int


def to_rewrite(shards: Sequence[ShardCounts], limits: ShardLimits) -> set[int]:
    """Which shards are worth writing again: too many rows deleted, too large, or one of many small ones alike."""
    worn = {
        number
        for number, shard in enumerate(shards)
        if shard.rows - shard.live > limits.deleted_share * shard.rows or shard.rows > 2 * limits.vectors
    }
    tiers: dict[int, set[int]] = defaultdict(set)
    for number, shard in enumerate(shards):
        if number not in worn and shard.live <= limits.vectors // 2:
            tiers[int(math.log(max(1, shard.live), limits.alike))].add(number)
    crowded = (tier for tier in tiers.values() if len(tier) >= limits.alike)
    return worn.union(*crowded)


def rows_a_shard(rows: int, limits: ShardLimits) -> int:
    """How many rows each shard gets, so that `rows` make as few shards as the limit allows, nearly equal ones."""
    return -(-rows // max(1, -(-rows // limits.vectors)))


def why_train_again(codebook: CodebookHistory, rows: int) -> str | None:
    """Why this codebook no longer fits an index of `rows` rows; None while it does."""
    enough = max(ADDED_AT_LEAST, ADDED_SHARE * rows)
    if codebook.added_rows >= enough and codebook.added_distance > FARTHEST * codebook.coarse_distance:
        times = codebook.added_distance / codebook.coarse_distance
        return (
            f"the {codebook.added_rows} vectors added since lie {times:.2f} times as far from the centroids as the "
            f"trained ones: expected at most {FARTHEST}"
        )
    if codebook.imbalance_now > IMBALANCE * codebook.imbalance:
        return (
            f"the lists have become unequal: imbalance {codebook.imbalance_now:.2f}, expected at most {IMBALANCE} "
            f"times the {codebook.imbalance:.2f} after the training"
        )
    return None
