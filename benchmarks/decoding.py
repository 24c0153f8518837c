"""Which decoder makes the stored pixels soonest?

    python benchmarks/decoding.py --pictures ../shared/data/grocery-packages/images

JPEG bytes in, a JPEG of 256 pixels on the short side out, once as the photographs are and once enlarged to a shop's
usual 1 000 pixels, in one thread and in as many as there are cores. The ways take turns; the best of the rounds counts.
pyvips and opencv-python-headless take part where they are installed.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model.pictures.colour import Pixels
from model.pictures.decode import encode_jpeg, shrunk
from tasks.pictures import JPEG_QUALITY, SHORT_SIDE, read_picture

Way = Callable[[bytes], object]


def pillow(data: bytes) -> bytes:
    """Everything in Pillow, drafted."""
    return _saved(_drafted(data))


def pillow_and_torch(data: bytes) -> bytes:
    """Pillow's JPEG codec, torch's resize."""
    pixels = np.array(_loaded(data))
    return _encoded(shrunk(pixels, *_target(pixels.shape[1], pixels.shape[0]), None))


def ours(data: bytes) -> bytes:
    """What ingest does, its checks and colour management with it."""
    return read_picture(data).pixels


def optional_ways() -> dict[str, Way]:
    """The ways whose package is here; neither manages colour nor judges damage as ours does."""
    found: dict[str, Way] = {}
    try:
        vips: Any = importlib.import_module("pyvips")
        found["pyvips"] = lambda data: vips.Image.thumbnail_buffer(data, SHORT_SIDE, height=10**6).jpegsave_buffer(
            Q=JPEG_QUALITY, subsample_mode="off"
        )
    except ImportError:
        pass
    try:
        cv2: Any = importlib.import_module("cv2")
    except ImportError:
        return found
    cv2.setNumThreads(1)

    def opencv(data: bytes) -> object:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        small = cv2.resize(pixels, _target(pixels.shape[1], pixels.shape[0]), interpolation=cv2.INTER_AREA)
        return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])

    return found | {"opencv, area": opencv}


def _loaded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (3 * SHORT_SIDE // 2, 3 * SHORT_SIDE // 2))
    image.load()
    return image


def _drafted(data: bytes) -> Image.Image:
    image = _loaded(data)
    return image.resize(_target(*image.size), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _target(width: int, height: int) -> tuple[int, int]:
    scale = SHORT_SIDE / min(width, height)
    return round(width * scale), round(height * scale)


def _saved(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return file.getvalue()


def _encoded(pixels: Pixels) -> bytes:
    return encode_jpeg(pixels, quality=JPEG_QUALITY)


def enlarged(data: bytes, side: int = 1000) -> bytes:
    """The photograph as a shop would have it."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = side / min(image.size)
    file = io.BytesIO()
    image.resize((round(image.width * scale), round(image.height * scale))).save(file, "JPEG", quality=85)
    return file.getvalue()


def pictures_per_second(way: Way, pictures: list[bytes], threads: int) -> float:
    """One round."""
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        for _ in pool.map(way, pictures):
            pass
        return len(pictures) / (time.perf_counter() - started)


def main() -> None:
    """Print pictures/s of each way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=Path, default=Path("../shared/data/grocery-packages/images"))
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    photographs = [file.read_bytes() for file in sorted(arguments.pictures.rglob("*.jpg"))[: arguments.count]]
    if not photographs:
        raise SystemExit(f"no .jpg below {arguments.pictures}: name a directory of photographs with --pictures")
    ways: dict[str, Way] = {"Pillow": pillow, "Pillow, torch's resize": pillow_and_torch, "ours": ours}
    ways |= optional_ways()
    sets = {"as they are": photographs, "at 1 000 pixels": [enlarged(data) for data in photographs[:40]]}
    cores = os.cpu_count() or 1
    columns = [(name, threads) for name in sets for threads in dict.fromkeys((1, cores))]
    best = {(way, column): 0.0 for way in ways for column in columns}
    for _ in range(arguments.rounds):
        for column in columns:
            for way, function in ways.items():
                speed = pictures_per_second(function, sets[column[0]], column[1])
                best[way, column] = max(best[way, column], speed)
    print(f"{'pictures/s':<24}" + "".join(f"{name + f', {n} threads':>28}" for name, n in columns))
    for way in ways:
        print(f"{way:<24}" + "".join(f"{best[way, column]:>28.0f}" for column in columns))


if __name__ == "__main__":
    main()
