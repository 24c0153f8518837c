"""How long does a night take, stage by stage, and what does a night cost in which little or nothing changed?

    python benchmarks/night.py --pictures 1000 --backbone resnet18 --image-size 64

Draws a catalogue, then runs nights in this process, without Prefect: what remains is the pipeline's own time.
Three nights: everything new, nothing changed, 1 % changed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from lake.lake import Lake, open_lake
from tasks.config import ModelChoice
from tasks.looks import init_model
from tasks.night import NightConfig, night
from tasks.runner import Inline
from tests.small_lake import register_model
from vitrine.demo.draw_catalogue import draw_catalogue

VIEWS = 4


def night_of(lake: Lake, source: str) -> dict[str, float]:
    """One night; the seconds of its stages."""
    times = night(lake, source, NightConfig(), Inline()).stage_times
    return {spent.name: spent.busy_s for spent in times}


def main() -> None:
    """Measure three nights and print them side by side."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image-size", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vitrine-") as folder:
        source, uri = Path(folder, "pictures"), str(Path(folder, "lake"))
        drawn = draw_catalogue(source, products=arguments.pictures // VIEWS, views=VIEWS, broken=0)
        init_model(uri, ModelChoice(backbone=arguments.backbone, image_size=arguments.image_size, weights="random"))
        register_model(uri)
        lake = open_lake(uri)
        nights = {"all new": night_of(lake, str(source)), "unchanged": night_of(lake, str(source))}
        changed = drawn[: max(1, len(drawn) // 100)]
        for picture in changed:
            path = source / picture.image_key
            path.write_bytes(path.read_bytes() + b"\n")  # another content, the same picture
        nights["1 % changed"] = night_of(lake, str(source))
    print(f"{len(drawn)} pictures of 256 × 256, {arguments.backbone} at {arguments.image_size}, seconds")
    print(f"{'stage':<34}" + "".join(f"{name:>14}" for name in nights))
    for stage in nights["all new"]:
        print(f"{stage:<34}" + "".join(f"{night.get(stage, 0.0):>14.2f}" for night in nights.values()))
    totals = {name: sum(night.values()) for name, night in nights.items()}
    print(f"{'total':<34}" + "".join(f"{total:>14.2f}" for total in totals.values()))
    print(f"all new: {len(drawn) / totals['all new']:.0f} pictures/s from file to published index")


if __name__ == "__main__":
    main()
