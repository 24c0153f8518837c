"""What does a night cost in which nothing, or one picture in a hundred, is new?

    python benchmarks/orchestration.py --pictures 100000

Writes small pictures, ingests them, puts generated scores beside them (through the real tables) and publishes an index.
Then `vitrine nightly` runs as a person would run it: once with nothing new, once with 1 % new pictures. Where the
command's seconds went comes from what it says itself; what it does not claim is the start of the command and its end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks._small_pictures import write_small_pictures
from benchmarks.memory import ingest
from lake import catalogue
from lake.lake import open_lake
from lake.parquet import round_to_bfloat16
from lake.schemas import SCORES
from tasks.config import ModelChoice
from tasks.models import init_model

PART = 8192
EMBEDDING = 512  # of resnet18


def add_scores(lake_uri: str, model: int) -> None:
    """A row of `scores` for every content, as if the model had seen them all."""
    lake, random, run = open_lake(lake_uri), np.random.default_rng(0), uuid.uuid4().hex
    with catalogue.workbench(lake) as sql:
        contents = sql.execute("SELECT min(image_key), sha256 FROM images GROUP BY sha256").to_arrow_table()
    parts = []
    for number, start in enumerate(range(0, contents.num_rows, PART)):
        keys, digests = (column.combine_chunks() for column in contents.slice(start, PART).columns)
        vectors = np.maximum(random.standard_normal((len(keys), EMBEDDING), dtype=np.float32), 0)
        vectors = round_to_bfloat16(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        polarity = random.random(len(keys), dtype=np.float32)
        rows: dict[str, Any] = {
            "image_key": keys,
            "sha256": digests,
            "model_version": pa.repeat(pa.scalar(model, pa.int32()), len(keys)),
            "polarity": polarity,
            "label": pa.array(np.where(polarity >= 0.5, "positive", "negative")),
            "positive_intensity": polarity,
            "negative_intensity": 1 - polarity,
            "embedding": list(vectors),
            "scored_at": pa.repeat(pa.scalar(datetime.now(UTC), SCORES.field("scored_at").type), len(keys)),
        }
        name = f"{run}-{number:05d}"
        table = pa.table({name: pa.array(rows[name], SCORES.field(name).type) for name in SCORES.names}, schema=SCORES)
        parts.append(lake.scores.write_part(table, name, partition={"model_version": str(model)}))
    lake.scores.commit(parts, application_id=f"score-{run}")


def vitrine(*arguments: str) -> tuple[dict[str, Any], float]:
    """What the command prints as JSON, and its seconds from start to end."""
    # A flat index: building a quantized one of random vectors would take minutes and is another benchmark's question.
    environment = {**os.environ, "VITRINE_FLAT_BELOW": "1000000000"}
    started = time.perf_counter()
    command = [str(Path(sys.executable).with_name("vitrine")), *arguments, "--json"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment, text=True).stdout  # noqa: S603
    found: dict[str, Any] = json.loads(output)
    return found, time.perf_counter() - started


def seconds_of_a_night(lake: str, source: str) -> dict[str, float]:
    """Seconds by stage, what lies around them, and the whole command."""
    found, whole = vitrine("nightly", source, "--lake", lake)
    spent = {stage["name"]: float(stage["busy_s"]) for stage in found["stage_times"]}
    started = time.perf_counter()
    catalogue.write_catalogue(open_lake(lake))
    spent["catalogue.duckdb"] = time.perf_counter() - started
    spent["start and end"] = whole - found["seconds"] - spent["catalogue.duckdb"]
    return spent | {"whole command": whole}


def main() -> None:
    """Prepare, run the two nights, print them side by side."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=100_000)
    arguments = parser.parse_args()
    count = arguments.pictures
    with tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
        source, lake = Path(folder, "pictures"), str(Path(folder, "lake"))
        write_small_pictures(source, count)
        model = init_model(lake, ModelChoice(backbone="resnet18", image_size=64, weights="random"))
        ingest(lake, str(source))
        add_scores(lake, model)
        vitrine("rebuild-index", "--lake", lake)
        nights = {"nothing new": seconds_of_a_night(lake, str(source))}
        write_small_pictures(source, count // 100, first=count)
        nights["1 % new"] = seconds_of_a_night(lake, str(source))
    print(f"{count} pictures, already scored and indexed; seconds and share of the command")
    print(f"{'':<32}" + "".join(f"{name:>20}" for name in nights))
    names = dict.fromkeys(name for night in nights.values() for name in night)
    for name in sorted(names, key=lambda name: name == "whole command"):
        cells = (
            f"{night.get(name, 0.0):.2f} {night.get(name, 0.0) / night['whole command']:>6.0%}"
            for night in nights.values()
        )
        print(f"{name:<32}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    main()
