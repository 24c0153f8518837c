"""What the commands print and do: JSON, text, dry runs, searches, SQL, a night."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.torch
import torch

from lake.lake import open_lake
from model.backbones.registry import BACKBONES
from tasks.looks import new_look, seal_look
from tasks.search.feelings import FEELING
from tests import small_lake
from tests.command_line import Run, contents, failure_of, filled, first_of, key_of
from tests.small_lake import SMALL_MODEL, SmallLake, build, register_model
from tests.vector_lake import VectorLake

if TYPE_CHECKING:
    from tests.conftest import PrefectServer

PRINTING = [
    "status --lake {lake}",
    "sql SELECT␣image_key,␣polarity␣FROM␣scores --lake {lake}",
    "versions looks --lake {lake}",
    "versions looks --lake {bare}",
    "versions models --lake {lake}",
    "versions indexes --lake {lake}",
    "versions indexes --lake {bare}",
    "status --lake {bare}",
    "search --key {key} --lake {lake}",
    "search --key {key} --by feeling --lake {lake}",
    "search {picture} -k 3 --device cpu --lake {lake}",
    "near-duplicates --lake {lake}",
    "near-duplicates --threshold 0.5 --limit 1 --lake {lake}",
    "ingest {source} --lake {lake} --dry-run",
    "ingest {source} --lake {new} --dry-run",
    "score --lake {lake} --dry-run",
    "rebuild-index --lake {lake} --dry-run",
    "nightly {source} --lake {lake} --dry-run",
    "nightly {source} --lake {bare} --dry-run",
    "nightly {source} --lake {new} --dry-run",
    "collect --lake {lake} --dry-run",
]


@pytest.mark.parametrize("arguments", PRINTING)
def test_with_json_one_document_is_printed_and_without_it_text(
    run: Run, places: dict[str, str], arguments: str
) -> None:
    before = contents(places)
    as_json, as_text = run(*filled(arguments, places), "--json"), run(*filled(arguments, places))
    assert (as_json.code, as_json.err) == (as_text.code, as_text.err) == (0, "")
    assert isinstance(json.loads(as_json.out), dict | list)
    assert as_text.out.strip()
    assert not as_text.out.startswith(("{", "["))
    assert contents(places) == before


def test_a_first_look_and_rollbacks_print_json_too(run: Run, tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    made = run(
        "init-model", "--weights", "random", "--backbone", "resnet18", "--image-size", "64", "--lake", lake, "--json"
    )
    assert json.loads(made.out) == {"look_version": 1, "weights": "random", "adapted_weights": ""}
    back = run("rollback", "looks", "1", "--lake", lake, "--json")
    serving = {"look_version": 1, "index_version": None, "model_version": None}
    assert json.loads(back.out) == {
        "kind": "looks", "version": 1, "serving": serving, "look_version": 1, "model_version": None, "note": "",
    }  # fmt: skip
    assert run("rollback", "looks", "1", "--lake", lake).out.startswith("looks rolled back to version 1")
    register_model(lake)
    back = run("rollback", "models", "1", "--lake", lake, "--json")
    assert json.loads(back.out)["serving"] == serving | {"model_version": 1}


def test_a_first_look_starts_from_the_weights_that_the_settings_name(run: Run, tmp_path: Path) -> None:
    torch.manual_seed(5)
    theirs = BACKBONES["resnet18"].build().state_dict()
    (tmp_path / "backbone.safetensors").write_bytes(safetensors.torch.save(theirs))
    lake = str(tmp_path / "lake")
    command = ("init-model", "--backbone", "resnet18", "--image-size", "64", "--lake", lake, "--json")
    made = run(*command, VITRINE_DEFAULT_WEIGHTS=str(tmp_path / "backbone.safetensors"))
    assert json.loads(made.out)["weights"] == str(tmp_path / "backbone.safetensors")
    state = safetensors.torch.load(open_lake(lake).looks.read(1, "weights.safetensors"))
    assert all(torch.equal(tensor, state[f"backbone.{name}"]) for name, tensor in theirs.items())


def test_collect_removes_what_it_said_it_would(run: Run, tmp_path: Path) -> None:
    lake = VectorLake(str(tmp_path / "lake"), 8)
    for night in range(3):
        lake.change({f"{night}.jpg": np.eye(8, dtype=np.float32)[night]})
        small_lake.rebuild(lake.uri)
    arguments = ("collect", "--keep-versions", "1", "--keep-days", "0", "--lake", lake.uri)
    said, done = (json.loads(run(*arguments, *more, "--json").out) for more in (["--dry-run"], []))
    assert said | {"dry_run": False} == done
    # A description and a mask each, and the truth that the second was held against: a lone picture has none.
    assert (done["indexes"], done["models"], done["version_files"]) == ([1, 2], [], 5)
    listed = json.loads(run("versions", "indexes", "--lake", lake.uri, "--json").out)
    assert [row["status"] for row in listed] == ["collected", "collected", "accepted"]
    gone = run("rollback", "indexes", "1", "--lake", lake.uri)
    assert gone.code == 1
    assert "version 1 was collected on" in failure_of(gone)
    assert run(*arguments).out.startswith("files   removed 0.0 MB: 0 files of versions")


def test_status_says_what_the_small_lake_holds(run: Run, small: SmallLake) -> None:
    status = json.loads(run("status", "--lake", small.uri, "--json").out)
    assert (status["pictures"], status["rejected"], status["products"]) == (12, 3, 6)
    assert (status["embedded"], status["scored"]) == (12, 12)
    assert (status["promoted_look"], status["promoted_model"]) == (1, 1)
    assert (status["serving_look"], status["serving_index"], status["serving_model"]) == (1, 1, 1)
    assert (status["last_run"]["flow"], status["last_run"]["status"]) == ("rebuild-index", "completed")


def test_a_dry_run_counts_what_the_run_would_do(run: Run, places: dict[str, str]) -> None:
    plan = json.loads(run("nightly", places["source"], "--lake", places["lake"], "--dry-run", "--json").out)
    assert (plan["listed"], plan["unchanged"], plan["new"], plan["deleted"]) == (15, 15, 0, 0)
    assert (plan["to_embed_at_most"], plan["to_score_at_most"]) == (0, 0)
    plan = json.loads(run("ingest", places["source"], "--lake", places["new"], "--dry-run", "--json").out)
    assert (plan["listed"], plan["new"]) == (15, 15)


def test_a_dry_run_of_an_index_says_what_it_would_write_and_how_much_memory_it_takes(
    run: Run, small: SmallLake
) -> None:
    arguments = ("rebuild-index", "--lake", small.uri, "--dry-run", "--json")
    assert json.loads(run(*arguments).out)["publish"] == "nothing: the published index has this content"
    plan = json.loads(run(*arguments, "--full-rebuild", "a test").out)
    assert plan["publish"] == "a new version"
    assert (plan["vectors"], plan["shards_kept"], plan["shards_to_write"], plan["vectors_to_write"]) == (
        12,
        0,
        1,
        12,
    )
    assert plan["to_write_mb"] == pytest.approx(12 * plan["bytes_per_vector"] / 1e6, abs=0.06)
    assert plan["memory_training_mb"] == 0
    assert plan["memory_measuring_mb"] >= plan["memory_searching_mb"] > 0


def test_a_search_by_picture_finds_the_picture_itself_first(run: Run, small: SmallLake) -> None:
    ended = run("search", str(first_of(small)), "-k", "3", "--device", "cpu", "--lake", small.uri, "--json")
    neighbours = json.loads(ended.out)["neighbours"]
    assert neighbours[0]["image_key"] == key_of(small)
    assert neighbours[0]["similarity"] == pytest.approx(1, abs=1e-3)
    assert len(neighbours) == 3


def test_a_search_by_picture_computes_in_the_numbers_that_the_settings_name(run: Run, small: SmallLake) -> None:
    similarities = {}
    for precision in ("float32", "bfloat16"):
        command = ("search", str(first_of(small)), "-k", "3", "--device", "cpu", "--lake", small.uri, "--json")
        ended = run(*command, VITRINE_PRECISION=precision)
        similarities[precision] = [each["similarity"] for each in json.loads(ended.out)["neighbours"]]
    assert similarities["float32"] != similarities["bfloat16"]
    assert similarities["float32"] == pytest.approx(similarities["bfloat16"], abs=0.01)


def test_a_search_by_key_leaves_the_key_itself_out_and_asks_for_no_more_than_there_are(
    run: Run, small: SmallLake
) -> None:
    answer = json.loads(run("search", "--key", key_of(small), "-k", "1000", "--lake", small.uri, "--json").out)
    keys = [neighbour["image_key"] for neighbour in answer["neighbours"]]
    assert sorted([*keys, key_of(small)]) == sorted(picture.image_key for picture in small.pictures)
    similarities = [neighbour["similarity"] for neighbour in answer["neighbours"]]
    assert similarities == sorted(similarities, reverse=True)


def test_a_search_is_filtered_by_product_polarity_and_keys(run: Run, small: SmallLake, tmp_path: Path) -> None:
    def neighbours_with(*options: str) -> list[dict[str, Any]]:
        ended = run("search", "--key", key_of(small), "-k", "1000", "--lake", small.uri, "--json", *options)
        assert ended.code == 0, ended.err
        neighbours: list[dict[str, Any]] = json.loads(ended.out)["neighbours"]
        return neighbours

    everything = neighbours_with()
    own = key_of(small).split("/")[-2]
    assert neighbours_with("--other-products") == [each for each in everything if each["product_id"] != own]
    firsts = {each["product_id"]: each for each in reversed(everything)}
    once = [each for each in everything if firsts[each["product_id"]] is each]
    assert neighbours_with("--one-per-product") == once
    assert len(once) == 6
    middle = sorted(each["polarity"] for each in everything)[5]
    assert neighbours_with("--polarity", f":{middle}") == [each for each in everything if each["polarity"] <= middle]
    listed = tmp_path / "keys.txt"
    listed.write_text("".join(f"{each['image_key']}\n" for each in everything[3:8]))
    assert neighbours_with("--among", str(listed)) == everything[3:8]
    both = neighbours_with("--among", str(listed), "--other-products")
    assert both == [each for each in everything[3:8] if each["product_id"] != own]


def test_keys_that_a_list_has_and_the_index_lacks_are_counted(run: Run, small: SmallLake, tmp_path: Path) -> None:
    """The list is a spreadsheet's, and is the shop's own, in which some pictures are gone."""
    others = [picture.image_key for picture in small.pictures if picture.image_key != key_of(small)][:3]
    listed = tmp_path / "export.csv"
    listed.write_bytes(("image_key\r\n" + "".join(f'"{key}"\r\n' for key in (*others, "gone, 1.jpg"))).encode("utf-16"))
    search = ("search", "--key", key_of(small), "--among", str(listed), "--lake", small.uri)
    as_json = run(*search, "--json")
    answer = json.loads(as_json.out)
    assert {each["image_key"] for each in answer["neighbours"]} == set(others)
    assert answer["among"] == {"listed": 4, "repeated": 0, "unknown": 1, "examples": ["gone, 1.jpg"]}
    as_text = run(*search)
    assert as_text.err == f"1 of 4 keys of {listed} are not in the index: 'gone, 1.jpg'\n"
    assert as_json.err == ""
    listed.write_text("")
    nothing = run(*search)
    assert (nothing.code, nothing.err) == (0, f"{listed} lists no keys\n")


def test_a_search_by_feeling_orders_by_what_pictures_make_feel(run: Run, small: SmallLake) -> None:
    lake = ("--lake", small.uri, "--json")
    feelings = json.loads(run("sql", f"SELECT image_key, {', '.join(FEELING)} FROM scores", *lake).out)
    points = {row["image_key"]: np.array([row[name] for name in FEELING]) for row in feelings}
    own = points[key_of(small)]
    nearest = {key: 1 - np.linalg.norm(point - own) / 3**0.5 for key, point in points.items()}

    by_key = json.loads(run("search", "--key", key_of(small), "-k", "5", "--by", "feeling", *lake).out)
    by_picture = json.loads(
        run("search", str(first_of(small)), "-k", "6", "--device", "cpu", "--by", "feeling", *lake).out
    )
    assert by_key["by"] == by_picture["by"] == "feeling"
    expected = sorted((value for key, value in nearest.items() if key != key_of(small)), reverse=True)[:5]
    assert [each["similarity"] for each in by_key["neighbours"]] == pytest.approx(expected, abs=1e-5)
    for each in by_key["neighbours"]:
        assert each["similarity"] == pytest.approx(nearest[each["image_key"]], abs=1e-5)
        assert each["polarity"] == pytest.approx(points[each["image_key"]][0])
    # The file itself is in the catalogue: it feels like itself, then as by key.
    assert [each["similarity"] for each in by_picture["neighbours"]] == pytest.approx([1, *expected], abs=1e-3)
    by_look = json.loads(run("search", "--key", key_of(small), "-k", "5", *lake).out)
    assert by_look["by"] == "look"
    assert by_look["neighbours"] != by_key["neighbours"]


def test_the_versions_of_looks_are_listed_and_an_earlier_one_put_back_with_its_index(run: Run, tmp_path: Path) -> None:
    lake = build(tmp_path, products=2).uri
    opened = open_lake(lake)
    draft = opened.looks.draft()
    look, preprocessing, _ = new_look(replace(SMALL_MODEL, seed=1))
    seal_look(draft, look, preprocessing, weights="random")
    opened.looks.append("promote", draft.version, based_on=opened.looks.newest())

    def listed() -> list[tuple[int, bool, bool]]:
        rows = json.loads(run("versions", "looks", "--lake", lake, "--json").out)
        return [(row["version"], row["is_current"], row["is_serving"]) for row in rows]

    assert listed() == [(1, False, True), (2, True, False)]  # promoted, but without an index readers stay
    small_lake.score(lake)
    small_lake.rebuild(lake)
    assert listed() == [(1, False, False), (2, True, True)]
    said = run("versions", "looks", "--lake", lake).out
    assert "resnet18, random weights" in said and "serving" in said
    back = json.loads(run("rollback", "looks", "1", "--lake", lake, "--json").out)
    assert back["serving"] == {"look_version": 1, "index_version": 1, "model_version": 1}
    assert listed() == [(1, True, True), (2, False, False)]
    assert run("rollback", "looks", "2", "--lake", lake).out.splitlines() == [
        "looks rolled back to version 2",
        "readers use look 2, index 2 and model 1",
    ]


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("SELECT 1 AS a, 2 AS a, 3 AS a, 4 AS a_1", [{"a": 1, "a_2": 2, "a_3": 3, "a_1": 4}]),
        ("SELECT 'NaN'::FLOAT AS n, 'inf'::DOUBLE AS i, NULL AS nothing", [{"n": None, "i": None, "nothing": None}]),
        ("SELECT 1.50::DECIMAL(4, 2) AS d, DATE '2026-01-31' AS day", [{"d": "1.50", "day": "2026-01-31"}]),
        ("SELECT {'a': [1, 2]} AS s, 'x'::BLOB AS b, 'ä' AS u", [{"s": {"a": [1, 2]}, "b": "78", "u": "ä"}]),
        ("CREATE TABLE t (a INT); INSERT INTO t VALUES (7); FROM t", [{"a": 7}]),
        ("SELECT 1 AS a WHERE false", []),
        ("SELECT 1 AS a; SELECT 2 AS b", [[{"a": 1}], [{"b": 2}]]),
        ("SELECT 'a\u202eb\u009bm\x1b]0;x\x07' AS k", [{"k": "a\u202eb\u009bm\x1b]0;x\x07"}]),
    ],
)
def test_sql_prints_whatever_a_query_gives_as_json(run: Run, small: SmallLake, query: str, rows: list[Any]) -> None:
    ended = run("sql", query, "--lake", small.uri, "--json")
    assert ended.err == ""
    assert json.loads(ended.out) == rows


def test_a_long_answer_is_cut_for_people_and_whole_as_json(run: Run, small: SmallLake) -> None:
    query = "SELECT range AS n FROM range(1000)"
    assert "… 900 more rows; --json prints them all" in run("sql", query, "--lake", small.uri).out
    assert len(json.loads(run("sql", query, "--lake", small.uri, "--json").out)) == 1000


@pytest.mark.parametrize(("precision", "shard_vectors", "shards"), [("float32", 5, 3), ("bfloat16", 6, 2)])
def test_the_options_of_a_night_reach_its_parts(
    run: Run, small: SmallLake, tmp_path: Path, precision: str, shard_vectors: int, shards: int
) -> None:
    lake = ("--lake", str(tmp_path / "lake"))
    run("init-model", "--weights", "random", "--backbone", "resnet18", "--image-size", "64", *lake)
    parts = "--fetch-threads 1 --decode-threads 1 --shard-pictures 5 --device cpu --batch-size 3 --compile never"
    index = f"--precision {precision} --shard-vectors {shard_vectors} --index-metric euclidean"
    ended = run("nightly", str(small.source), *parts.split(), *index.split(), *lake, "--json")
    assert ended.code == 0, ended.err
    night = json.loads(ended.out)
    assert (night["index"]["shards_written"], night["score"]["arithmetic"]) == (shards, precision)


@pytest.mark.prefect
def test_a_night_prints_one_json_document_and_a_refused_one_a_line(
    fresh: Run, run: Run, prefect_server: PrefectServer, tmp_path: Path
) -> None:
    small = build(tmp_path)
    arguments = ["nightly", str(small.source), "--lake", small.uri]
    pictures = [small.source / picture.image_key for picture in small.pictures]
    pictures[0].write_bytes(pictures[1].read_bytes())
    ended = fresh(*arguments, "--json", PREFECT_API_URL=prefect_server.api_url)
    assert ended.code == 0, ended.err
    night = json.loads(ended.out)
    assert (night["ingest"]["unchanged"], night["ingest"]["ingested"]) == (14, 1)
    assert (night["index"]["index_version"], night["index"]["is_new"]) == (2, True)

    for path in pictures[:10]:
        path.unlink()
    before = run("versions", "indexes", "--lake", small.uri, "--json")
    ended = fresh(*arguments, PREFECT_API_URL=prefect_server.api_url)
    assert (ended.code, ended.out) == (1, "")
    assert "lacks 10 of the 12 pictures that the lake knows" in ended.err.splitlines()[-1]
    assert ended.err.count("vitrine: ") == 1
    assert "Traceback" not in ended.err
    assert run("versions", "indexes", "--lake", small.uri, "--json") == before
    status = json.loads(run("status", "--lake", small.uri, "--json").out)
    assert (status["pictures"], status["last_run"]["status"]) == (12, "failed")
