"""What a flow run may be asked for: one model a flow, checked before a run exists.

None means "as the settings say", so that a deployment without parameters does what its worker is set up for.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator

from flows.errors import SettingsError
from flows.settings import Pattern, Settings, read_settings
from lake.collection import Collected, CollectionPolicy
from lake.lake import open_lake
from model.backbones.names import BackboneName
from tasks.ingest.units import IngestConfig
from tasks.models import ModelChoice
from tasks.rebuild.plan import RebuildConfig
from tasks.score.units import ScoreConfig

if TYPE_CHECKING:  # they bring torch, which a night without new pictures never needs
    from prefect import Flow

    from model.gate import GatePolicy
    from tasks.ingest.stage import IngestSummary
    from tasks.night import NightSummary
    from tasks.rebuild.stage import IndexSummary
    from tasks.retrain.preparation import RetrainConfig
    from tasks.retrain.stage import RetrainSummary
    from tasks.runner import Runner
    from tasks.score.stage import ScoreSummary


class FlowParameters(BaseModel):
    """What every flow may be asked for."""

    model_config = ConfigDict(extra="forbid")

    lake: str | None = Field(None, description="Root URI of the lake: a directory, file:///… or s3://bucket/prefix")

    @property
    def settings(self) -> Settings:
        """The settings, with this run's own values in place of theirs."""
        settings = read_settings()
        given = {name: getattr(self, name) for name in type(settings).model_fields if name in type(self).model_fields}
        return settings.model_copy(update={name: value for name, value in given.items() if value is not None})

    @property
    def lake_uri(self) -> str:
        """The lake of this run."""
        return self.settings.lake

    def require_absolute(self) -> None:
        """A worker runs a deployment wherever it likes. Raises SettingsError where a path would depend on that."""
        settings = self.settings
        for name in ("lake", "source", "labels"):
            place = getattr(settings, name)
            if name in type(self).model_fields and place and "://" not in place and not Path(place).is_absolute():
                raise SettingsError(f"{name} is {place!r}: a deployed run needs an absolute path or a URI")


class _Ingesting(FlowParameters):
    """Which pictures are read, and how."""

    source: str | None = Field(None, description="Directory or s3://bucket/prefix of pictures")
    product_id_pattern: Pattern | None = Field(
        None, description="Regular expression on the image key; its group is the product's id"
    )
    max_deleted_share: float | None = Field(
        None, ge=0, le=1, description="Stop where more than this share of the known pictures has vanished"
    )

    @property
    def source_uri(self) -> str:
        """The source. Raises SettingsError where neither the run nor the settings name one."""
        return _required(self.settings.source, "source", "the directory or s3://bucket/prefix of the pictures")

    def ingest_config(self) -> IngestConfig:
        """What the ingest tasks need."""
        settings = self.settings
        return IngestConfig(
            product_id_pattern=settings.product_id_pattern,
            max_deleted_share=settings.max_deleted_share,
            shard_pictures=settings.shard_pictures,
            fetch_threads=settings.fetch_threads,
            decode_threads=settings.decode_threads,
        )


class IngestParameters(_Ingesting):
    """`ingest-catalogue`: bring `images` up to date with a source of pictures."""

    def run(self, runner: Runner) -> IngestSummary:
        """Carry it out. Raises what `tasks.ingest.stage.ingest` raises."""
        from tasks.ingest.stage import ingest

        source, config = self.source_uri, self.ingest_config()
        return ingest(open_lake(self.lake_uri, create=True), source, config, runner)

    def flow(self) -> Flow[[IngestParameters], IngestSummary]:
        """The flow that does so on a Prefect server."""
        from flows.ingest import ingest_catalogue

        return ingest_catalogue


class _Scoring(FlowParameters):
    """How the network is run."""

    device: Literal["auto", "cpu", "cuda", "mps"] | None = None
    precision: Literal["auto", "float32", "bfloat16", "float16"] | None = Field(
        None, description="In which numbers the network computes; auto: the fastest that the device is made for"
    )
    compile: Literal["auto", "always", "never"] | None = Field(
        None, description="Compile the network first; auto: where the run is long enough to gain by it"
    )
    batch_size: int | None = Field(None, ge=1, description="Pictures a forward pass; what suits the device by default")


