"""The settings contain every section's fields, once, and docs/operations.md names them all."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows.errors import SettingsError
from flows.sections import fields_of
from flows.settings import Settings, read_settings
from lake.collection_policy import CollectionPolicy
from lake.lease_policy import LeasePolicy
from model.gate_policy import GatePolicy
from tasks.config import LakeConfig
from tasks.ingest.config import IngestConfig
from tasks.rebuild.config import RebuildConfig
from tasks.retrain.config import RetrainConfig
from tasks.score.config import ScoreConfig

SECTIONS: list[type[Any]] = [IngestConfig, ScoreConfig, RebuildConfig, GatePolicy, CollectionPolicy, LeasePolicy]
MANUAL = Path(__file__).parents[1] / "docs" / "operations.md"

OUT_OF_BOUNDS: list[tuple[type[Any], str, Any]] = [
    (IngestConfig, "max_deleted_share", 1.5),
    (IngestConfig, "shard_pictures", 0),
    (IngestConfig, "product_id_pattern", "no group"),
    (ScoreConfig, "device", "abacus"),
    (ScoreConfig, "device_lock", "no/absolute/path"),
    (ScoreConfig, "batch_size", 0),
    (RebuildConfig, "recall_target", 0),
    (RebuildConfig, "index_metric", "manhattan"),
    (GatePolicy, "credible_loss", -0.1),
    (CollectionPolicy, "keep_versions", 0),
    (LeasePolicy, "lease_seconds", 9),
]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"VITRINE_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("section", SECTIONS)
def test_without_settings_a_section_is_as_its_own_defaults(section: type[Any]) -> None:
    assert read_settings().config(section) == section()


@pytest.mark.parametrize(("one", "other"), list(combinations([*SECTIONS, RetrainConfig], 2)))
def test_fields_of_one_name_are_one_choice(one: type[Any], other: type[Any]) -> None:
    for name in fields_of(one).keys() & fields_of(other).keys():
        assert getattr(one(), name) == getattr(other(), name)
        assert fields_of(one)[name].description == fields_of(other)[name].description
        (owner,) = {
            base for kind in (one, other) for base in kind.__mro__ if name in vars(base).get("__annotations__", {})
        }
        assert issubclass(one, owner) and issubclass(other, owner)


@pytest.mark.parametrize(("section", "name", "value"), OUT_OF_BOUNDS)
def test_bounds_hold_for_a_program_and_for_the_environment(
    section: type[Any], name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValidationError, match=name):
        section(**{name: value})
    monkeypatch.setenv(f"VITRINE_{name.upper()}", str(value))
    with pytest.raises(SettingsError, match=f"setting '{name}'"):
        read_settings()


def test_the_environment_reaches_the_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_SHARD_PICTURES", "7")
    monkeypatch.setenv("VITRINE_SLICE_PICTURES", "8")
    monkeypatch.setenv("VITRINE_CACHE", "~/somewhere")
    settings = read_settings()
    assert settings.config(IngestConfig).shard_pictures == settings.config(ScoreConfig).shard_pictures == 7
    assert settings.config(GatePolicy).slice_pictures == 8
    assert settings.config(RebuildConfig).cache == settings.cache_directory == Path.home() / "somewhere"
    assert settings.lake_uri == LakeConfig().lake


@pytest.mark.parametrize(
    ("variable", "meant"),
    [("VITRINE_BACTH_SIZE", "'batch_size' is the nearest"), ("vitrine_Lakes", "'lake' is the nearest")],
)
def test_a_misspelt_variable_is_refused_and_the_nearest_setting_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, meant: str
) -> None:
    monkeypatch.setenv(variable, "5")
    with pytest.raises(SettingsError, match=rf"no setting .*, found in the environment \({variable}\): {meant}"):
        read_settings()


def test_a_misspelt_name_in_vitrine_toml_is_refused_and_the_nearest_setting_named() -> None:
    Path("vitrine.toml").write_text("recall_tarqet = 0.9\n")
    with pytest.raises(SettingsError, match=r"'recall_tarqet', found in vitrine\.toml: 'recall_target' is the nearest"):
        read_settings()


def test_settings_are_known_in_any_case_and_switches_of_the_tests_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("vitrine_batch_size", "5")
    monkeypatch.setenv("VITRINE_TEST_S3", "1")
    assert read_settings().config(ScoreConfig).batch_size == 5


def test_every_setting_stands_in_the_manual_with_its_default() -> None:
    table = MANUAL.read_text().partition("\n## Settings\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.MULTILINE))
    assert rows.keys() == Settings.model_fields.keys()
    for name, info in Settings.model_fields.items():
        if info.default_factory is None:
            text = rows[name].strip("`")
            assert text == "–" if info.default in (None, ()) else type(info.default)(_value(text)) == info.default, name


def _value(text: str) -> Any:
    return {"false": False, "true": True}.get(text, text)


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, info in Settings.model_fields.items() if not info.description] == []
