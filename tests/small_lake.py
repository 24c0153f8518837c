"""A small lake, made by the stages themselves in this process."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lake.lake import open_lake
from model.network import NetworkConfig, PolarityNetwork
from tasks.config import ModelChoice
from tasks.ingest import stage as ingesting
from tasks.ingest.config import IngestConfig
from tasks.ingest.stage import IngestSummary
from tasks.looks import init_model, load_look, read_look, require_look
from tasks.models import seal_model
from tasks.rebuild import stage as rebuilding
from tasks.rebuild.config import RebuildConfig
from tasks.rebuild.plan import IndexPlan
from tasks.rebuild.units import PublishedIndex, published
from tasks.runner import Inline
from tasks.runs import running
from tasks.score import stage as scoring
from tasks.score.config import ScoreConfig
from tasks.score.stage import ScoreSummary
from vitrine.demo.draw_catalogue import DrawnPicture, draw_catalogue

SMALL_MODEL = ModelChoice(backbone="resnet18", image_size=64, weights="random")
PRODUCT_ID_PATTERN = r"([^/]+)/[^/]+$"  # the folder that a drawn picture lies in
INGEST = IngestConfig(fetch_threads=2, decode_threads=2)
SCORE = ScoreConfig(device="cpu", decode_threads=2)
REBUILD = RebuildConfig()


def init_lake(lake_uri: str, *, model: bool = False) -> None:
    """A lake with a look of random weights, and a model on it if asked: made once in a process, then copied."""
    if "://" not in lake_uri:
        shutil.copytree(_made(model), lake_uri)
    else:
        _init_lake(lake_uri, model)


@functools.cache
def _made(model: bool) -> str:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    _init_lake(f"{folder}/lake", model)
    return f"{folder}/lake"


def _init_lake(lake_uri: str, model: bool) -> None:
    init_model(lake_uri, SMALL_MODEL)
    if model:
        register_model(lake_uri)


def ingest(lake_uri: str, source: str, config: IngestConfig = INGEST) -> IngestSummary:
    """Bring a lake up to date with the source; makes the lake where there is none."""
    return ingesting.ingest(open_lake(lake_uri, create=True), source, config, Inline())


def register_model(lake_uri: str, *, seed: int = 0, promote: bool = True, **properties: Any) -> int:
    """A model on the look's trunk whose head is random: as good as a trained one where nobody asks what it says."""
    lake = open_lake(lake_uri)
    look = read_look(lake, require_look(lake))
    torch.manual_seed(seed)
    network = PolarityNetwork(NetworkConfig(backbone=look.config.backbone)).eval()
    network.backbone = load_look(lake, look).backbone
    newest, draft = lake.models.newest(), lake.models.draft()
    start = {"trains_backbone": False, "weights": look.weights, "look_version": look.version}
    said = {"started_from": start, "evaluation": {"accuracy": None}, **properties}
    seal_model(draft, network, look.preprocessing, properties=said)
    lake.models.append("promote" if promote else "register", draft.version, based_on=newest)
    return draft.version


def score(
    lake_uri: str,
    model_version: int | None = None,
    look_version: int | None = None,
    config: ScoreConfig = SCORE,
) -> ScoreSummary:
    """What was embedded and scored."""
    versions = {"look_version": look_version, "model_version": model_version}
    return scoring.score(open_lake(lake_uri), config, Inline(), **versions)


def rebuild(
    lake_uri: str,
    look_version: int | None = None,
    config: RebuildConfig = REBUILD,
    full_rebuild: str | None = None,
) -> PublishedIndex | None:
    """The index that readers use from here on, None where there are no pictures."""
    lake = open_lake(lake_uri)
    summary = rebuilding.rebuild(lake, config, Inline(), look_version=look_version, full_rebuild=full_rebuild)
    return None if summary.index_version is None else published(lake, summary.index_version)


def build_version(lake_uri: str, plan: IndexPlan, config: RebuildConfig = REBUILD) -> PublishedIndex:
    """From a plan, however old, to a published version."""
    with running(open_lake(lake_uri), "rebuild-index", Inline()) as run:
        return rebuilding.build_version(run, plan, config)


@dataclass(frozen=True)
class SmallLake:
    """A drawn shop and a lake of it: a random look and model, every picture embedded and scored, an index published."""

    uri: str
    source: Path
    pictures: tuple[DrawnPicture, ...]


def build(folder: Path, *, products: int = 6, views: int = 2, size: int = 64) -> SmallLake:
    """Draw a shop below the folder and bring a lake beside it up to date with it."""
    source, lake_uri = folder / "pictures", str(folder / "lake")
    pictures = draw_catalogue(source, products=products, views=views, size=size)
    init_lake(lake_uri, model=True)
    ingest(
        lake_uri, str(source), IngestConfig(product_id_pattern=PRODUCT_ID_PATTERN, fetch_threads=2, decode_threads=2)
    )
    score(lake_uri)
    rebuild(lake_uri)
    return SmallLake(lake_uri, source, tuple(pictures))
