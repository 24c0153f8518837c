"""What a flow run may be asked for: one model a flow, which contains its sections, checked before a run exists.

None means "as the settings say", so that a deployment without parameters does what its worker is set up for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from flows.errors import SettingsError
from flows.sections import Section, build, containing
from lake.collection_policy import CollectionPolicy
from model.gate_policy import GatePolicy, LookGatePolicy
from tasks.config import LabelsConfig, LakeConfig, ModelChoice, SourceConfig
from tasks.ingest.config import IngestConfig
from tasks.rebuild.config import RebuildConfig
from tasks.retrain.config import RetrainConfig
from tasks.retrain_look.config import RetrainLookConfig
from tasks.score.config import ScoreConfig

if TYPE_CHECKING:
    from prefect import Flow

    from flows.settings import Settings
    from lake.collection import Collected
    from tasks.ingest.stage import IngestSummary
    from tasks.night import NightSummary
    from tasks.rebuild.stage import IndexSummary
    from tasks.retrain.stage import RetrainSummary
    from tasks.retrain_look.stage import RetrainLookSummary
    from tasks.runner import Runner
    from tasks.score.stage import ScoreSummary

# By a name: where mypy sees that a model is closed, it refuses the fields of sections, which it does not see.
CLOSED = ConfigDict(extra="forbid")


@containing(LakeConfig, optional=True)
class FlowParameters(BaseModel):
    """What every flow may be asked for."""

    model_config = CLOSED

    @property
    def settings(self) -> Settings:
        """The settings, with this run's own values in place of theirs."""
        from flows.settings import read_settings  # it takes a while to import, and help is to come at once

        settings = read_settings()
        given = {name: value for name, value in self.given().items() if name in type(settings).model_fields}
        return settings.model_copy(update=given)

    def config(self, section: type[Section]) -> Section:
        """A section of this run: its own values, then the settings, then the section's defaults."""
        return build(section, self.settings.values() | self.given())

    def given(self) -> dict[str, Any]:
        """The values that this run does not leave to the settings."""
        values = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: value for name, value in values if value is not None}

    @property
    def lake_uri(self) -> str:
        """The lake of this run."""
        return self.config(LakeConfig).lake

    def require_absolute(self) -> None:
        """A worker runs a deployment wherever it likes. Raises SettingsError where a path would depend on that."""
        values = self.settings.values()
        for name in ("lake", "source", "labels"):
            place = values[name] if name in type(self).model_fields else None
            if place and "://" not in place and not Path(place).is_absolute():
                raise SettingsError(f"{name} is {place!r}: a deployed run needs an absolute path or a URI")


@containing(SourceConfig, IngestConfig, optional=True)
class _Ingesting(FlowParameters):
    """Which pictures are read, and how."""

    @property
    def source_uri(self) -> str:
        """The source. Raises SettingsError where neither the run nor the settings name one."""
        source = self.config(SourceConfig).source
        return _required(source, "source", "the directory or s3://bucket/prefix of the pictures")


class IngestParameters(_Ingesting):
    """`ingest-catalogue`: bring `images` up to date with a source of pictures."""

    def run(self, runner: Runner) -> IngestSummary:
        """Carry it out. Raises what `tasks.ingest.stage.ingest` raises."""
        from lake.lake import open_lake
        from tasks.ingest.stage import ingest

        source, config = self.source_uri, self.config(IngestConfig)
        return ingest(open_lake(self.lake_uri, create=True), source, config, runner)

    def flow(self) -> Flow[[IngestParameters], IngestSummary]:
        """The flow that does so on a Prefect server."""
        from flows.ingest import ingest_catalogue

        return ingest_catalogue


@containing(ScoreConfig, optional=True)
class ScoreParameters(FlowParameters):
    """`score-catalogue`: embed and score every live picture that the look or the model has not seen."""

    look_version: int | None = Field(None, ge=1, description="The look; the promoted one by default.")
    model_version: int | None = Field(
        None, ge=1, description="The model of polarity; the promoted one by default, none before one was trained."
    )

    def run(self, runner: Runner) -> ScoreSummary:
        """Carry it out. Raises what `tasks.score.stage.score` raises."""
        from lake.lake import open_lake
        from tasks.score.stage import score

        versions = {"look_version": self.look_version, "model_version": self.model_version}
        return score(open_lake(self.lake_uri), self.config(ScoreConfig), runner, **versions)

    def flow(self) -> Flow[[ScoreParameters], ScoreSummary]:
        """The flow that does so on a Prefect server."""
        from flows.score import score_catalogue

        return score_catalogue


