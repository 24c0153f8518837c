"""What people and programs hold: a lake, searches in it, and the stages of a night.

    import vitrine

    lake = vitrine.open_lake("s3://shop/vitrine")
    (neighbours,) = vitrine.Reader(lake).search_keys(["mugs/12.jpg"], k=5)

Nothing is imported before it is asked for: opening a lake brings no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lake.catalogue import connect
    from lake.collection_policy import CollectionPolicy
    from lake.lake import Lake, open_lake
    from model.gate_policy import GatePolicy
    from tasks.collect.stage import collect
    from tasks.config import ModelChoice
    from tasks.ingest.config import IngestConfig
    from tasks.ingest.stage import ingest
    from tasks.looks import init_model
    from tasks.night import NightConfig, night
    from tasks.rebuild.config import RebuildConfig
    from tasks.rebuild.stage import rebuild
    from tasks.retrain.config import RetrainConfig
    from tasks.retrain.stage import retrain
    from tasks.retrain_look.config import RetrainLookConfig
    from tasks.retrain_look.stage import retrain_look
    from tasks.runner import Inline, Runner
    from tasks.score.config import ScoreConfig
    from tasks.score.stage import score
    from tasks.search.reader import Filters, Reader

    __version__: str

_HOMES = {
    "CollectionPolicy": "lake.collection_policy",
    "Filters": "tasks.search.reader",
    "GatePolicy": "model.gate_policy",
    "IngestConfig": "tasks.ingest.config",
    "Inline": "tasks.runner",
    "Lake": "lake.lake",
    "ModelChoice": "tasks.config",
    "NightConfig": "tasks.night",
    "Reader": "tasks.search.reader",
    "RebuildConfig": "tasks.rebuild.config",
    "RetrainConfig": "tasks.retrain.config",
    "RetrainLookConfig": "tasks.retrain_look.config",
    "Runner": "tasks.runner",
    "ScoreConfig": "tasks.score.config",
    "collect": "tasks.collect.stage",
    "connect": "lake.catalogue",
    "ingest": "tasks.ingest.stage",
    "init_model": "tasks.looks",
    "night": "tasks.night",
    "open_lake": "lake.lake",
    "rebuild": "tasks.rebuild.stage",
    "retrain": "tasks.retrain.stage",
    "retrain_look": "tasks.retrain_look.stage",
    "score": "tasks.score.stage",
}

__all__ = [
    "CollectionPolicy",
    "Filters",
    "GatePolicy",
    "IngestConfig",
    "Inline",
    "Lake",
    "ModelChoice",
    "NightConfig",
    "Reader",
    "RebuildConfig",
    "RetrainConfig",
    "RetrainLookConfig",
    "Runner",
    "ScoreConfig",
    "__version__",
    "collect",
    "connect",
    "ingest",
    "init_model",
    "night",
    "open_lake",
    "rebuild",
    "retrain",
    "retrain_look",
    "score",
]


def __getattr__(name: str) -> Any:
    """The name from where it lives. Raises AttributeError where there is none."""
    if name == "__version__":
        from importlib.metadata import version

        return version("vitrine")
    if name not in _HOMES:
        raise AttributeError(f"module 'vitrine' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
