"""Two publishers and readers at once: of two writers one wins, and every answer comes from one whole version."""

from __future__ import annotations

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest

from index.arrays import Floats
from index.deletions import DELETED, write_deleted_rows
from index.description import DESCRIPTION, IndexDescription, IndexShard, parse_description, render_description
from index.searching import Searcher
from index.shards import write_shard
from index.spec import IndexSpec
from lake.errors import LostRace
from lake.lake import Lake, open_lake
from lake.manifest import FileRecord
from tasks.rebuild.config import RebuildConfig
from tasks.rebuild.plan import plan_index
from tasks.search.reader import Reader
from tests import small_lake
from tests.vector_lake import VectorLake
from tests.vectors import as_found, clustered, keys_for

DIMENSION, PUBLISHES, SHARD, LOOK = 8, 100, 20, 7
FLAT = IndexSpec("flat", DIMENSION)
NOWHERE = Path("nowhere")  # a local lake needs no cache
POOL = clustered(500, DIMENSION, seed=1, clusters=10)


@dataclass(frozen=True)
class Built:
    """A shard and its files, and which pictures of the pool its rows are."""

    shard: IndexShard
    files: tuple[FileRecord, ...]


def publish(lake: Lake, random: np.random.Generator) -> None:
    """A version of three shards: two of the current one, a row of each deleted, and a new one. Raises LostRace."""
    newest = lake.indexes.newest()
    base = None if newest is None else newest.current
    draft = lake.indexes.draft()
    kept = [] if base is None else _kept(lake, base)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn = int(random.integers(len(POOL) - SHARD))
        keys = keys_for(SHARD, first=1000 * draft.version).append_column("pool", [list(range(drawn, drawn + SHARD))])
        written = write_shard(folder, 0, POOL[drawn : drawn + SHARD], keys, None, FLAT)
        files = tuple(draft.add_file(each, folder / each) for each in written.files(FLAT))
        shards = [*kept, Built(written, files)]
        deleted = [random.integers(SHARD, size=1)] * len(kept)
        draft.add_file(write_deleted_rows(folder, deleted), folder / DELETED)
    for each in shards:
        for file in each.files:
            draft.include(file)
    rows = SHARD * len(shards) - len(kept)
    paths = tuple(
        IndexShard(each.files[0].path_from(draft.version).removesuffix(".vectors.npy"), SHARD) for each in shards
    )
    description = IndexDescription(FLAT, rows, paths, LOOK, "", deleted=DELETED)
    draft.add(DESCRIPTION, render_description(description))
    draft.seal({"look_version": LOOK, "rows": rows, "spec": asdict(FLAT)})
    lake.indexes.append("publish", draft.version, based_on=newest, relies_on=base)


def _kept(lake: Lake, base: int) -> list[Built]:
    """The last two shards of the version."""
    description = parse_description(lake.indexes.read(base, DESCRIPTION), "")
    records = lake.indexes.manifest(base).files
    kept = []
    for shard in description.shards[-2:]:
        files = [record for record in records if record.path_from(base).startswith(f"{shard.path}.")]
        held = (FileRecord(file.name, file.size_bytes, file.sha256, file.held_by(base)) for file in files)
        kept.append(Built(shard, tuple(sorted(held, key=lambda file: file.name, reverse=True))))
    return kept


def publish_until(lake: Lake, seed: int) -> int:
    """Publish until there are enough; how many of this publisher's versions lost to the other's."""
    random, lost = np.random.default_rng(seed), 0
    while (newest := lake.indexes.newest()) is None or newest.sequence < PUBLISHES:
        try:
            publish(lake, random)
        except LostRace:
            lost += 1
    return lost


@dataclass(frozen=True)
class Asked:
    """One answer, and the version that the reader had open when it asked."""

    version: int
    query: Floats
    keys: tuple[str, ...]
    similarity: tuple[float, ...]


def search_until(lake: Lake, done: threading.Event, seed: int) -> list[Asked]:
    random, reader, asked = np.random.default_rng(seed), Reader(lake, NOWHERE), []
    while not done.is_set():
        reader.refresh()
        version = reader.index.version
        for query in POOL[random.integers(len(POOL), size=(3, 1))]:
            [answer] = reader.search(query, 10, look_version=LOOK)
            keys = tuple(row["image_key"] for row in answer)
            asked.append(Asked(version, query, keys, tuple(row["similarity"] for row in answer)))
    return asked


def test_during_a_hundred_publishes_every_answer_comes_from_one_whole_version(tmp_path: Path) -> None:
    lake, done = open_lake(str(tmp_path), create=True), threading.Event()
    publish(lake, np.random.default_rng(0))
    with ThreadPoolExecutor(4) as pool:
        publishers = [pool.submit(publish_until, lake, seed) for seed in (1, 2)]
        readers = [pool.submit(search_until, lake, done, seed) for seed in (3, 4)]
        try:
            lost = sum(publisher.result() for publisher in publishers)
        finally:
            done.set()
        asked = [answer for reader in readers for answer in reader.result()]
    entries = lake.indexes.entries()
    assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))
    assert len(entries) >= PUBLISHES
    assert (
        len(lake.indexes.claimed()) == len(entries) + lost
    )  # a version that lost is kept, and no number is used twice
    opened = {version: Searcher.open(lake.indexes.fetch(version, NOWHERE)) for version in lake.indexes.known()}
    for searcher in opened.values():
        stored = as_found(POOL[searcher.table["pool"].to_numpy()])
        np.testing.assert_allclose(searcher.vectors(range(len(searcher))), stored, rtol=1e-6)
    assert len({answer.version for answer in asked}) > 10
    for answer in asked:
        searcher = opened[answer.version]
        truth = searcher.exact(answer.query, 10)
        assert answer.keys == tuple(searcher.keys(truth.rows[0])["image_key"].to_pylist())
        assert answer.similarity == tuple(truth.similarity[0].tolist())


def test_of_two_publishers_one_wins_and_the_other_says_so_and_loses_nothing(tmp_path: Path) -> None:
    made, config = VectorLake(str(tmp_path), DIMENSION), RebuildConfig(recall_queries=2, shard_vectors=8)
    indexes, pictures = made.lake.indexes, {f"{row:02d}.jpg": POOL[row] for row in range(24)}
    made.change(pictures)
    small_lake.rebuild(made.uri, config=config)
    made.change({"00.jpg": POOL[100]})
    first = plan_index(made.lake, 1, "first", config)
    made.change({"01.jpg": POOL[101]})
    second = plan_index(made.lake, 1, "second", config)
    assert small_lake.build_version(made.uri, first, config).version == 2
    with pytest.raises(LostRace, match="version 2 became current while version 3 was made from version 1"):
        small_lake.build_version(made.uri, second, config)
    assert indexes.current() == 2
    assert not indexes.missing(3, indexes.manifest(3).files)  # kept until it is collected
    again = small_lake.rebuild(made.uri, config=config)
    assert again is not None and indexes.current() == again.version
    searcher = Searcher.open(indexes.fetch(again.version, NOWHERE))
    for key, row in {"00.jpg": 100, "01.jpg": 101, "02.jpg": 2}.items():
        np.testing.assert_allclose(searcher.vectors([searcher.find(key)])[0], as_found(POOL[row]), rtol=1e-6)
