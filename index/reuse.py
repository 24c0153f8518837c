"""Decides what of the last version serves again: which shards are written anew, and when to train again.

Knows counts and distances, not files. The rules are those of a log-structured store: a shard is never changed,
what leaves it is masked, and now and then some shards are written anew without what left them.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from index.building import Codebook

FARTHEST = 1.2  # times the training's mean coarse distance, of the rows added since
IMBALANCE = 1.5  # times the imbalance of the lists when they were new
ADDED_SHARE = 0.05  # of all rows must have been added before their distance counts: a training can answer no less
ADDED_AT_LEAST = 100


@dataclass(frozen=True)
class ShardLimits:
    """How large shards are, and when they are written anew.

    Of `alike` small shards that differ in size by less than that factor one is made, so that a row is written
    again once for each power of `alike` that lies between a night's rows and a full shard.
    """

    vectors: int = 50_000
    masked_share: float = 0.2
    alike: int = 8

    def __post_init__(self) -> None:
        if self.vectors < 1 or not 0 <= self.masked_share <= 1 or self.alike < 2:
            raise ValueError(f"expected vectors ≥ 1, masked_share in 0..1 and alike ≥ 2: {self}")


@dataclass(frozen=True)
class HeldShard:
    """A shard of the last version: its rows, and how many of them are still live."""

    rows: int
    live: int


def to_rewrite(shards: Sequence[HeldShard], limits: ShardLimits) -> set[int]:
    """Which shards are worth writing anew: those masked too much, too large, or of many small ones alike."""
    masked = {number for number, shard in enumerate(shards) if _is_worn(shard, limits)}
    tiers: dict[int, set[int]] = defaultdict(set)
    for number, shard in enumerate(shards):
        if number not in masked and shard.live <= limits.vectors // 2:
            tiers[int(math.log(max(1, shard.live), limits.alike))].add(number)
    crowded = (tier for tier in tiers.values() if len(tier) >= limits.alike)
    return masked.union(*crowded)


def rows_a_shard(rows: int, limits: ShardLimits) -> int:
    """How many rows each shard gets, so that `rows` make as few shards as the limit allows, nearly equal ones."""
    return -(-rows // max(1, -(-rows // limits.vectors)))


def why_train_again(codebook: Codebook, rows: int) -> str | None:
    """Why these quantizers no longer fit an index of `rows` rows; None while they do."""
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


def _is_worn(shard: HeldShard, limits: ShardLimits) -> bool:
    return shard.rows - shard.live > limits.masked_share * shard.rows or shard.rows > 2 * limits.vectors
