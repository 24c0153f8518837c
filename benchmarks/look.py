"""Which pictures look alike: what each part of the look model brings, on three shops that differ.

    python benchmarks/look.py --groceries ../shared/data/grocery-packages/images

Photographs of groceries (given as a directory `…/kind/product/picture`), the demo's drawn catalogue, and drawn clothes
in which each colour is a product of its own. Each picture asks once and the whole catalogue answers: how often does the
nearest show the same product, and the nearest of another product the same kind? "Trained" is fitted to three quarters
of the products, and only the others ask; means over three seeds. Prints the tables of docs/model.md, "Look".
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from benchmarks._drawn_clothes import draw_clothes
from model.backbones.registry import BACKBONES
from model.baselines import colour_histograms, hash_search, plain_hash
from model.choices import LOOK_DIMENSIONS
from model.colour_histogram import ColourConfig, ColourFeatures, ColourHistogram
from model.gate_policy import LookGatePolicy
from model.look import DEFAULT_BACKBONE, LookConfig, LookNetwork, pool_maps
from model.look_gate import answers_of, decide_look
from model.look_training import MOST_PICTURES, SHRINKAGE, fit_projection, held_out
from model.pictures.decode import decode
from model.retrieval import Catalogue, Search, exact_search, measure_look
from model.weights import bundled_weights, load_backbone
from vitrine.demo.draw_catalogue import draw_catalogue

Floats = NDArray[np.float32]
SPEC = BACKBONES[DEFAULT_BACKBONE]
BATCH = 16
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Shop:
    """Pictures as the trunk sees them, uint8 N×3×S×S, and what they show."""

    name: str
    pixels: NDArray[np.uint8]
    products: list[str]
    kinds: list[str]

    @property
    def catalogue(self) -> Catalogue:
        """What its pictures show."""
        return Catalogue(self.products, self.kinds)


def read_shop(name: str, directory: Path) -> Shop:
    """The pictures below a directory, `…/kind/product/picture.jpg`."""
    paths = sorted(path for path in directory.rglob("*.jpg") if len(path.relative_to(directory).parts) > 2)
    resized = [SPEC.preprocessing.resize(decode(path.read_bytes(), short_side=256).rgb) for path in paths]
    return Shop(name, np.stack(resized), [path.parts[-2] for path in paths], [path.parts[-3] for path in paths])


def shops(groceries: Path | None) -> Iterator[Shop]:
    """Those that there are."""
    if groceries is not None:
        yield read_shop("groceries", groceries)
    with tempfile.TemporaryDirectory() as directory:
        draw_catalogue(Path(directory), products=120, views=4, seed=0)
        yield read_shop("demo", Path(directory))
    clothes = draw_clothes()
    pixels = np.ascontiguousarray(clothes.pixels.transpose(0, 3, 1, 2))
    yield Shop("clothes", pixels, clothes.products.tolist(), clothes.kinds.tolist())


def described(shop: Shop) -> dict[str, Floats]:
    """Each part of an embedding, N×E."""
    trunk = SPEC.build().eval()
    load_backbone(trunk, bundled_weights(SPEC), SPEC)
    colours = {"histogram": ColourHistogram(ColourConfig()), "colours": ColourFeatures(ColourConfig())}
    parts: dict[str, list[torch.Tensor]] = {}
    with torch.inference_mode():
        for start in range(0, len(shop.pixels), BATCH):
            pixels = torch.from_numpy(shop.pixels[start : start + BATCH])
            maps = trunk(SPEC.preprocessing.normalise(pixels).contiguous(memory_format=torch.channels_last))
            made = {"mean": pool_maps(maps, "mean"), "gem": pool_maps(maps, "gem")}
            for name, part in (made | {name: module(pixels) for name, module in colours.items()}).items():
                parts.setdefault(name, []).append(F.normalize(part, dim=1))
    return {name: torch.cat(batches).numpy() for name, batches in parts.items()}


def untrained(shop: Shop, parts: dict[str, Floats]) -> dict[str, Search]:
    """What the look model is compared with, and what it is made of."""
    hashes = np.stack([plain_hash(picture) for picture in shop.pixels.transpose(0, 2, 3, 1)])
    searches = {
        "perceptual hash": hash_search(hashes),
        "HSV histogram of the whole frame": exact_search(colour_histograms(shop.pixels)),
        "our histogram: Oklab, soft bins, the border's colour set aside": exact_search(parts["histogram"]),
        "trunk, mean": exact_search(parts["mean"]),
        "trunk, generalised mean": exact_search(parts["gem"]),
        "trunk and histogram, plain cosine": exact_search(beside(parts["gem"], parts["histogram"], 0.15)),
    }
    for weight in (0.05, 0.1, 0.15, 0.2, 0.3):
        default = ", the default" if weight == ColourConfig().weight else ""
        searches[f"trunk and sharpened histogram, {weight}{default}"] = exact_search(
            beside(parts["gem"], parts["colours"], weight)
        )
    for dimensions in (128, 256):
        searches[f"the default, whitened without labels to {dimensions}"] = exact_search(
            whitened(beside(parts["gem"], parts["colours"], ColourConfig().weight), dimensions)
        )
    return searches


def beside(trunk: Floats, colours: Floats, weight: float) -> Floats:
    """What `LookNetwork.describe` makes."""
    return np.concatenate([trunk, weight**0.5 * colours], axis=1)


def whitened(descriptions: Floats, dimensions: int) -> Floats:
    """Principal components of the catalogue, each of variance 1."""
    centred = descriptions - descriptions.mean(axis=0)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    return np.asarray(centred @ (directions[:dimensions].T / lengths[:dimensions]), dtype=np.float32)


def trained(shop: Shop, descriptions: Floats) -> Iterator[tuple[str, float, float]]:
    """Same product and same kind first, for products that no projection was fitted to; means over seeds."""
    settings: list[tuple[str, float | None, int | None]] = [("not trained", None, None)]
    settings += [(f"trained, shrinkage {shrinkage}", shrinkage, None) for shrinkage in (0.1, 0.3, 0.6, 0.9)]
    settings += [
        (f"trained, shrinkage 0.6, {dimensions} dimensions", 0.6, dimensions) for dimensions in (128, 256, 512)
    ]
    for name, shrinkage, dimensions in settings:
        shares = []
        for seed in SEEDS:
            side = held_out(shop.products, seed=seed)
            embeddings = descriptions
            if shrinkage is not None:
                embeddings = fitted(shop, descriptions, side, shrinkage, dimensions)
            answers = answers_of(embeddings, shop.catalogue, side)
            shares.append((answers.finds_product.mean(), answers.finds_kind[answers.has_kind].mean()))
        yield name, *np.mean(shares, axis=0).tolist()


def fitted(
    shop: Shop, descriptions: Floats, side: NDArray[np.bool_], shrinkage: float, dimensions: int | None
) -> Floats:
    """Embeddings by a projection that was fitted to the other side's products."""
    teaching = [None if out else product for out, product in zip(side, shop.products, strict=True)]
    projection = fit_projection(descriptions, teaching, shrinkage=shrinkage, dimensions=dimensions)
    return np.asarray((descriptions - projection.mean) @ projection.matrix)


