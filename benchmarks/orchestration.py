"""What does a night cost in which nothing, or one picture in a hundred, is new?

    python benchmarks/orchestration.py --pictures 100000

Writes small pictures, ingests them, puts generated embeddings and scores beside them (through the real tables) and
publishes an index.
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
from lake.schemas import EMBEDDINGS, SCORES
from tasks.config import ModelChoice
from tasks.looks import embedding_size, init_model
from tests.small_lake import register_model

PART = 8192


def add_answers(lake_uri: str, look: int, model: int) -> None:
    """A row of `embeddings` and of `scores` for every content, as if look and model had seen them all."""
    lake, random, run = open_lake(lake_uri), np.random.default_rng(0), uuid.uuid4().hex
    size = embedding_size(lake, look)
    with catalogue.workbench(lake) as sql:
        contents = sql.execute("SELECT DISTINCT sha256 FROM images").to_arrow_table()["sha256"].combine_chunks()
    embeddings, scores = [], []
    for start in range(0, len(contents), PART):
        digests = contents.slice(start, PART)
        count, now = len(digests), datetime.now(UTC)
        vectors = np.maximum(random.standard_normal((count, size), dtype=np.float32), 0)
        vectors = round_to_bfloat16(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        polarity = random.random(count, dtype=np.float32)
        embedding = {"sha256": digests, "embedding": list(vectors), "embedded_at": [now] * count}
        score = {
            "sha256": digests,
            "polarity": polarity,
            "logit": np.log(polarity / (1 - polarity)),
            "label": np.where(polarity >= 0.5, "positive", "negative"),
            "positive_intensity": polarity,
            "negative_intensity": 1 - polarity,
            "scored_at": [now] * count,
        }
        name = f"{run}-{start:09d}"
        partition = {"look_version": str(look)}
        embeddings.append(lake.embeddings.write_part(_typed(embedding, EMBEDDINGS), name, partition=partition))
        scores.append(lake.scores.write_part(_typed(score, SCORES), name, partition={"model_version": str(model)}))
    lake.embeddings.commit(embeddings, application_id=f"embed-{run}")
    lake.scores.commit(scores, application_id=f"score-{run}")


def _typed(columns: dict[str, Any], schema: pa.Schema) -> pa.Table:
    return pa.table({name: pa.array(values, schema.field(name).type) for name, values in columns.items()})


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
        look = init_model(lake, ModelChoice(backbone="resnet18", image_size=64, weights="random"))
        model = register_model(lake)
        ingest(lake, str(source))
        add_answers(lake, look, model)
        vitrine("rebuild-index", "--lake", lake)
        nights = {"nothing new": seconds_of_a_night(lake, str(source))}
        write_small_pictures(source, count // 100, first=count)
        nights["1 % new"] = seconds_of_a_night(lake, str(source))
    print(f"{count} pictures, already embedded, scored and indexed; seconds and share of the command")
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
