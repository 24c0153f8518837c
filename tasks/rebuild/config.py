"""How an index is made and what it must reach."""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass

from index.spec import IndexKind, Metric
from tasks.config import CacheConfig


@dataclass(frozen=True, kw_only=True)
class RebuildConfig(CacheConfig):
    """How the index is made and what it must reach."""

    index_kind: IndexKind = Field(
        default="ivfpq",
        description="How an index above flat_below is searched: exhaustively, by codes alone, or by lists.",
    )
    index_metric: Metric = Field(default="cosine", description="What makes two pictures alike.")
    recall_target: float = Field(
        default=0.99, gt=0, le=1, description="Publish no index whose recall@10, its lower 95 % bound, is below this."
    )
    flat_below: int | None = Field(
        default=None,
        ge=0,
        description="Fewer pictures than this are searched exactly; by default as many as 2.5 million numbers are, "
        "1953 of a look of 1280 dimensions.",
    )
    shard_vectors: int = Field(default=50_000, ge=1, description="Embeddings in an index shard.")
    shard_deleted_share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Write a shard again where a larger share of its rows than this was deleted.",
    )
    same_product_loss: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Warn where the nearest picture shows the query's product by so much less often than in the index "
        "before.",
    )
    recall_queries: int = Field(default=1000, ge=1, description="Pictures held out as queries to measure recall by.")
    index_seed: int = Field(default=0, ge=0, description="Of the codebook's training and of the held-out queries.")
