"""Versions: immutable files, one log, of two writers exactly one wins; against a plain-dict model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from lake.errors import CorruptFile, LakeError, LostRace, ObjectExists, StoreUnavailable, UnknownVersion
from lake.log import Action, Entry
from lake.store import Store, open_store
from lake.versions import Draft, Versions


@pytest.fixture
def store(root: str) -> Store:
    return open_store(root, create=True)


@pytest.fixture
def models(store: Store) -> Versions:
    return Versions(store, "models")


@pytest.fixture
def local(tmp_path: Path) -> Versions:
    return Versions(open_store(str(tmp_path / "lake"), create=True), "models")


def sealed(versions: Versions, **files: bytes) -> int:
    draft = versions.draft()
    for name, data in (files or {"weights": b"w"}).items():
        draft.add(name, data)
    draft.seal({"note": f"version {draft.version}"})
    return draft.version


def published(versions: Versions, **files: bytes) -> int:
    version = sealed(versions, **files)
    versions.append("promote", version, based_on=versions.newest())
    return version


# The model: a plain dict of versions, a list of what was said of them


class History(RuleBasedStateMachine):
    """Any order of drafting, sealing, promoting, serving, refusing and rolling back agrees with a dict and a list."""

    drafts = Bundle("drafts")
    finished = Bundle("finished")
    seen = Bundle("seen")

    def __init__(self) -> None:
        super().__init__()
        self.versions = Versions(open_store("memory://"), "models")
        self.claimed: list[int] = []
        self.files: dict[int, dict[str, bytes]] = {}
        self.log: list[tuple[Action, int, int | None]] = []
        self.serving: list[int | None] = []  # from each entry of the log on

    @property
    def current(self) -> int | None:
        return self.log[-1][2] if self.log else None

    @rule(target=drafts)
    def draft(self) -> Draft:
        draft = self.versions.draft()
        assert draft.version not in self.claimed
        self.claimed.append(draft.version)
        self.files[draft.version] = {}
        return draft

    @rule(draft=drafts, name=st.sampled_from(["weights", "card", "a/b"]), data=st.binary(max_size=8))
    def add(self, draft: Draft, name: str, data: bytes) -> None:
        draft.add(name, data)
        self.files[draft.version][name] = data

    @rule(target=finished, draft=consumes(drafts))
    def seal(self, draft: Draft) -> int:
        draft.seal({"number": draft.version})
        return draft.version

    @rule(target=seen)
    def look(self) -> Any:
        """What a slow worker saw before its work began, with what the model held then."""
        return multiple((self.versions.newest(), len(self.log)))

    @rule(version=finished, view=seen, action=st.sampled_from(["register", "promote", "serve", "refuse", "roll back"]))
    def append(self, version: int, view: tuple[Entry | None, int], action: Action) -> None:
        based_on, length = view
        expected = self.log[length - 1][2] if length else None
        retried = (action, version, self.current) in self.log[length:]
        try:
            entry = self.versions.append(action, version, based_on=based_on, reason="because")
        except LostRace:
            assert expected != self.current
            assert not retried
            return
        assert (entry.action, entry.version) == (action, version)
        if retried:
            assert entry.current == self.current
            return
        assert expected == self.current
        self.log.append((action, version, self.current if action in ("register", "serve", "refuse") else version))
        before = self.serving[-1] if self.serving else None
        self.serving.append(version if action in ("serve", "roll back") else before)

    @invariant()
    def the_log_is_what_was_said(self) -> None:
        entries = self.versions.entries()
        assert [(entry.action, entry.version, entry.current) for entry in entries] == self.log
        assert [entry.serving for entry in entries] == self.serving
        assert [entry.sequence for entry in entries] == list(range(1, len(self.log) + 1))
        assert self.versions.current() == self.current
        assert self.versions.known() == sorted({version for _, version, _ in self.log})

    @invariant()
    def what_was_only_refused_served_or_registered_is_never_current(self) -> None:
        raised = {version for action, version, _ in self.log if action in ("promote", "roll back")}
        assert self.versions.current() in raised | {None}

    @precondition(lambda self: self.log)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(sorted({version for _, version, _ in self.log})))
        manifest = self.versions.manifest(version)
        assert manifest.properties == {"number": version}
        assert {record.name for record in manifest.files} == set(self.files[version])
        for name, content in self.files[version].items():
            assert self.versions.read(version, name) == content


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=40, stateful_step_count=25, derandomize=True)


# Races and lost answers


def test_of_two_publishers_exactly_one_wins_and_the_loser_keeps_its_version(models: Versions) -> None:
    first = published(models)
    start = Barrier(2)

    def publish(_: int) -> tuple[int, bool, str]:
        based_on = models.newest()
        version = sealed(models)
        start.wait(30)
        try:
            models.append("promote", version, based_on=based_on)
        except LostRace as error:
            return version, False, str(error)
        return version, True, ""

    with ThreadPoolExecutor(2) as pool:
        results = sorted(pool.map(publish, range(2)), key=lambda result: result[1])

    (lost, lost_won, message), (won, won_won, _) = results
    assert (lost_won, won_won) == (False, True)
    assert models.current() == won
    assert message == (
        f"models: version {won} became current while version {lost} was made from version {first}; "
        f"version {lost} is kept, run again to start from version {won}"
    )
    assert models.read(lost, "weights") == b"w"
    assert models.append("promote", lost, based_on=models.newest()).current == lost


def test_many_claims_never_share_a_number(models: Versions) -> None:
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: models.draft().version, range(16)))

    assert sorted(numbers) == list(range(1, 17))


def test_many_registrations_at_once_all_land_and_leave_the_current_version(models: Versions) -> None:
    first = published(models)
    newest = models.newest()
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda number: models.append("register", number, based_on=newest), range(10, 16)))

    assert sorted(models.known()) == [first, *range(10, 16)]
    assert models.current() == first
    assert [entry.sequence for entry in models.entries()] == list(range(1, 8))


class Forgetful(Store):
    """Writes, and then says that something was there already: the answer to the first attempt was lost."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.uri, store._backend, directory=store.directory, s3=store.s3)

    def put_new(self, path: str, data: bytes) -> None:
        super().put_new(path, data)
        raise ObjectExists(path)


