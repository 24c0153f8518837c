"""Deployment settings: the environment's VITRINE_… and vitrine.toml, which nothing else reads.

They contain the sections that stand beside the code which uses them, and nothing of their own. What others define is
read by others: boto3 looks for S3's credentials, region and endpoint (AWS_…), flows/here.py for a Prefect server
(PREFECT_…), and torchrun says in the environment that it started a process.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from flows.errors import SettingsError
from flows.sections import Section, build, containing, first_problem
from lake.collection_policy import CollectionPolicy
from lake.lease_policy import LeasePolicy
from model.gate_policy import GatePolicy, LookGatePolicy
from tasks.config import CacheConfig, DefaultWeightsConfig, LabelsConfig, LakeConfig, SourceConfig
from tasks.ingest.config import IngestConfig
from tasks.rebuild.config import RebuildConfig
from tasks.score.config import ScoreConfig

PREFIX = "VITRINE_"
TEST_SWITCHES = "test_"  # VITRINE_TEST_…, which the tests read


@containing(
    LakeConfig,
    SourceConfig,
    LabelsConfig,
    DefaultWeightsConfig,
    IngestConfig,
    ScoreConfig,
    RebuildConfig,
    GatePolicy,
    LookGatePolicy,
    CollectionPolicy,
    LeasePolicy,
)
class Settings(BaseSettings):
    """Each field is VITRINE_<NAME> in the environment, or <name> in vitrine.toml; the environment wins."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, toml_file="vitrine.toml", extra="forbid", enable_decoding=False
    )

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

    def values(self) -> dict[str, Any]:
        """Every setting by its name."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    def config(self, section: type[Section]) -> Section:
        """A section as the settings say."""
        return build(section, self.values())

    @property
    def lake_uri(self) -> str:
        """The lake that is meant where none is named."""
        return self.config(LakeConfig).lake

    @property
    def cache_directory(self) -> Path:
        """Where remote index versions are kept to be opened; safe to delete."""
        return self.config(CacheConfig).cache


def read_settings() -> Settings:
    """The settings as they are now. Raises SettingsError naming what is wrong."""
    for variable in os.environ:
        prefix, name = variable[: len(PREFIX)], variable[len(PREFIX) :].lower()
        if prefix.upper() == PREFIX and name not in Settings.model_fields and not name.startswith(TEST_SWITCHES):
            raise _unknown(name, f"in the environment ({variable})")
    try:
        return Settings()
    except ValidationError as error:
        name, problem = first_problem(error)
        if error.errors()[0]["type"] == "extra_forbidden":
            raise _unknown(name, "in vitrine.toml") from error
        value = error.errors()[0]["input"]
        raise SettingsError(
            f"setting {name!r} (VITRINE_{name.upper()} or vitrine.toml): {problem}, found {value!r}"
        ) from error
    except ValueError as error:  # vitrine.toml is no TOML
        raise SettingsError(f"vitrine.toml can't be read: {error}") from error


def _unknown(name: str, where: str) -> SettingsError:
    """The error that a name is no setting's; it says which one may have been meant."""
    near = get_close_matches(name, Settings.model_fields, 1)
    meant = f"{near[0]!r} is the nearest" if near else "docs/operations.md lists them"
    return SettingsError(f"there is no setting {name!r}, found {where}: {meant}; correct it, or remove it")


def started_by_torchrun() -> bool:
    """Whether this is one of several processes that are to train together."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1
