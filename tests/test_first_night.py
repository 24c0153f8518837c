"""The first night of a lake that nobody prepared: it registers a look, and nothing is said of feelings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lake.errors import LakeError
from lake.lake import Serving, open_lake
from model.errors import ModelError
from tasks.config import ModelChoice
from tasks.looks import read_look
from tasks.night import NightConfig, night
from tasks.runner import Inline
from tasks.search.queries import search_by_key
from tasks.status import read_status
from tests.command_line import Ended, Run
from tests.small_lake import INGEST, REBUILD, SCORE, SMALL_MODEL
from vitrine.demo.draw_catalogue import draw_catalogue

PRODUCTS, VIEWS = 3, 2
PICTURES = PRODUCTS * VIEWS


class Told(Inline):
    """Keeps what a run says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, message: str, *args: object) -> None:
        self.lines.append(message % args)


@pytest.fixture
def source(tmp_path: Path) -> str:
    draw_catalogue(tmp_path / "pictures", products=PRODUCTS, views=VIEWS, size=64, broken=0)
    return str(tmp_path / "pictures")


def config(first_look: ModelChoice) -> NightConfig:
    return NightConfig(INGEST, SCORE, REBUILD, first_look)


def test_the_first_night_registers_the_first_look_and_says_so(source: str, tmp_path: Path) -> None:
    lake, told = open_lake(str(tmp_path / "lake"), create=True), Told()
    summary = night(lake, source, config(SMALL_MODEL), told)
    assert told.lines[0] == "look 1 registered, the lake's first: random weights"
    assert (summary.first_look, summary.score.embedded, summary.score.scored) == (1, PICTURES, 0)
    assert (summary.index.rows, summary.index.is_new) == (PICTURES, True)
    assert lake.serving() == Serving(look_version=1, index_version=1, model_version=None)
    assert lake.models.entries() == []
    told = Told()
    summary = night(lake, source, config(ModelChoice(backbone="resnet50", weights="random")), told)
    assert summary.first_look is None and not any("registered" in line for line in told.lines)
    assert lake.looks.known() == [1]


def test_a_look_by_default_has_the_bundled_weights(source: str, tmp_path: Path) -> None:
    lake = open_lake(str(tmp_path / "lake"), create=True)
    night(lake, source, config(ModelChoice(image_size=64)), Inline())
    card = read_look(lake, 1)
    assert (card.config.backbone, card.weights) == ("efficientnet-lite0", "bundled")


def test_weights_that_are_not_there_stop_the_night_before_anything_is_fetched(source: str, tmp_path: Path) -> None:
    lake = open_lake(str(tmp_path / "lake"), create=True)
    for weights, error in (("bundled", ModelError), (str(tmp_path / "none.safetensors"), LakeError)):
        with pytest.raises(error):
            night(lake, source, config(ModelChoice(backbone="resnet18", weights=weights)), Inline())
    assert lake.looks.entries() == []
    assert lake.images.files() == []


@pytest.fixture
def said(run: Run, source: str, tmp_path: Path) -> tuple[Ended, str]:
    """How `vitrine nightly` ended on a lake that is not there yet, with random weights by settings; the lake."""
    lake = str(tmp_path / "lake")
    return run("nightly", source, "--lake", lake, "--device", "cpu", VITRINE_DEFAULT_WEIGHTS="random"), lake


def test_polarity_is_unknown_everywhere_until_a_model_was_trained(
    run: Run, said: tuple[Ended, str], tmp_path: Path
) -> None:
    ended, lake = said
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("look    version 1 registered, the lake's first: ")
    assert "unknown until `vitrine retrain LABELS` promotes a model" in ended.out
    assert "no model of polarity yet" in ended.out

    assert "none was trained yet: polarity is unknown" in run("status", "--lake", lake).out
    status = json.loads(run("status", "--lake", lake, "--json").out)
    assert (status["embedded"], status["scored"], status["promoted_model"]) == (PICTURES, 0, None)
    assert status == json.loads(json.dumps(read_status(open_lake(lake)), default=str)) | {
        "last_run": status["last_run"]
    }

    def sql(query: str) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = json.loads(run("sql", query, "--lake", lake, "--json").out)
        return rows

    assert sql("FROM scores") == sql("FROM most_positive()") == sql("FROM product_polarity()") == []
    key = str(sql("SELECT min(image_key) AS key FROM images")[0]["key"])
    alike = sql(f"SELECT polarity, similarity FROM similar_to('{key}')")
    assert len(alike) == PICTURES - 1 and {row["polarity"] for row in alike} == {None}

    found = search_by_key(open_lake(lake), key, 10, tmp_path / "cache")
    assert found.model_version is None
    assert {(each["polarity"], each["label"]) for each in found.neighbours} == {(None, None)}
    assert "no model of polarity yet" in run("search", "--key", key, "--lake", lake).out
    for asked in (("--by", "feeling"), ("--polarity", "0.5:1")):
        ended = run("search", "--key", key, *asked, "--lake", lake)
        assert ended.code == 1
        assert ended.err == ("vitrine: the lake has no model of polarity yet: `vitrine retrain LABELS` trains one\n")
