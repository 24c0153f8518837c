"""A night from a script: new, changed and deleted pictures are found, scored and indexed.

    python examples/night.py PICTURES LAKE

The first night makes the lake and registers its look; a small random one here, by default the bundled one.
"""

from __future__ import annotations

import sys

import vitrine


def main(pictures: str, uri: str) -> None:
    """Bring the lake up to date and print what was done; again at once, and nothing is."""
    lake = vitrine.open_lake(uri, create=True)
    config = vitrine.NightConfig(
        first_look=vitrine.ModelChoice(backbone="resnet18", image_size=64, weights="random"),
        ingest=vitrine.IngestConfig(product_id_pattern=r"([^/]+)/[^/]+$"),  # the folder is the product
        rebuild=vitrine.RebuildConfig(recall_target=0.95),
    )
    summary = vitrine.night(lake, pictures, config, vitrine.Inline())
    print(summary)
    print(f"{summary.seconds:.1f} s, held up by {summary.bottleneck}; serving {lake.serving()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
