"""Any order of changing, building, publishing, rolling back, collecting and searching agrees with plain dicts."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from index.searching import Searcher
from lake.collection import collect
from lake.collection_policy import CollectionPolicy
from lake.errors import CorruptFile, LakeError, LostRace
from lake.rollback import roll_back
from tasks.rebuild.config import RebuildConfig
from tasks.rebuild.plan import IndexPlan, plan_index
from tasks.rebuild.units import republish_index
from tests import small_lake
from tests.vector_lake import VectorLake
from tests.vectors import as_found, clustered

DIMENSION = 8
POOL = clustered(120, DIMENSION, seed=4, clusters=6)
# Small enough that a night deletes, merges and rewrites shards; above 30 pictures they have codes.
CONFIG = RebuildConfig(recall_queries=5, shard_vectors=12, flat_below=30, recall_target=0.5)
KEYS = st.integers(0, 44)
ROWS = st.integers(0, len(POOL) - 1)
NOWHERE = Path("nowhere")

Catalogue = dict[str, int]  # image key → which vector of the pool


@dataclass(frozen=True)
class Planned:
    """A plan that was made, and what lived and was current then."""

    plan: IndexPlan
    catalogue: Catalogue
    current: int | None


class Index(RuleBasedStateMachine):
    """The oracle: what lives, what each version holds, which one is current, which ones were collected."""

    plans = Bundle("plans")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="vitrine-"))
        self.lake = VectorLake(str(self.folder / "lake"), DIMENSION)
        self.live: Catalogue = {}
        self.versions: dict[int, Catalogue] = {}
        self.current: int | None = None
        self.accepted: list[int] = []  # in the order in which they became current
        self.collected: set[int] = set()
        self.runs = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize(first=ROWS, count=st.integers(1, 45))
    def a_first_night(self, first: int, count: int) -> None:
        self._change({f"{key:02d}.jpg": (first + key) % len(POOL) for key in range(count)})
        self._publish()

    @rule(changes=st.dictionaries(KEYS, ROWS, min_size=1, max_size=5))
    def add_or_change(self, changes: dict[int, int]) -> None:
        self._change({f"{key:02d}.jpg": row for key, row in changes.items()})

    @rule(keys=st.sets(KEYS, min_size=1, max_size=12))
    def delete(self, keys: set[int]) -> None:
        gone = [key for key in (f"{key:02d}.jpg" for key in sorted(keys)) if key in self.live]
        self.lake.change(dict.fromkeys(gone))
        self.live = {key: row for key, row in self.live.items() if key not in gone}

    @rule()
    def rebuild(self) -> None:
        self._publish()

    @rule(target=plans)
    def plan(self) -> Planned:
        self.runs += 1
        plan = plan_index(self.lake.lake, 1, f"run-{self.runs}", CONFIG)
        return Planned(plan, dict(self.live), self.current)

    @rule(planned=consumes(plans))
    def publish_what_was_planned(self, planned: Planned) -> None:
        """Other publications, rollbacks and collections may have come between."""
        plan = planned.plan
        if plan.is_current or (plan.rows == 0 and plan.newest is None):
            return
        needed = plan.base if plan.same_as is None else plan.same_as
        try:
            if plan.same_as is not None:
                version = republish_index(self.lake.lake, plan).version
            else:
                version = small_lake.build_version(self.lake.uri, plan, CONFIG).version
        except LostRace:
            assert planned.current != self.current or needed in self.collected
        except CorruptFile:
            assert needed in self.collected
        else:
            assert planned.current == self.current and needed not in self.collected
            self._became_current(version, planned.catalogue)

    @precondition(lambda self: self.accepted)
    @rule(choice=st.integers(0, 30))
    def roll_back(self, choice: int) -> None:
        known = sorted(set(self.accepted))
        version = known[choice % len(known)]
        try:
            roll_back(self.lake.lake, "indexes", version)
        except LakeError:
            assert version in self.collected
        else:
            assert version not in self.collected
            if version != self.current:
                self._became_current(version, self.versions[version])

    @rule(keep=st.integers(1, 3))
    def collect(self, keep: int) -> None:
        done = collect(self.lake.lake, CollectionPolicy(keep_versions=keep, keep_days=0, longest_run_hours=24))
        newest: list[int] = []
        for version in reversed(self.accepted):
            if version not in newest:
                newest.append(version)
        going = set(newest[keep:]) - self.collected - {self.current}
        assert set(done.indexes) == going
        self.collected |= going

    @invariant()
    def readers_see_the_current_version_whole(self) -> None:
        assert self.lake.lake.indexes.current() == self.current
        if self.current is not None:
            self._check(self.current)

    @invariant()
    def every_kept_version_has_its_files(self) -> None:
        indexes = self.lake.lake.indexes
        assert indexes.known() == sorted(set(self.versions) - self.collected)
        for version in indexes.known():
            assert not indexes.missing(version, indexes.manifest(version).files)

    def _change(self, changes: Catalogue) -> None:
        self.lake.change({key: POOL[row] for key, row in changes.items()})
        self.live |= changes

    def _publish(self) -> None:
        index = small_lake.rebuild(self.lake.uri, config=CONFIG)
        if index is None:
            assert not self.live and self.current is None
        elif index.version == self.current:
            assert self.versions[index.version] == self.live
        else:
            assert index.rows == len(self.live)
            self._became_current(index.version, dict(self.live))

    def _became_current(self, version: int, catalogue: Catalogue) -> None:
        assert version not in self.versions or self.versions[version] == catalogue
        self.versions[version], self.current = catalogue, version
        self.accepted.append(version)

    def _check(self, version: int) -> None:
        searcher, catalogue = self._open(version), self.versions[version]
        keys = searcher.table["image_key"].to_pylist()
        assert sorted(keys) == sorted(catalogue)
        if not keys:
            return
        stored = as_found(POOL[[catalogue[key] for key in keys]])
        np.testing.assert_allclose(searcher.vectors(range(len(keys))), stored, rtol=1e-6)
        queries = POOL[:: len(POOL) // 7]
        truth = -np.sort(-(queries @ stored.T), axis=1)[:, :5].clip(-1, 1)
        # Candidates of so few rows are all of them: search is exact, whatever the codes say.
        np.testing.assert_allclose(searcher.search(queries, 5, rerank_factor=10).similarity, truth, atol=1e-5)

    def _open(self, version: int) -> Searcher:
        return Searcher.open(self.lake.lake.indexes.fetch(version, NOWHERE))


TestIndex = Index.TestCase
TestIndex.settings = settings(max_examples=10, stateful_step_count=15)
