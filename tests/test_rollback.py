"""Rolling back: model and index move as a pair, by the index's entry; nothing moves that must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from lake.errors import LakeError, UnknownVersion
from lake.lake import Lake, ServingPair, open_lake
from lake.rollback import roll_back
from lake.versions import Versions


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return open_lake(str(tmp_path / "lake"), create=True)


def model(lake: Lake, action: str = "promote") -> int:
    return _said(lake.models, action, {})


def index(lake: Lake, model_version: int, action: str = "publish") -> int:
    return _said(lake.indexes, action, {"model_version": model_version})


def _said(versions: Versions, action: str, properties: dict[str, int]) -> int:
    draft = versions.draft()
    draft.add("file", b"")
    draft.seal(properties)
    versions.append(action, draft.version, based_on=versions.newest())  # type: ignore[arg-type]
    return draft.version


def logs(lake: Lake) -> list[int]:
    return [len(lake.models.entries()), len(lake.indexes.entries())]


def test_a_model_comes_back_with_the_newest_index_of_its_embeddings(lake: Lake) -> None:
    first = model(lake)
    index(lake, first)
    newest_of_first = index(lake, first)
    second = model(lake)
    index(lake, second)

    done = roll_back(lake, "models", first)

    assert lake.serving() == ServingPair(first, newest_of_first)
    assert (done.model_version, done.serving_model, done.serving_index) == (first, first, newest_of_first)
    assert done.note == ""
    assert lake.models.current() == first


def test_the_way_back_is_the_way_forward_again(root: str) -> None:
    lake = open_lake(root, create=True)
    first = model(lake)
    index(lake, first)
    second = model(lake)
    newest = index(lake, second)

    roll_back(lake, "models", first)
    roll_back(lake, "models", second)

    assert lake.serving() == ServingPair(second, newest)
    assert lake.models.current() == second


def test_an_index_comes_back_alone_and_says_which_model_stays(lake: Lake) -> None:
    first = model(lake)
    old = index(lake, first)
    second = model(lake)
    index(lake, second)

    done = roll_back(lake, "indexes", old)

    assert lake.serving() == ServingPair(first, old)
    assert lake.models.current() == second
    assert done.note.startswith(f"model {second} stays promoted")
    assert f"`vitrine rollback models {first}`" in done.note


def test_an_index_of_the_promoted_model_comes_back_without_a_word(lake: Lake) -> None:
    only = model(lake)
    old = index(lake, only)
    index(lake, only)

    assert roll_back(lake, "indexes", old).note == ""
    assert lake.serving() == ServingPair(only, old)


def test_a_model_without_an_index_leaves_the_serving_pair_and_says_what_to_run(lake: Lake) -> None:
    first, second = model(lake), model(lake)
    published = index(lake, second)

    done = roll_back(lake, "models", first)

    assert lake.models.current() == first
    assert lake.serving() == ServingPair(second, published)
    assert done.note == f"no index was published under model {first}: run `vitrine score` and `vitrine rebuild-index`"


def test_before_any_index_the_model_itself_serves(lake: Lake) -> None:
    first = model(lake)
    model(lake)

    assert roll_back(lake, "models", first).serving_model == first
    assert lake.serving() == ServingPair(first, None)


def test_a_refused_index_is_never_put_back_with_its_model(lake: Lake) -> None:
    first = model(lake)
    accepted = index(lake, first)
    index(lake, first, "refuse")
    index(lake, first, "register")
    index(lake, model(lake))

    roll_back(lake, "models", first)

    assert lake.serving() == ServingPair(first, accepted)


def test_a_model_whose_only_index_was_refused_has_none(lake: Lake) -> None:
    first, second = model(lake), model(lake)
    published = index(lake, second)
    index(lake, first, "refuse")

    assert "no index was published" in roll_back(lake, "models", first).note
    assert lake.serving() == ServingPair(second, published)


@pytest.mark.parametrize("action", ["refuse", "register"])
def test_a_version_that_was_never_accepted_is_not_rolled_back_to(lake: Lake, action: str) -> None:
    first, second = model(lake), model(lake)
    index(lake, second)
    unaccepted = model(lake, action)
    before = logs(lake)

    with pytest.raises(LakeError, match=f"version {unaccepted} was never accepted: expected one of {first}, {second}$"):
        roll_back(lake, "models", unaccepted)
    assert logs(lake) == before


def test_an_unknown_version_moves_nothing(lake: Lake) -> None:
    index(lake, model(lake))
    before = logs(lake)

    with pytest.raises(UnknownVersion, match=r"expected one of 1$"):
        roll_back(lake, "models", 7)
    with pytest.raises(UnknownVersion, match=r"expected one of 1$"):
        roll_back(lake, "indexes", 7)
    assert logs(lake) == before


def test_what_is_current_already_is_left_without_an_entry(lake: Lake) -> None:
    first = model(lake)
    published = index(lake, first)
    before = logs(lake)

    assert roll_back(lake, "models", first).serving_index == published
    assert roll_back(lake, "indexes", published).version == published
    assert logs(lake) == before


def test_a_rollback_that_was_cut_off_between_its_entries_is_finished_by_another(lake: Lake) -> None:
    first = model(lake)
    old = index(lake, first)
    index(lake, model(lake))
    lake.models.append("roll back", first, based_on=lake.models.newest())  # and then the power failed

    roll_back(lake, "models", first)

    assert lake.serving() == ServingPair(first, old)