class ScoreParameters(_Scoring):
    """`score-catalogue`: score every live picture that a model has not seen."""

    model_version: int | None = Field(None, ge=1, description="The model; the promoted one by default")

    def score_config(self) -> ScoreConfig:
        """What the scoring tasks need."""
        return _score_config(self.settings)

    def run(self, runner: Runner) -> ScoreSummary:
        """Carry it out. Raises what `tasks.score.stage.score` raises."""
        from tasks.score.stage import score

        return score(open_lake(self.lake_uri), self.score_config(), runner, model_version=self.model_version)

    def flow(self) -> Flow[[ScoreParameters], ScoreSummary]:
        """The flow that does so on a Prefect server."""
        from flows.score import score_catalogue

        return score_catalogue


class RebuildParameters(FlowParameters):
    """`rebuild-index`: publish an index of every live picture, where anything changed."""

    model_version: int | None = Field(None, ge=1, description="The model; the promoted one by default")
    recall_target: float | None = Field(None, gt=0, le=1, description="Least recall@10, its lower 95 % bound")
    full_rebuild: str | None = Field(
        None, min_length=1, description="Use nothing of an earlier version, for this reason"
    )

    def rebuild_config(self) -> RebuildConfig:
        """What the index tasks need."""
        return _rebuild_config(self.settings)

    def run(self, runner: Runner) -> IndexSummary:
        """Carry it out. Raises what `tasks.rebuild.stage.rebuild` raises."""
        from tasks.rebuild.stage import rebuild

        lake, config = open_lake(self.lake_uri), self.rebuild_config()
        return rebuild(lake, config, runner, model_version=self.model_version, full_rebuild=self.full_rebuild)

    def flow(self) -> Flow[[RebuildParameters], IndexSummary]:
        """The flow that does so on a Prefect server."""
        from flows.rebuild import rebuild_index

        return rebuild_index


class NightlyParameters(_Ingesting, _Scoring):
    """`nightly`: ingest, score and index, in this order."""

    recall_target: float | None = Field(None, gt=0, le=1, description="Least recall@10, its lower 95 % bound")

    def score_config(self) -> ScoreConfig:
        """What the scoring tasks need."""
        return _score_config(self.settings)

    def rebuild_config(self) -> RebuildConfig:
        """What the index tasks need."""
        return _rebuild_config(self.settings)

    def run(self, runner: Runner) -> NightSummary:
        """Carry it out. Raises what `tasks.night.night` raises."""
        from tasks.night import NightConfig, night

        config = NightConfig(self.ingest_config(), self.score_config(), self.rebuild_config())
        return night(open_lake(self.lake_uri), self.source_uri, config, runner)

    def flow(self) -> Flow[[NightlyParameters], NightSummary]:
        """The flow that does so on a Prefect server."""
        from flows.nightly import nightly

        return nightly


