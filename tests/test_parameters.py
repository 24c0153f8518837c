"""What a flow run may be asked for, and what it does where a run says nothing: the settings decide."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from prefect import Flow
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError
from torch import Tensor, nn

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
from lake.lake import Lake, open_lake
from model.gate_policy import GatePolicy
from model.weights import dump_weights
from tasks.config import ModelChoice
from tasks.ingest.config import IngestConfig
from tasks.looks import LookCard, init_model, load_look, new_backbone, read_look
from tasks.models import read_card
from tasks.rebuild.config import RebuildConfig
from tasks.retrain import preparation
from tasks.retrain.config import RetrainConfig
from tasks.retrain.preparation import Start
from tasks.score.config import ScoreConfig
from tests.small_lake import register_model

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
    backbone, *_ = new_backbone(ModelChoice(backbone="resnet18", image_size=64, weights="random", seed=11))
    path = tmp_path / "backbone.safetensors"
    path.write_bytes(dump_weights(backbone))
    monkeypatch.setenv("VITRINE_DEFAULT_WEIGHTS", str(path))
    return str(path)


@pytest.fixture
def look(tmp_path: Path) -> tuple[Lake, LookCard]:
    """A lake with a first look of random weights."""
    uri = str(tmp_path / "lake")
    version = init_model(uri, ModelChoice(backbone="resnet18", image_size=64, weights="random"))
    lake = open_lake(uri)
    return lake, read_look(lake, version)


def started(lake: Lake, look: LookCard, config: RetrainConfig, model: int | None = None) -> tuple[nn.Module, Start]:
    """The backbone that a training would begin with, and what is said of it."""
    incumbent = None if model is None else read_card(lake, model)
    network, _, start = preparation._first_network(lake, look, preparation._followed(config, look, incumbent))
    return network.backbone, start


def weights_of(backbone: nn.Module) -> Tensor:
    weights: Tensor = backbone.state_dict()["conv1.weight"]
    return weights


def test_another_backbone_s_first_training_starts_from_the_weights_of_the_settings(
    weights: str, look: tuple[Lake, LookCard]
) -> None:
    lake, card = look
    other = replace(card, config=replace(card.config, backbone="resnet50"))  # so that the run's is another
    config = RetrainParameters(backbone="resnet18", image_size=64).config(RetrainConfig)
    backbone, start = started(lake, other, config)
    assert start == Start(True, weights)
    expected, *_ = new_backbone(ModelChoice(backbone="resnet18", image_size=64, weights=weights))
    assert torch.equal(weights_of(backbone), weights_of(expected))


def test_what_the_look_stands_on_comes_before_the_settings(weights: str, look: tuple[Lake, LookCard]) -> None:
    lake, card = look
    config = RetrainParameters().config(RetrainConfig)
    assert config.start == weights
    backbone, start = started(lake, card, config)
    assert start == Start(True, "random", card.version)  # random weights say nothing: they are trained through
    assert torch.equal(weights_of(backbone), weights_of(load_look(lake, card).backbone))
    assert started(lake, replace(card, weights="bundled"), config)[1] == Start(False, "bundled", card.version)
    given = RetrainParameters(weights=weights).config(RetrainConfig)
    assert started(lake, card, given)[1] == Start(True, weights)


@pytest.mark.parametrize(
    ("before", "asked", "expected"),
    [
        # The incumbent's choice is followed, unless the run says otherwise.
        (Start(False, "random", 1), {}, Start(False, "random", 1)),
        (Start(True, "random", 1), {}, Start(True, "random", 1)),
        (Start(True, "random"), {}, Start(True, "random")),
        (Start(False, "random", 1), {"train_backbone": True}, Start(True, "random", 1)),
        (Start(True, "random", 1), {"train_backbone": False}, Start(False, "random", 1)),
        (Start(False, "random", 1), {"weights": "random"}, Start(True, "random")),
    ],
)
def test_an_incumbent_s_choice_is_followed(
    look: tuple[Lake, LookCard], before: Start, asked: dict[str, Any], expected: Start
) -> None:
    lake, card = look
    model = register_model(lake.uri, started_from=before.to_dict())
    config = RetrainParameters(**asked).config(RetrainConfig)
    assert started(lake, card, config, model)[1] == expected


def test_a_frozen_trunk_can_not_be_another_than_the_look_s() -> None:
    for chosen in ({"backbone": "resnet18"}, {"image_size": 96}, {"weights": "random"}):
        with pytest.raises(SettingsError, match="expected no backbone, image_size or weights without train_backbone"):
            RetrainParameters(train_backbone=False, **chosen).config(RetrainConfig)