def test_a_lost_answer_is_recognised_by_its_write_id(store: Store) -> None:
    forgetful = Versions(Forgetful(store), "models")

    draft = forgetful.draft()
    draft.seal({})
    entry = forgetful.append("promote", draft.version, based_on=None)

    assert draft.version == 1
    assert forgetful.entries() == [entry]


class Unanswered(Store):
    """Whose first three answers to each put-if-absent are lost: what it was asked for is done by then."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.uri, store._backend, directory=store.directory, s3=store.s3)
        self._asked: Counter[str] = Counter()

    def put_new(self, path: str, data: bytes) -> None:
        self._asked[path] += 1
        try:
            super().put_new(path, data)
        finally:
            if self._asked[path] <= 3:
                raise StoreUnavailable("no answer to a put")


def test_answers_that_are_lost_again_and_again_leave_one_entry(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lake.retries.FIRST_PAUSE", 0.001)
    unanswered = Versions(Unanswered(store), "models")

    draft = unanswered.draft()
    draft.seal({})
    entry = unanswered.append("promote", draft.version, based_on=None)

    assert draft.version == 1
    assert unanswered.entries() == [entry]


def test_a_retried_append_is_written_once_though_others_wrote_between(local: Versions) -> None:
    based_on, version, other = local.newest(), sealed(local), sealed(local)
    entry = local.append("promote", version, based_on=based_on)
    local.append("register", other, based_on=entry)

    assert local.append("promote", version, based_on=based_on) == entry
    assert len(local.entries()) == 2


def test_a_retried_append_that_another_publication_followed_says_who_is_current(local: Versions) -> None:
    based_on, version = local.newest(), sealed(local)
    local.append("promote", version, based_on=based_on)
    newer = published(local)

    with pytest.raises(LostRace, match=f"version {newer} became current"):
        local.append("promote", version, based_on=based_on)


def test_a_decision_made_again_later_is_a_new_entry(local: Versions) -> None:
    first, second = published(local), published(local)
    local.append("roll back", first, based_on=local.newest())
    local.append("roll back", second, based_on=local.newest())

    local.append("roll back", first, based_on=local.newest())

    assert local.current() == first
    assert len(local.entries()) == 5


def test_a_refused_version_never_becomes_current(local: Versions) -> None:
    first, candidate = published(local), sealed(local)

    local.append("refuse", candidate, based_on=local.newest(), reason="worse")

    assert local.current() == first
    assert local.known() == [first, candidate]


def test_a_refusal_before_any_promotion_leaves_none_current(local: Versions) -> None:
    local.append("refuse", sealed(local), based_on=None)

    assert local.current() is None


# Crashes


def test_a_version_that_was_claimed_or_sealed_and_then_abandoned_is_not_seen(local: Versions) -> None:
    first = published(local)
    local.draft().add("weights", b"half")
    sealed(local)

    assert local.current() == first
    assert local.known() == [first]
    assert local.draft().version == 4


@pytest.mark.parametrize("left", ["000000000002.json#1", "000000000002.json.tmp", ".DS_Store", "notes.txt"])
def test_what_a_killed_writer_left_beside_the_log_is_no_entry(local: Versions, tmp_path: Path, left: str) -> None:
    first = published(local)
    (tmp_path / "lake" / "models" / "log" / left).write_bytes(b'{"half')
    (tmp_path / "lake" / "models" / "versions" / ".DS_Store").write_bytes(b"")

    assert local.current() == first
    assert published(local) == first + 1
    assert local.current() == first + 1


def test_looks_models_and_indexes_have_logs_of_their_own(store: Store) -> None:
    looks, models, indexes = (Versions(store, kind) for kind in ("looks", "models", "indexes"))
    published(models)
    published(models)

    assert (published(looks), published(indexes)) == (1, 1)
    assert (looks.current(), models.current(), indexes.current()) == (1, 2, 1)


def test_a_hundred_thousandth_entry_and_a_millionth_version_keep_their_order(local: Versions) -> None:
    store = local._store
    published(local)
    entry = json.loads(store.get("models/log/000000000001.json"))
    for sequence in (99_999, 100_000):
        body = entry | {"sequence": sequence, "current": sequence}
        store.put(f"models/log/{sequence:012d}.json", json.dumps(body).encode())
    store.put("models/versions/1000000/claim.json", b"{}")

    assert local.current() == 100_000
    assert local.draft().version == 1_000_001


# Files


def test_files_of_several_workers_make_one_version(models: Versions, tmp_path: Path) -> None:
    draft = models.draft()
    (tmp_path / "file").write_bytes(b"streamed" * 1000)
    records = [
        models.join(draft.version).add_file("shards/1", tmp_path / "file"),
        models.join(draft.version).add("shards/2", b"two"),
    ]
    for record in records:
        draft.include(record)
    manifest = draft.seal({"rows": 2})

    assert models.manifest(draft.version) == manifest
    assert models.read(draft.version, "shards/1") == b"streamed" * 1000
    directory = models.fetch(draft.version, tmp_path / "cache")
    assert (directory / "shards" / "2").read_bytes() == b"two"


@pytest.mark.parametrize(("kept", "damage"), [(b"weighty", "7 with"), (b"Weights", "7 with"), (b"", "0 with")])
def test_a_damaged_file_is_never_opened(
    models: Versions, store: Store, tmp_path: Path, kept: bytes, damage: str
) -> None:
    version = published(models, weights=b"weights")
    store.put(models.path(version, "weights"), kept)

    def expected(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()[:12]

    for read in (lambda: models.read(version, "weights"), lambda: models.fetch(version, tmp_path / "cache")):
        with pytest.raises(CorruptFile) as caught:
            read()
        message = str(caught.value)
        assert message.startswith(f"models version {version}: weights is damaged: expected 7 bytes with sha256")
        assert f"sha256 {expected(b'weights')}…, found {damage} {expected(kept)}…; roll back" in message


def test_a_missing_file_is_said_alike_by_every_reader(models: Versions, store: Store, tmp_path: Path) -> None:
    version = published(models)
    store.delete([models.path(version, "weights")])

    for read in (lambda: models.read(version, "weights"), lambda: models.fetch(version, tmp_path / "cache")):
        with pytest.raises(CorruptFile, match=f"models version {version}: weights is missing; roll back"):
            read()


def test_a_file_that_the_manifest_does_not_name_is_not_read(local: Versions) -> None:
    version = published(local)

    with pytest.raises(CorruptFile, match=f"models version {version} has no file 'claim.json'"):
        local.read(version, "claim.json")


def test_a_local_version_is_used_where_it_lies(local: Versions, tmp_path: Path) -> None:
    version = published(local)

    directory = local.fetch(version, tmp_path / "cache")

    assert directory == tmp_path / "lake" / "models" / "versions" / "000001"
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def remote(s3_root: str) -> Versions:
    return Versions(open_store(s3_root), "models")


@pytest.mark.s3
def test_a_remote_version_is_copied_once(remote: Versions, tmp_path: Path) -> None:
    version = published(remote)
    copy = remote.fetch(version, tmp_path) / "weights"
    inode = copy.stat().st_ino

    assert copy.read_bytes() == b"w"
    assert (remote.fetch(version, tmp_path) / "weights").stat().st_ino == inode
    assert [path.name for path in copy.parent.iterdir()] == ["weights"]


@pytest.mark.s3
@pytest.mark.parametrize("kept", [b"half", b"xeights", b""])
def test_a_damaged_copy_in_the_cache_is_copied_again(remote: Versions, tmp_path: Path, kept: bytes) -> None:
    version = published(remote, weights=b"weights")
    copy = remote.fetch(version, tmp_path) / "weights"
    copy.write_bytes(kept)

    assert (remote.fetch(version, tmp_path) / "weights").read_bytes() == b"weights"


@pytest.mark.s3
def test_two_lakes_share_a_cache_without_meeting(s3_root: str, tmp_path: Path) -> None:
    one = Versions(open_store(f"{s3_root}/one"), "models")
    two = Versions(open_store(f"{s3_root}/two"), "models")
    version = published(one, weights=b"one")
    assert published(two, weights=b"two") == version

    assert (one.fetch(version, tmp_path) / "weights").read_bytes() == b"one"
    assert (two.fetch(version, tmp_path) / "weights").read_bytes() == b"two"


@pytest.mark.s3
def test_many_workers_may_fetch_into_one_cache(remote: Versions, tmp_path: Path) -> None:
    version = published(remote, weights=b"weights" * 10_000)
    with ThreadPoolExecutor(8) as pool:
        copies = list(pool.map(lambda _: (remote.fetch(version, tmp_path) / "weights").read_bytes(), range(8)))

    assert set(copies) == {b"weights" * 10_000}


# What is not there


def test_an_unknown_version_is_said_with_those_that_are(local: Versions) -> None:
    with pytest.raises(UnknownVersion, match=r"no version 7 among the models: expected one of none yet$"):
        local.require(7)
    published(local)
    published(local)
    sealed(local)  # never named by the log

    for ask in (local.require, local.manifest):
        with pytest.raises(UnknownVersion, match=r"no version 7 among the models: expected one of 1, 2$"):
            ask(7)
    with pytest.raises(UnknownVersion):
        local.require(3)


# Formats


def test_a_manifest_and_an_entry_are_plain_json_that_names_its_format(models: Versions, store: Store) -> None:
    base, draft = published(models), models.draft()
    record = models.manifest(base).files[0]
    draft.include(dataclasses.replace(record, stored_in=base))
    draft.add("card", b"test")
    manifest = draft.seal({"backbone": "resnet101", "trained": False})
    entry = models.append("promote", draft.version, based_on=models.newest(), reason="better")

    assert json.loads(store.get("models/versions/000002/manifest.json")) == {
        "format": 1,
        "version": 2,
        "created_at": manifest.created_at.isoformat(),
        "files": [
            {"name": "card", "size_bytes": 4, "sha256": hashlib.sha256(b"test").hexdigest()},
            {"name": "weights", "size_bytes": 1, "sha256": hashlib.sha256(b"w").hexdigest(), "stored_in": 1},
        ],
        "properties": {"backbone": "resnet101", "trained": False},
    }
    assert json.loads(store.get("models/log/000000000002.json")) == {
        "format": 1,
        "sequence": 2,
        "action": "promote",
        "version": 2,
        "current": 2,
        "at": entry.at.isoformat(),
        "reason": "better",
        "write_id": entry.write_id,
        "epoch": 0,
        "serving": None,
    }
    assert (models.manifest(2), models.newest()) == (manifest, entry)


@pytest.mark.parametrize("path", ["models/versions/000001/manifest.json", "models/log/000000000001.json"])
def test_a_later_format_is_refused_rather_than_misread(local: Versions, path: str) -> None:
    published(local)
    later = json.loads(local._store.get(path)) | {"format": 2}
    local._store.put(path, json.dumps(later).encode())

    with pytest.raises(LakeError, match="has format 2, this Vitrine reads 1: update Vitrine"):
        local.manifest(1) if "manifest" in path else local.newest()
