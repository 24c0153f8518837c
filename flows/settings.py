"""Deployment settings: environment variables VITRINE_… or vitrine.toml. The only reader of the environment.

Scientific choices stand beside their code in frozen dataclasses; these are the ones that differ from one
installation to the next.
"""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from flows.errors import SettingsError
from lake.presence import LEASE_SECONDS

CORES = os.cpu_count() or 1


def _one_group(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    if groups != 1:
        raise ValueError(f"expected one group, the product's id, found {groups}")
    return pattern


Pattern = Annotated[str, AfterValidator(_one_group)]


def _absolute(path: Path) -> Path:
    path = path.expanduser()
    if not path.is_absolute():
        raise ValueError("expected an absolute path: a worker runs in a directory of its own")
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


class Settings(BaseSettings):
    """Each field is VITRINE_<NAME> in the environment, or <name> in vitrine.toml; the environment wins."""

    model_config = SettingsConfigDict(env_prefix="VITRINE_", toml_file="vitrine.toml", extra="forbid")

    lake: str = "./vitrine-data"
    source: str | None = None
    labels: str | None = None
    weights: str = "imagenet"

    product_id_pattern: Pattern | None = None
    max_deleted_share: float = Field(0.5, ge=0, le=1)
    shard_pictures: int = Field(1024, ge=1)
    fetch_threads: int | None = Field(None, ge=1)
    decode_threads: int = Field(CORES, ge=1)

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    device_lock: AbsolutePath | None = None
    batch_size: int | None = Field(None, ge=1)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: Literal["auto", "always", "never"] = "auto"
    gpu_decode: bool = False

    recall_target: float = Field(0.99, gt=0, le=1)
    flat_below: int = Field(20_000, ge=0)
    index_kind: Literal["flat", "pq", "ivfpq"] = "ivfpq"
    index_metric: Literal["cosine", "euclidean"] = "cosine"
    shard_vectors: int = Field(50_000, ge=1)
    shard_deleted_share: float = Field(0.2, ge=0, le=1)

    wait_hours: float = Field(6, ge=0)
    lease_seconds: float = Field(LEASE_SECONDS, ge=10)

    keep_versions: int = Field(5, ge=1)
    keep_days: float = Field(30, ge=0)
    longest_run_hours: float = Field(72, ge=0)

    minimum_balanced_accuracy: float = Field(0.6, ge=0, le=1)
    credible_loss: float = Field(0.05, ge=0, le=1)

    cache: Path = Field(default_factory=lambda: Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "vitrine"))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then vitrine.toml."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @cached_property
    def cache_directory(self) -> Path:
        """Where remote index versions are kept to be opened; safe to delete."""
        return self.cache.expanduser()


def read_settings() -> Settings:
    """The settings as they are now. Raises SettingsError naming what is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise SettingsError(
            f"setting {name!r} (VITRINE_{name.upper()} or vitrine.toml): {first['msg']}, found {first['input']!r}"
        ) from error
    except ValueError as error:  # vitrine.toml is no TOML
        raise SettingsError(f"vitrine.toml can't be read: {error}") from error


def started_by_torchrun() -> bool:
    """Whether this is one of several processes that are to train together."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1