@containing(RebuildConfig, optional=True)
class RebuildParameters(FlowParameters):
    """`rebuild-index`: publish an index of every live picture, where anything changed."""

    look_version: int | None = Field(None, ge=1, description="The look; the promoted one by default.")
    full_rebuild: str | None = Field(
        None, min_length=1, description="Use nothing of an earlier version, for this reason."
    )

    def run(self, runner: Runner) -> IndexSummary:
        """Carry it out. Raises what `tasks.rebuild.stage.rebuild` raises."""
        from lake.lake import open_lake
        from tasks.rebuild.stage import rebuild

        lake, config = open_lake(self.lake_uri), self.config(RebuildConfig)
        return rebuild(lake, config, runner, look_version=self.look_version, full_rebuild=self.full_rebuild)

    def flow(self) -> Flow[[RebuildParameters], IndexSummary]:
        """The flow that does so on a Prefect server."""
        from flows.rebuild import rebuild_index

        return rebuild_index


@containing(ScoreConfig, RebuildConfig, optional=True)
class NightlyParameters(_Ingesting):
    """`nightly`: ingest, score and index, in this order."""

    def run(self, runner: Runner) -> NightSummary:
        """Carry it out. Raises what `tasks.night.night` raises."""
        from lake.lake import open_lake
        from tasks.night import NightConfig, night

        config = NightConfig(
            self.config(IngestConfig), self.config(ScoreConfig), self.config(RebuildConfig), self.config(ModelChoice)
        )
        return night(open_lake(self.lake_uri, create=True), self.source_uri, config, runner)

    def flow(self) -> Flow[[NightlyParameters], NightSummary]:
        """The flow that does so on a Prefect server."""
        from flows.nightly import nightly

        return nightly


# What the settings say of weights is for a model that follows no other; a run says what its own starts from.
@containing(LabelsConfig, RetrainConfig, GatePolicy, optional=True, omit=["default_weights"])
class RetrainParameters(FlowParameters):
    """`retrain-model`: train a candidate, judge it, promote or refuse it."""

    force: str | None = Field(None, min_length=1, description="Promote even a refused candidate, for this reason.")
    then_serve: bool = Field(True, description="After a promotion, score the catalogue and move readers to it.")

    @property
    def labels_uri(self) -> str:
        """The labels. Raises SettingsError where neither the run nor the settings name them."""
        return _required(self.config(LabelsConfig).labels, "labels", "a CSV or Parquet file of image_key and label")

    def run(self, runner: Runner) -> RetrainSummary:
        """Carry it out. Raises what `tasks.retrain.stage.retrain` raises."""
        from lake.lake import open_lake
        from tasks.retrain.stage import retrain

        then = self.config(ScoreConfig) if self.then_serve else None
        lake, config, policy = open_lake(self.lake_uri), self.config(RetrainConfig), self.config(GatePolicy)
        return retrain(lake, self.labels_uri, config, runner, policy=policy, force=self.force, then=then)

    def flow(self) -> Flow[[RetrainParameters], RetrainSummary]:
        """The flow that does so on a Prefect server."""
        from flows.retrain import retrain_model

        return retrain_model


@containing(RetrainLookConfig, LookGatePolicy, ScoreConfig, RebuildConfig, optional=True, omit=["default_weights"])
class RetrainLookParameters(FlowParameters):
    """`retrain-look`: fit a look to the shop's products, judge it, promote or refuse it."""

    force: str | None = Field(None, min_length=1, description="Promote even a refused candidate, for this reason.")
    then_serve: bool = Field(True, description="After a promotion, embed the catalogue and publish its index.")

    def run(self, runner: Runner) -> RetrainLookSummary:
        """Carry it out. Raises what `tasks.retrain_look.stage.retrain_look` raises."""
        from lake.lake import open_lake
        from tasks.retrain_look.stage import ServeConfig, retrain_look

        then = ServeConfig(self.config(ScoreConfig), self.config(RebuildConfig)) if self.then_serve else None
        lake, config, policy = open_lake(self.lake_uri), self.config(RetrainLookConfig), self.config(LookGatePolicy)
        return retrain_look(lake, config, runner, policy=policy, force=self.force, then=then)

    def flow(self) -> Flow[[RetrainLookParameters], RetrainLookSummary]:
        """The flow that does so on a Prefect server."""
        from flows.retrain_look import retrain_look

        return retrain_look


@containing(ModelChoice, optional=True, omit=["default_weights"])
class InitModelParameters(FlowParameters):
    """`vitrine init-model`: register the lake's first look model."""


@containing(CollectionPolicy, optional=True)
class CollectParameters(FlowParameters):
    """`collect-garbage`: remove what the policy does not keep."""

    def run(self, runner: Runner) -> Collected:
        """Carry it out. Raises what `tasks.collect.stage.collect` raises."""
        from lake.lake import open_lake
        from tasks.collect.stage import collect

        return collect(open_lake(self.lake_uri), self.config(CollectionPolicy), runner)

    def flow(self) -> Flow[[CollectParameters], Collected]:
        """The flow that does so on a Prefect server."""
        from flows.collect import collect_garbage

        return collect_garbage


def _required(value: str | None, name: str, what: str) -> str:
    if value is None:
        raise SettingsError(f"no {name}: give {what}, as a parameter or in VITRINE_{name.upper()}")
    return value
