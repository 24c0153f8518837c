"""Embeddings and scores: one pass where look and model stand on one trunk, two where not, the same answers always."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lake import catalogue
from lake.lake import Lake, open_lake
from model.predict import Pending, Predictor
from tasks.looks import load_look, new_look, read_look, seal_look
from tasks.predictors import predictor
from tasks.score import units
from tasks.score.stage import ScoreSummary
from tasks.score.units import plan_scoring
from tests.small_lake import SCORE, SMALL_MODEL, ingest, init_lake, register_model, score

PICTURES = 7
Answers = dict[str, tuple[float, NDArray[np.float32]]]  # polarity and embedding of each key


def add_pictures(folder: Path, numbers: range) -> None:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        coarse = np.random.default_rng(number).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        data = io.BytesIO()
        Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(data, "PNG")
        (folder / f"{number}.png").write_bytes(data.getvalue())


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Pictures, a look, nothing embedded, no model."""
    add_pictures(tmp_path / "pictures", range(PICTURES))
    init_lake(str(tmp_path / "lake"))
    ingest(str(tmp_path / "lake"), str(tmp_path / "pictures"))
    return open_lake(str(tmp_path / "lake"))


def register_look(lake: Lake, *, seed: int = 0, pooling: str = "gem") -> int:
    """Another look, promoted: over the first one's trunk, or with another seed over another."""
    look, preprocessing, _ = new_look(replace(SMALL_MODEL, seed=seed))
    if seed == 0:
        look.backbone = load_look(lake, read_look(lake, 1)).backbone
    look.config = replace(look.config, pooling=pooling)  # type: ignore[arg-type]
    draft = lake.looks.draft()
    seal_look(draft, look, preprocessing, weights="random")
    lake.looks.append("promote", draft.version, based_on=lake.looks.newest())
    return draft.version


def passes(lake: Lake) -> list[tuple[int | None, int | None, int]]:
    """Look, model and contents of each pass that scoring would make now."""
    look = lake.looks.current()
    assert look is not None
    plan = plan_scoring(lake, look, lake.models.current(), "a-test", SCORE)
    return [(each.look_version, each.model_version, each.contents) for each in plan.passes]


def counts(summary: ScoreSummary) -> tuple[int, int, int, int]:
    return summary.already_embedded, summary.embedded, summary.already_scored, summary.scored


def stored(lake: Lake) -> Answers:
    look, model = lake.looks.current(), lake.models.current()
    with catalogue.connect(lake) as sql:
        rows = sql.execute(
            f"SELECT image_key, polarity, embedding "
            f"FROM scores_of({model}) JOIN embeddings_of({look}) USING (image_key)"
        ).fetchall()
    return {key: (polarity, np.array(embedding, np.float32)) for key, polarity, embedding in rows}


def expected(lake: Lake, folder: Path) -> Answers:
    """Look and model asked one after the other, picture by picture."""
    from tasks.pictures import prepare, read_picture

    pictures = {path.name: read_picture(path.read_bytes()).pixels for path in sorted(folder.iterdir())}
    look = predictor(lake, "cpu", look_version=lake.looks.current())
    embeddings = [look.predict(prepare(each, look)[np.newaxis]).embedding[0] for each in pictures.values()]
    model = predictor(lake, "cpu", model_version=lake.models.current())
    polarities = [float(model.predict(prepare(each, model)[np.newaxis]).polarity[0]) for each in pictures.values()]
    return dict(zip(pictures, zip(polarities, embeddings, strict=True), strict=True))


def assert_same(found: Answers, wanted: Answers) -> None:
    assert found.keys() == wanted.keys()
    for key, (polarity, embedding) in wanted.items():
        assert found[key][0] == pytest.approx(polarity, abs=1e-4)
        np.testing.assert_allclose(found[key][1], embedding, atol=3e-3)  # bfloat16 in the lake


@pytest.fixture
def forwarded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of a trunk is given."""
    found: list[int] = []
    start = Predictor.start

    def counted(self: Predictor, pixels: object) -> Pending:
        found.append(len(pixels))  # type: ignore[arg-type]
        return start(self, pixels)  # type: ignore[arg-type]

    monkeypatch.setattr(Predictor, "start", counted)
    return found


@pytest.mark.parametrize("together", [True, False])
def test_one_pass_gives_the_answers_of_two(
    lake: Lake, tmp_path: Path, forwarded: list[int], monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    register_model(lake.uri)
    if not together:
        monkeypatch.setattr(units, "share_trunk", lambda *_: False)
    assert passes(lake) == ([(1, 1, PICTURES)] if together else [(1, None, PICTURES), (None, 1, PICTURES)])
    assert counts(score(lake.uri)) == (0, PICTURES, 0, PICTURES)
    assert sum(forwarded) == (PICTURES if together else 2 * PICTURES)
    assert_same(stored(lake), expected(lake, tmp_path / "pictures"))


def test_what_has_one_answer_is_given_the_other_by_a_pass_of_its_own(lake: Lake, tmp_path: Path) -> None:
    assert passes(lake) == [(1, None, PICTURES)]
    summary = score(lake.uri)
    assert (summary.model_version, counts(summary)) == (None, (0, PICTURES, 0, 0))
    register_model(lake.uri)
    assert passes(lake) == [(None, 1, PICTURES)]
    summary = score(lake.uri)
    assert (summary.serves_since, counts(summary)) == (True, (PICTURES, 0, 0, PICTURES))
    assert passes(lake) == []
    second = register_look(lake, pooling="mean")
    add_pictures(tmp_path / "pictures", range(PICTURES, PICTURES + 3))
    ingest(lake.uri, str(tmp_path / "pictures"))
    assert passes(lake) == [(second, 1, 3), (second, None, PICTURES)]
    summary = score(lake.uri)
    assert (summary.serves_since, counts(summary)) == (False, (0, PICTURES + 3, PICTURES, 3))
    assert_same(stored(lake), expected(lake, tmp_path / "pictures"))
    assert counts(score(lake.uri)) == (PICTURES + 3, 0, PICTURES + 3, 0)


def test_two_trunks_take_two_passes(lake: Lake, tmp_path: Path, forwarded: list[int]) -> None:
    register_model(lake.uri)
    second = register_look(lake, seed=1)
    assert passes(lake) == [(second, None, PICTURES), (None, 1, PICTURES)]
    assert counts(score(lake.uri)) == (0, PICTURES, 0, PICTURES)
    assert sum(forwarded) == 2 * PICTURES
    assert_same(stored(lake), expected(lake, tmp_path / "pictures"))


def test_other_preprocessing_takes_a_pass_of_its_own(lake: Lake) -> None:
    register_model(lake.uri)
    look, preprocessing, _ = new_look(SMALL_MODEL)
    draft = lake.looks.draft()
    seal_look(draft, look, replace(preprocessing, image_size=96), weights="random")
    lake.looks.append("promote", draft.version, based_on=lake.looks.newest())
    assert passes(lake) == [(draft.version, None, PICTURES), (None, 1, PICTURES)]
