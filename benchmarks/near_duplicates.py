"""Which copies of a picture are found, which different pictures are taken for one, and what a hash costs.

    python benchmarks/near_duplicates.py --data ../shared/data --drawn 300 5000

Each set's pictures are stored as the lake stores them (short side at most 256 pixels, JPEG); a part of them is copied
in the ways of COPIES, and all go through the grouping that `vitrine near-duplicates` and `vitrine retrain` use. Found
is a copy that is in its original's group. False is a picture in a group with another that it is no copy of.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks._white_shop import draw_products
from model.pictures.decode import decode, encode_jpeg
from model.pictures.grouping import first_alike
from model.pictures.hashing import hash_pictures

FRAME = 400
SHARES = (0.1, 0.2, 0.4, 0.7)
COPIED = 60  # pictures of a set that are copied in each way
Named = tuple[str, Image.Image]


def recropped(picture: Image.Image, share: float) -> Image.Image:
    """Less `share` of the picture at each edge."""
    across, down = round(picture.width * share), round(picture.height * share)
    return picture.crop((across, down, picture.width - across, picture.height - down))


def reduced(picture: Image.Image) -> Image.Image:
    """70 % of the size."""
    return picture.resize((round(picture.width * 0.7), round(picture.height * 0.7)), Image.Resampling.BICUBIC)


def with_margin(picture: Image.Image) -> Image.Image:
    """On a white frame 1.4 times as large, not quite in the middle."""
    width, height = round(picture.width * 1.4), round(picture.height * 1.4)
    frame = Image.new("RGB", (width, height), "white")
    frame.paste(picture, (round(0.25 * width) - picture.width // 40, round(0.12 * height)))
    return frame


def watermarked(picture: Image.Image, *, corner: bool) -> Image.Image:
    """With a third of grey writing in a corner, or across the middle."""
    layer = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    pen, text = ImageDraw.Draw(layer), "www.shop.example"
    font = ImageFont.load_default(size=max(8, round(picture.width * (0.045 if corner else 0.08))))
    _, _, width, height = pen.textbbox((0, 0), text, font=font)
    free = (picture.width - width, picture.height - height)
    place = (free[0] - 4, free[1] - 4) if corner else (free[0] / 2, free[1] / 2)
    pen.text(place, text, font=font, fill=(128, 128, 128, 90))
    return Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")


COPIES: dict[str, tuple[Callable[[Image.Image], Image.Image], int]] = {
    "re-encoded at quality 40": (lambda picture: picture, 40),
    "reduced to 70 %": (reduced, 85),
    "cropped by 1 %": (lambda picture: recropped(picture, 0.01), 90),
    "cropped by 3 %": (lambda picture: recropped(picture, 0.03), 90),
    "another margin": (with_margin, 90),
    "watermark in a corner": (lambda picture: watermarked(picture, corner=True), 90),
    "watermark across": (lambda picture: watermarked(picture, corner=False), 90),
    "mirrored": (lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 90),
}


def stored(picture: Image.Image, quality: int = 92) -> bytes:
    """As ingested from a JPEG of that quality."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return encode_jpeg(decode(file.getvalue(), short_side=256).rgb)


def on_white(pictures: Iterable[Named], share: float) -> Iterator[Named]:
    """Each in the middle of a white frame, its longer side that share of the frame's."""
    for name, picture in pictures:
        factor = share * FRAME / max(picture.size)
        small = picture.resize(
            (max(1, round(picture.width * factor)), max(1, round(picture.height * factor))), Image.Resampling.LANCZOS
        )
        frame = Image.new("RGB", (FRAME, FRAME), "white")
        frame.paste(small, ((FRAME - small.width) // 2, (FRAME - small.height) // 2))
        yield name, frame


def files(folder: Path, pattern: str) -> Iterator[Named]:
    """The pictures below a folder, reduced as far as a shop's page would."""
    for path in sorted(folder.rglob(pattern)):
        picture = Image.open(path).convert("RGB")
        picture.thumbnail((2 * FRAME, FRAME))
        yield str(path.relative_to(folder)), picture


def measure(title: str, pictures: Iterable[Named], count: int) -> None:
    """Print one set's line of the table."""
    every = max(1, count // COPIED)
    names, jpegs, copied, originals = [], [], [], []
    for number, (name, picture) in enumerate(pictures):
        names.append(name)
        jpegs.append(stored(picture))
        if number % every == 0:
            originals.append(number)
            copied += [stored(change(picture), quality) for change, quality in COPIES.values()]
    started = time.process_time()
    hashes = hash_pictures(jpegs)
    hashing = (time.process_time() - started) / len(jpegs)
    found = np.zeros((len(originals), len(COPIES)), dtype=np.bool_)
    for way, copies in enumerate(hash_pictures(copied).reshape(len(originals), len(COPIES), -1).swapaxes(0, 1)):
        mirrors = way == list(COPIES).index("mirrored")
        for at, copy in enumerate(copies):
            found[at, way] = first_alike(np.stack([hashes[originals[at]], copy]), mirrors=mirrors)[1] == 0
    started = time.process_time()
    firsts = first_alike(hashes)
    grouping = time.process_time() - started
    joined = np.flatnonzero(np.bincount(firsts, minlength=len(firsts))[firsts] > 1)
    shares = " | ".join(f"{100 * share:.0f}" for share in found.mean(axis=0))
    print(f"| {title} | {len(names)} | {len(joined)} | {shares} | {1000 * hashing:.2f} | {grouping:.2f} |", flush=True)
    for first in np.unique(firsts[joined])[:10]:
        print("    together:", [names[row] for row in np.flatnonzero(firsts == first)][:8], flush=True)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="with grocery-packages/images and bass/images")
    parser.add_argument("--drawn", type=int, nargs="*", default=[300], help="products of each drawn shop")
    parser.add_argument("--shares", type=float, nargs="*", default=SHARES, help="of the frame that objects take")
    asked = parser.parse_args()
    print(f"| pictures | of them | false | {' | '.join(COPIES)} | ms a hash | s to group |")
    print("|---|" + "--:|" * (len(COPIES) + 4))
    for count in asked.drawn:
        measure("drawn objects at 20 %", draw_products(count), count)
    for name, pattern in (("bass", "*.png"), ("grocery-packages", "*.jpg")) if asked.data else ():
        folder = asked.data / name / "images"
        count = len(list(folder.rglob(pattern)))
        measure(f"{name}, filling the frame", files(folder, pattern), count)
        for share in asked.shares:
            measure(f"{name} at {100 * share:.0f} %", on_white(files(folder, pattern), share), count)


if __name__ == "__main__":
    main()
