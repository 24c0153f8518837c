"""Rolling back: a model moves polarity at once, a look and its index move together; nothing moves that must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from lake.errors import LakeError, UnknownVersion
from lake.lake import Lake, Serving, open_lake
from lake.rollback import roll_back
from lake.versions import Versions


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return open_lake(str(tmp_path / "lake"), create=True)


def look(lake: Lake, action: str = "promote") -> int:
    return _said(lake.looks, action, {})


def model(lake: Lake, action: str = "promote") -> int:
    return _said(lake.models, action, {})


def served_model(lake: Lake) -> int:
    """A promoted model whose scores are complete."""
    version = model(lake)
    lake.models.append("serve", version, based_on=lake.models.newest())
    return version


def index(lake: Lake, look_version: int, action: str = "publish") -> int:
    return _said(lake.indexes, action, {"look_version": look_version})


def _said(versions: Versions, action: str, properties: dict[str, int]) -> int:
    draft = versions.draft()
    draft.add("file", b"")
    draft.seal(properties)
    versions.append(action, draft.version, based_on=versions.newest())  # type: ignore[arg-type]
    return draft.version


def logs(lake: Lake) -> list[int]:
    return [len(versions.entries()) for versions in (lake.looks, lake.models, lake.indexes)]


# Looks and their indexes


def test_a_look_comes_back_with_the_newest_index_of_its_embeddings(lake: Lake) -> None:
    first = look(lake)
    index(lake, first)
    newest_of_first = index(lake, first)
    second = look(lake)
    index(lake, second)

    done = roll_back(lake, "looks", first)

    assert lake.serving() == Serving(first, newest_of_first, None)
    assert (done.look_version, done.model_version, done.serving) == (first, None, lake.serving())
    assert done.note == ""
    assert lake.looks.current() == first


def test_the_way_back_is_the_way_forward_again(root: str) -> None:
    lake = open_lake(root, create=True)
    first = look(lake)
    index(lake, first)
    second = look(lake)
    newest = index(lake, second)

    roll_back(lake, "looks", first)
    roll_back(lake, "looks", second)

    assert lake.serving() == Serving(second, newest, None)
    assert lake.looks.current() == second


def test_a_look_takes_no_model_with_it(lake: Lake) -> None:
    first = look(lake)
    old = index(lake, first)
    served_model(lake)
    index(lake, look(lake))
    serving = served_model(lake)
    before = lake.models.entries()

    roll_back(lake, "looks", first)

    assert lake.serving() == Serving(first, old, serving)
    assert lake.models.entries() == before


def test_an_index_comes_back_alone_and_says_which_look_stays(lake: Lake) -> None:
    first = look(lake)
    old = index(lake, first)
    second = look(lake)
    index(lake, second)

    done = roll_back(lake, "indexes", old)

    assert lake.serving() == Serving(first, old, None)
    assert lake.looks.current() == done.look_version == second
    assert done.note.startswith(f"look {second} stays promoted")
    assert f"`vitrine rollback looks {first}`" in done.note


def test_an_index_of_the_promoted_look_comes_back_without_a_word(lake: Lake) -> None:
    only = look(lake)
    old = index(lake, only)
    index(lake, only)

    assert roll_back(lake, "indexes", old).note == ""
    assert lake.serving() == Serving(only, old, None)


def test_a_look_without_an_index_leaves_what_serves_and_says_what_to_run(lake: Lake) -> None:
    first, second = look(lake), look(lake)
    published = index(lake, second)

    done = roll_back(lake, "looks", first)

    assert lake.looks.current() == first
    assert lake.serving() == Serving(second, published, None)
    assert done.note == f"no index was published under look {first}: run `vitrine score` and `vitrine rebuild-index`"


def test_before_any_index_the_look_itself_serves(lake: Lake) -> None:
    first = look(lake)
    look(lake)

    assert roll_back(lake, "looks", first).serving == Serving(first, None, None)
    assert lake.serving() == Serving(first, None, None)


def test_a_refused_index_is_never_put_back_with_its_look(lake: Lake) -> None:
    first = look(lake)
    accepted = index(lake, first)
    index(lake, first, "refuse")
    index(lake, first, "register")
    index(lake, look(lake))

    roll_back(lake, "looks", first)

    assert lake.serving() == Serving(first, accepted, None)


def test_a_look_whose_only_index_was_refused_has_none(lake: Lake) -> None:
    first, second = look(lake), look(lake)
    published = index(lake, second)
    index(lake, first, "refuse")

    assert "no index was published" in roll_back(lake, "looks", first).note
    assert lake.serving() == Serving(second, published, None)


def test_a_rollback_that_was_cut_off_between_its_entries_is_finished_by_another(lake: Lake) -> None:
    first = look(lake)
    old = index(lake, first)
    index(lake, look(lake))
    lake.looks.append("roll back", first, based_on=lake.looks.newest())  # and then the power failed

    roll_back(lake, "looks", first)

    assert lake.serving() == Serving(first, old, None)


# Models


def test_a_model_comes_back_at_once_by_one_entry_and_leaves_search_alone(root: str) -> None:
    lake = open_lake(root, create=True)
    first_look = look(lake)
    published = index(lake, first_look)
    first, second = served_model(lake), served_model(lake)
    before = logs(lake)

    done = roll_back(lake, "models", first)

    assert lake.serving() == done.serving == Serving(first_look, published, first)
    assert (done.model_version, done.look_version, done.note) == (first, first_look, "")
    assert logs(lake) == [before[0], before[1] + 1, before[2]]
    roll_back(lake, "models", second)
    assert lake.serving() == Serving(first_look, published, second)


def test_a_model_that_serves_already_comes_back_before_the_scores_of_a_newer_one_are_there(lake: Lake) -> None:
    first = served_model(lake)
    model(lake)
    assert lake.serving().model_version == first

    done = roll_back(lake, "models", first)

    assert (done.model_version, done.serving.model_version) == (first, first)


def test_a_promoted_model_that_does_not_serve_yet_can_be_made_to(lake: Lake) -> None:
    served_model(lake)
    second = model(lake)

    assert roll_back(lake, "models", second).serving.model_version == second


def test_a_promotion_after_a_rollback_serves_once_it_is_said(lake: Lake) -> None:
    first = served_model(lake)
    served_model(lake)
    roll_back(lake, "models", first)
    third = model(lake)

    assert lake.serving().model_version == first
    lake.models.append("serve", third, based_on=lake.models.newest())
    assert lake.serving().model_version == third


def test_before_any_scores_the_promoted_model_serves(lake: Lake) -> None:
    first = model(lake)
    model(lake)

    assert roll_back(lake, "models", first).serving.model_version == first
    assert lake.serving() == Serving(None, None, first)


# Any kind


@pytest.mark.parametrize("kind", ["looks", "models"])
@pytest.mark.parametrize("action", ["refuse", "register"])
def test_a_version_that_was_never_accepted_is_not_rolled_back_to(lake: Lake, action: str, kind: str) -> None:
    make = {"looks": look, "models": model}[kind]
    first, second = make(lake), make(lake)
    index(lake, second)
    unaccepted = make(lake, action)
    before = logs(lake)

    with pytest.raises(LakeError, match=f"version {unaccepted} was never accepted: expected one of {first}, {second}$"):
        roll_back(lake, kind, unaccepted)  # type: ignore[arg-type]
    assert logs(lake) == before


@pytest.mark.parametrize("kind", ["looks", "models", "indexes"])
def test_an_unknown_version_moves_nothing(lake: Lake, kind: str) -> None:
    model(lake)
    index(lake, look(lake))
    before = logs(lake)

    with pytest.raises(UnknownVersion, match=r"expected one of 1$"):
        roll_back(lake, kind, 7)  # type: ignore[arg-type]
    assert logs(lake) == before


def test_what_is_current_already_is_left_without_an_entry(lake: Lake) -> None:
    first = look(lake)
    published = index(lake, first)
    scored = served_model(lake)
    before = logs(lake)

    assert roll_back(lake, "looks", first).serving.index_version == published
    assert roll_back(lake, "indexes", published).version == published
    assert roll_back(lake, "models", scored).version == scored
    assert logs(lake) == before
