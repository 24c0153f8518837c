"""A small lake with two published indexes, a look and a serving model, for the tests that damage one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import small_lake
from tests.vector_lake import VectorLake
from tests.vectors import clustered

POOL = clustered(60, 8, seed=3, clusters=4)


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two published indexes, a look, a scored model that serves, some runs."""
    made = VectorLake(str(tmp_path_factory.mktemp("pattern") / "lake"), 8)
    for night in range(2):
        made.change({f"{row:03d}.jpg": POOL[row] for row in range(30 * night, 30 * night + 30)})
        assert small_lake.rebuild(made.uri) is not None
    model = made.promote_model()
    made.add_scores(model, dict.fromkeys(made.pictures, (0.25, 0.5, 0.5)))
    made.serve(model)
    assert made.lake.store.directory is not None
    return made.lake.store.directory


@pytest.fixture
def root(pattern: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(pattern, tmp_path / "lake")
    return tmp_path / "lake"