class RetrainParameters(FlowParameters):
    """`retrain-model`: train a candidate, judge it, promote or refuse it."""

    labels: str | None = Field(
        None, description="CSV or Parquet: image_key, label (0, 1, empty), product_id, weight, category"
    )
    backbone: BackboneName | None = None
    image_size: int | None = Field(None, ge=64, le=448, description="Side of the network's input, pixels")
    weights: str | None = Field(
        None,
        description="imagenet, random, or a safetensors file to start from; else what the current model started from",
    )
    epochs: int | None = Field(None, ge=1)
    recipe: dict[str, Any] = Field(
        default_factory=dict, description="Fields of the training configuration to choose, such as head_rate"
    )
    held_out_share: float = Field(0.25, gt=0, lt=1)
    seed: int = 0
    device: Literal["auto", "cpu", "cuda", "mps"] | None = None
    force: str | None = Field(None, min_length=1, description="Promote even a refused candidate, for this reason")
    then_serve: bool = Field(True, description="After a promotion, score the catalogue and publish its index")

    @field_validator("recipe")
    @classmethod
    def _known_and_typed(cls, recipe: dict[str, Any]) -> dict[str, Any]:
        if not recipe:
            return recipe
        from model.recipe import TrainingConfig

        choices = [field.name for field in fields(TrainingConfig) if field.name not in ("seed", "epochs")]
        if unknown := sorted(set(recipe) - set(choices)):
            raise ValueError(f"expected fields among {', '.join(choices)}; found {', '.join(unknown)}")
        checked = TypeAdapter(TrainingConfig).validate_python(recipe)
        return {name: getattr(checked, name) for name in recipe}

    @property
    def labels_uri(self) -> str:
        """The labels. Raises SettingsError where neither the run nor the settings name them."""
        return _required(self.settings.labels, "labels", "a CSV or Parquet file of image_key and label")

    def retrain_config(self) -> RetrainConfig:
        """What the training tasks need."""
        from tasks.retrain.preparation import RetrainConfig

        settings = self.settings
        start = ModelChoice(self.backbone, self.image_size, self.weights, self.seed, settings.weights)
        return RetrainConfig(
            start=start,
            recipe=self.recipe | ({} if self.epochs is None else {"epochs": self.epochs}),
            seed=self.seed,
            held_out_share=self.held_out_share,
            device=settings.device,
            device_lock=settings.device_lock,
            decode_threads=settings.decode_threads,
        )

    def gate_policy(self) -> GatePolicy:
        """What a candidate must reach."""
        from model.gate import GatePolicy

        settings = self.settings
        return GatePolicy(
            minimum_balanced_accuracy=settings.minimum_balanced_accuracy, credible_loss=settings.credible_loss
        )

    def run(self, runner: Runner) -> RetrainSummary:
        """Carry it out. Raises what `tasks.retrain.stage.retrain` raises."""
        from tasks.retrain.stage import ServeConfig, retrain

        then = ServeConfig(_score_config(self.settings), _rebuild_config(self.settings)) if self.then_serve else None
        lake, policy = open_lake(self.lake_uri), self.gate_policy()
        return retrain(lake, self.labels_uri, self.retrain_config(), runner, policy=policy, force=self.force, then=then)

    def flow(self) -> Flow[[RetrainParameters], RetrainSummary]:
        """The flow that does so on a Prefect server."""
        from flows.retrain import retrain_model

        return retrain_model


class CollectParameters(FlowParameters):
    """What `collect-garbage` keeps."""

    keep_versions: int | None = Field(None, ge=1, description="Newest versions of each kind to keep")
    keep_days: float | None = Field(None, ge=0, description="Collect only versions unused for so many days")

    def policy(self) -> CollectionPolicy:
        """What is kept."""
        settings = self.settings
        return CollectionPolicy(
            keep=settings.keep_versions,
            older_than=timedelta(days=settings.keep_days),
            longest_run=timedelta(hours=settings.longest_run_hours),
        )

    def run(self, runner: Runner) -> Collected:
        """Carry it out. Raises what `tasks.collect.stage.collect` raises."""
        from tasks.collect.stage import collect

        return collect(open_lake(self.lake_uri), self.policy(), runner)

    def flow(self) -> Flow[[CollectParameters], Collected]:
        """The flow that does so on a Prefect server."""
        from flows.collect import collect_garbage

        return collect_garbage


def _score_config(settings: Settings) -> ScoreConfig:
    return ScoreConfig(
        device=settings.device,
        precision=settings.precision,
        compile=settings.compile,
        batch_size=settings.batch_size,
        gpu_decode=settings.gpu_decode,
        shard_pictures=settings.shard_pictures,
        decode_threads=settings.decode_threads,
        device_lock=settings.device_lock,
    )


def _rebuild_config(settings: Settings) -> RebuildConfig:
    return RebuildConfig(
        metric=settings.index_metric,
        kind=settings.index_kind,
        recall_target=settings.recall_target,
        flat_below=settings.flat_below,
        shard_vectors=settings.shard_vectors,
        shard_deleted_share=settings.shard_deleted_share,
        cache=settings.cache_directory,
    )


def _required(value: str | None, name: str, what: str) -> str:
    if value is None:
        raise SettingsError(f"no {name}: give {what}, as a parameter or in VITRINE_{name.upper()}")
    return value
