"""What a flow run may be asked for, and what it does where a run says nothing: the settings decide."""

from __future__ import annotations

import pickle
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from prefect import Flow
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from flows.errors import SettingsError
from flows.parameters import (
    CollectParameters,
    FlowParameters,
    IngestParameters,
    InitModelParameters,
    NightlyParameters,
    RebuildParameters,
    RetrainParameters,
    ScoreParameters,
)
from flows.sections import fields_of
from lake.collection_policy import CollectionPolicy
from lake.lake import open_lake
from model.gate_policy import GatePolicy
from model.weights import dump_weights
from tasks.config import ModelChoice
from tasks.ingest.config import IngestConfig
from tasks.models import Origin, init_model, new_network, read_card
from tasks.rebuild.config import RebuildConfig
from tasks.retrain import preparation
from tasks.retrain.config import RetrainConfig
from tasks.score.config import ScoreConfig

CONTAINED: list[tuple[type[FlowParameters], type[Any]]] = [
    (IngestParameters, IngestConfig),
    (ScoreParameters, ScoreConfig),
    (RebuildParameters, RebuildConfig),
    (NightlyParameters, IngestConfig),
    (NightlyParameters, ScoreConfig),
    (NightlyParameters, RebuildConfig),
    (RetrainParameters, RetrainConfig),
    (RetrainParameters, GatePolicy),
    (InitModelParameters, ModelChoice),
    (CollectParameters, CollectionPolicy),
]
DEPLOYMENTS = Path(__file__).parents[1] / "prefect.yaml"


def deployed() -> list[Flow[..., Any]]:
    """The flows that prefect.yaml deploys."""
    entrypoints = re.findall(r"entrypoint: (.+)\.(\w+)", DEPLOYMENTS.read_text())
    return [getattr(import_module(module), name) for module, name in entrypoints]


@pytest.mark.parametrize("flow", deployed(), ids=lambda flow: flow.name)
def test_the_form_of_a_deployment_describes_every_field(flow: Flow[..., Any]) -> None:
    definitions = parameter_schema(flow).model_dump()["definitions"]
    assert all(each["description"] for each in definitions.values())
    fields = {name: field for each in definitions.values() for name, field in each["properties"].items()}
    assert "lake" in fields
    assert [name for name, field in fields.items() if not field.get("description")] == []


@pytest.mark.parametrize(("parameters", "section"), CONTAINED)
def test_parameters_contain_their_sections_and_leave_every_field_to_the_settings(
    parameters: type[FlowParameters], section: type[Any]
) -> None:
    assert fields_of(section).keys() - {"default_weights"} <= parameters.model_fields.keys()
    assert parameters().config(section) == section()
    assert all(getattr(parameters(), name) is None for name in fields_of(section).keys() - {"default_weights"})


def test_a_run_s_own_values_come_before_the_settings_and_these_before_the_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VITRINE_BATCH_SIZE", "5")
    monkeypatch.setenv("VITRINE_SHARD_PICTURES", "6")
    config = NightlyParameters(batch_size=7).config(ScoreConfig)
    assert (config.batch_size, config.shard_pictures, config.compile) == (7, 6, "auto")


@pytest.mark.parametrize(
    ("parameters", "values"),
    [
        (NightlyParameters, {"max_deleted_share": 1.5}),
        (NightlyParameters, {"recall_target": 0}),
        (NightlyParameters, {"device_lock": "no/absolute/path"}),
        (IngestParameters, {"product_id_pattern": "no group"}),
        (ScoreParameters, {"compile": "perhaps"}),
        (RetrainParameters, {"recipe": {"speed": 9}}),
        (CollectParameters, {"keep_days": -1}),
        (RebuildParameters, {"lakes": "x"}),
    ],
)
def test_a_value_out_of_bounds_is_refused_before_a_run_exists(
    parameters: type[FlowParameters], values: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError, match=next(iter(values))):
        parameters(**values)


def test_values_that_do_not_go_together_are_a_wrong_setting() -> None:
    with pytest.raises(SettingsError, match=r"held_out_share and validation_share below 1 together, found 0.5 and 0.6"):
        RetrainParameters(held_out_share=0.5, validation_share=0.6).config(RetrainConfig)


def test_parameters_survive_the_way_to_another_process() -> None:
    parameters = RetrainParameters(labels="labels.csv", recipe={"head_rate": 0.1}, force="a test")
    assert pickle.loads(pickle.dumps(parameters)) == parameters  # noqa: S301 (our own bytes)
    assert RetrainParameters.model_validate(parameters.model_dump(mode="json")) == parameters


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backbone's weights, named by the settings."""
    network, _ = new_network(ModelChoice(backbone="resnet18", image_size=64, weights="random", seed=11))
    path = tmp_path / "backbone.safetensors"
    path.write_bytes(dump_weights(network.backbone))
    monkeypatch.setenv("VITRINE_DEFAULT_WEIGHTS", str(path))
    return str(path)


def test_a_first_training_starts_from_the_weights_of_the_settings(weights: str, tmp_path: Path) -> None:
    lake = open_lake(str(tmp_path / "lake"), create=True)
    choice = RetrainParameters(backbone="resnet18", image_size=64).config(RetrainConfig)
    network, _, started_from = preparation._start(lake, None, choice)
    assert started_from == Origin(weights)
    expected, _ = new_network(ModelChoice(backbone="resnet18", image_size=64, weights=weights))
    assert torch.equal(network.backbone.state_dict()["conv1.weight"], expected.backbone.state_dict()["conv1.weight"])


def test_what_the_current_model_started_from_comes_before_the_settings(weights: str, tmp_path: Path) -> None:
    uri = str(tmp_path / "lake")
    version = init_model(uri, ModelChoice(backbone="resnet18", image_size=64, weights="random"))
    lake = open_lake(uri)
    choice = RetrainParameters().config(RetrainConfig)
    assert choice.start == weights
    assert preparation._start(lake, read_card(lake, version), choice)[2] == Origin(model_version=version)
    other = RetrainParameters(weights="random").config(RetrainConfig)
    assert preparation._start(lake, read_card(lake, version), other)[2] == Origin("random")