def print_costs() -> None:
    """CPU time of a picture, of fitting to as many pictures as are used at most, and of a night's exact search."""
    look = LookNetwork(LookConfig())
    trunk = look.backbone if SPEC.fold is None else SPEC.fold(look.backbone)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (BATCH, 3, 224, 224), dtype=np.uint8))
    rows = np.random.default_rng(0).normal(size=(100_000, look.embedding_size)).astype(np.float32)
    products = [str(row // 4) for row in range(len(rows))]
    with torch.inference_mode():
        pictures = SPEC.preprocessing.normalise(pixels).contiguous(memory_format=torch.channels_last)
        maps = trunk(pictures)
        print(f"trunk: {1e3 * cpu_s(lambda: trunk(pictures)) / BATCH:.1f} ms a picture")
        print(f"pooling and colours: {1e3 * cpu_s(lambda: look.embed(maps, pixels)) / BATCH:.2f} ms a picture")
    few, names = rows[:MOST_PICTURES], products[:MOST_PICTURES]
    print(f"fitting to {len(few)} pictures: {cpu_s(lambda: fit_projection(few, names), 1):.1f} s")
    search = cpu_s(lambda: measure_look(exact_search(rows), Catalogue(products)), 1)
    print(f"asking {len(rows)} pictures exactly: {search:.1f} s")


def cpu_s(work: Callable[[], object], times: int = 5) -> float:
    """The least of several times, in seconds of CPU."""
    taken = []
    for _ in range(times):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return min(taken)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--groceries", type=Path, help="a directory of pictures, …/kind/product/picture.jpg")
    parser.add_argument("--costs", action="store_true", help="measure CPU time instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.costs:
        print_costs()
        return
    for shop in shops(arguments.groceries):
        print(f"\n{shop.name}: {len(shop.pixels)} pictures of {len(set(shop.products))} products")
        print("| | Same product first | Same kind first |\n|---|---|---|")
        parts = described(shop)
        for name, search in untrained(shop, parts).items():
            found = measure_look(search, shop.catalogue)
            product, kind = (retrieval.recall[1] for retrieval in (found.same_product, found.same_kind))
            intervals = [f"{r.value:.3f} ({r.low:.3f} to {r.high:.3f})" for r in (product, kind)]
            print("| " + " | ".join([name, *intervals]) + " |", flush=True)
        descriptions = beside(parts["gem"], parts["colours"], ColourConfig().weight)
        print("\n| Held-out products | Same product first | Same kind first |\n|---|---|---|")
        for name, product_share, kind_share in trained(shop, descriptions):
            print(f"| {name} | {product_share:.3f} | {kind_share:.3f} |", flush=True)
        side = held_out(shop.products, seed=0)
        candidate = answers_of(fitted(shop, descriptions, side, SHRINKAGE, LOOK_DIMENSIONS), shop.catalogue, side)
        decision = decide_look(candidate, answers_of(descriptions, shop.catalogue, side), LookGatePolicy())
        print(f"\nThe gate, seed 0: {'promoted' if decision.promote else 'refused'}; " + "; ".join(decision.reasons))


if __name__ == "__main__":
    main()
