"""Choices that several stages share, as sections of their configs, and the names that they are made by.

A section is a frozen dataclass that pydantic checks: each field has its default, its bounds and its description here
and nowhere else. Imports nothing heavy, so that the command line's help can be drawn from it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from model.backbones.names import BUNDLED, DEFAULT, check_backbone

Device = Literal["auto", "cpu", "cuda", "mps"]


def _absolute(path: Path) -> Path:
    path = path.expanduser()
    if not path.is_absolute():
        raise ValueError("expected an absolute path: a worker runs in a directory of its own")
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
UserPath = Annotated[Path, AfterValidator(Path.expanduser)]


@dataclass(frozen=True, kw_only=True)
class LakeConfig:
    """Where the lake is."""

    lake: str = Field(
        default="./vitrine-data", description="Root of the lake: a directory, file:///… or s3://bucket/prefix."
    )


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where the pictures come from."""

    source: str | None = Field(default=None, description="The pictures: a directory or s3://bucket/prefix.")


@dataclass(frozen=True, kw_only=True)
class LabelsConfig:
    """Where the labels come from."""

    labels: str | None = Field(
        default=None,
        description="CSV or Parquet: image_key, label (0, 1, empty), and perhaps product_id, weight, category.",
    )


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """How the pictures of ingest and scoring are divided."""

    shard_pictures: int = Field(default=1024, ge=1, description="Pictures in a unit of ingest or scoring work.")


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How many pictures are decoded side by side."""

    decode_threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        description="Pictures decoded at once; as many as there are cores by default.",
    )


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """Where a network runs."""

    device: Device = Field(
        default="auto", description="Where the network runs; cuda is every GPU that the process sees."
    )
    device_lock: AbsolutePath | None = Field(
        default=None, description="Absolute path of a lock file that processes which share a GPU hold in turn."
    )


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Where a remote lake's files are kept to be opened."""

    cache: UserPath = Field(
        default_factory=lambda: Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "vitrine").expanduser(),
        description="Directory of local copies of a remote lake's index versions; safe to delete.",
    )


@dataclass(frozen=True, kw_only=True)
class DefaultWeightsConfig:
    """What a model starts from that follows no other."""

    default_weights: str = Field(
        default="auto",
        description="What a backbone starts from where neither the run nor the current model says: auto (bundled "
        "weights where it has some, else imagenet), bundled, imagenet, random, or a file.",
    )


@dataclass(frozen=True, kw_only=True)
class ModelChoice(DefaultWeightsConfig):
    """What a model starts from. None leaves the choice to the lake: what the current model has."""

    backbone: Annotated[str, AfterValidator(check_backbone)] | None = Field(
        default=None,
        description=f"The feature extractor, one that `vitrine backbones` lists; the current model's by default, else "
        f"{DEFAULT}.",
    )
    image_size: int | None = Field(
        default=None,
        ge=64,
        le=1024,
        description="Side of the network's input, pixels; the current model's by default, else the backbone's own.",
    )
    weights: str | None = Field(
        default=None,
        description="What the backbone starts from: bundled (with the installation), imagenet (downloaded), random, or "
        "a safetensors or .pth file; by default what the current model started from, else the setting default_weights.",
    )
    seed: int = Field(default=0, ge=0, description="Of what is drawn by chance: random weights, a split, an order.")

    @property
    def start(self) -> str:
        """What a model that follows no other starts from."""
        chosen = self.weights or self.default_weights
        if chosen != "auto":
            return chosen
        return "bundled" if (self.backbone or DEFAULT) in BUNDLED else "imagenet"
