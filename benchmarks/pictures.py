"""What becomes of a folder of pictures, and how far are they from what another decoder makes of them?

    python benchmarks/pictures.py ../shared/data/pngsuite

Every file below the folder is decoded as ingest does it, in decoders of their own. Printed are how many were ingested,
those rejected by reason, the most memory that the decoders held together and the time; and for each format how far
pixels are from those of libvips (pyvips, in the `dev` extra), whose code for formats is its own: the median and the
largest mean difference of a picture, of 255, and the pictures furthest off. libvips reads fewer formats, and leaves
some colours as they are; what it can't read is counted and not compared.
"""

from __future__ import annotations

import argparse
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray

from model.errors import Undecodable
from model.pictures.decode import decode
from tasks.decoders.pool import DecodingLimits, decoders
from tasks.ingest.config import IngestConfig
from tasks.pictures import SHORT_SIDE, StoredPicture

CONFIG = IngestConfig()
LIMITS = DecodingLimits(CONFIG.max_pixels, CONFIG.decode_bytes, CONFIG.decode_seconds)
SHOWN = 5  # pictures furthest from the reference


@dataclass
class Memory:
    """The most that the decoders held together, by what each holds by itself."""

    most_bytes: int = 0
    decoders: set[int] = field(default_factory=set)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look every few milliseconds while the block runs."""
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(done,))
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(0.005):
            self.most_bytes = max(self.most_bytes, sum(map(_own_bytes, _children_of_children())))


def _children_of_children() -> list[int]:
    """Processes of the decoders: children of the server, which is a child of this process (Linux)."""
    servers = [int(process) for file in Path("/proc/self/task").glob("*/children") for process in _words(file)]
    return [int(process) for server in servers for process in _words(Path(f"/proc/{server}/task/{server}/children"))]


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _own_bytes(process: int) -> int:
    """Anonymous memory of a process that is not shared with the server it was forked from."""
    try:
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(1024 * int(kilobytes) for kilobytes in re.findall(r"^Private_Dirty:\s+(\d+)", rollup, re.MULTILINE))


def reference(data: bytes, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """What libvips makes of it, on white, reduced to this size; None where it can't."""
    try:
        image = pyvips.Image.new_from_buffer(data, "").autorot()
        if image.hasalpha():
            image = image.flatten(background=[65535 if image.format == "ushort" else 255] * (image.bands - 1))
        image = image.icc_transform("srgb") if image.get_typeof("icc-profile-data") else image.colourspace("srgb")
        small = image.cast("uchar").thumbnail_image(size[0], height=size[1], size="force")
        pixels: NDArray[np.uint8] = small.numpy()
    except pyvips.Error:
        return None
    if pixels.shape[:2] != size[::-1]:
        return None
    return np.repeat(pixels[..., :1], 3, axis=-1) if pixels.shape[-1] < 3 else pixels[..., :3]


def difference(data: bytes) -> float | None:
    """Mean over all samples, of 255; before the pixels become a JPEG."""
    ours = decode(data, short_side=SHORT_SIDE).rgb
    theirs = reference(data, (ours.shape[1], ours.shape[0]))
    return None if theirs is None else float(np.abs(ours.astype(int) - theirs).mean())


def read(file: Path) -> StoredPicture | str:
    """The picture, or why it is rejected."""
    try:
        return decoders(LIMITS).read(file.read_bytes(), file.name)
    except Undecodable as error:
        return error.reason


def kind_of(reason: str) -> str:
    """A reason without its numbers and quotations."""
    return re.sub(r"'.*'…?|bytes [0-9a-f ]+$", "…", re.sub(r"\d+", "N", reason))


def main() -> None:
    """Decode, count, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    files = sorted(path for path in parser.parse_args().folder.rglob("*") if path.is_file())
    memory, started = Memory(), time.perf_counter()
    with memory.watched(), ThreadPoolExecutor(CONFIG.decode_threads) as threads:
        outcomes = dict(zip(files, threads.map(read, files), strict=True))
    seconds = time.perf_counter() - started
    pictures = {file: outcome for file, outcome in outcomes.items() if isinstance(outcome, StoredPicture)}
    refused = [outcome for outcome in outcomes.values() if isinstance(outcome, str)]
    remarked = sum(picture.remark is not None for picture in pictures.values())
    print(f"{len(files)} files: {len(pictures)} ingested, {remarked} of them with a remark; {len(refused)} rejected")
    most = memory.most_bytes / 2**20
    print(f"{seconds:.1f} s in {CONFIG.decode_threads} decoders, which together held {most:.0f} MB at most")
    for kind, count in Counter(map(kind_of, refused)).most_common():
        print(f"{count:>7}  {kind}")
    show_differences(pictures)


def show_differences(pictures: dict[Path, StoredPicture]) -> None:
    """By format, then the pictures furthest off."""
    of_format: dict[str, list[float]] = defaultdict(list)
    of_file: dict[Path, float] = {}
    for file, picture in pictures.items():
        apart = difference(file.read_bytes())
        if apart is not None:
            of_file[file] = apart
            of_format[picture.format].append(apart)
    totals = Counter(picture.format for picture in pictures.values())
    print(
        f"\n{'format':<10}{'ingested':>9}{'compared':>9}{'median':>8}{'largest':>9}   difference from libvips, of 255"
    )
    for format_, total in totals.most_common():
        values = of_format[format_]
        numbers = f"{np.median(values):>8.2f}{max(values):>9.2f}" if values else f"{'–':>8}{'–':>9}"
        print(f"{format_:<10}{total:>9}{len(values):>9}{numbers}")
    for file, apart in sorted(of_file.items(), key=lambda item: -item[1])[:SHOWN]:
        print(f"{apart:>8.2f}  {file.name}")


if __name__ == "__main__":
    main()
