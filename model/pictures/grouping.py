"""Groups of pictures that show the same thing, so that a split keeps them on one side. Knows hashes and names only.

A picture belongs to the group of the first one that it is near-identical to. It is never compared with the group's
other members: in a shop of small objects each resembles the next a little, and a chain of such steps would join all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.pictures.hashing import MOST_DIFFERENCE, SIDE, THUMBNAIL, alike, mirrored
from model.split import position


def first_alike(hashes: NDArray[np.uint8], *, mirrors: bool = False) -> NDArray[np.int64]:
    """For each picture (B×HASH_BYTES) the first of its group: the earliest that it resembles and that is a first.

    With `mirrors` a picture and its mirror image are alike too.
    """
    from scipy.spatial import cKDTree

    firsts = np.full(len(hashes), -1)
    if not len(hashes):
        return firsts
    quarters = _quarters(hashes)
    # Quarters' means differ by no more than the thumbnails do: who is alike is among those near.
    radius = MOST_DIFFERENCE * quarters.shape[1]
    tree = cKDTree(quarters, balanced_tree=False)
    nearest = tree.query(quarters, k=2, p=1, distance_upper_bound=radius)[0][:, 1]
    for row in range(len(hashes)):
        if firsts[row] >= 0:
            continue
        firsts[row] = row
        looks = [hashes[row], *(mirrored(hashes[row : row + 1]) if mirrors else ())]
        for look in looks if mirrors or np.isfinite(nearest[row]) else ():
            near = np.array(tree.query_ball_point(_quarters(look[None])[0], radius, p=1), dtype=np.int64)
            near = near[firsts[near] < 0]
            firsts[near[alike(look, hashes[near])]] = row
    return firsts


def join_groups(
    groups: Sequence[str], sha256s: Sequence[str], hashes: NDArray[np.uint8], *, seed: int = 0
) -> NDArray[np.str_]:
    """Groups in which pictures of one group, of one sha256 or near-identical to the same one are together.

    A joined group bears the name of that member which `split` with this seed would hold out first: a held-out
    product that a new picture joins to another one stays held out.

    Raises:
        ValueError: lengths differ.
    """
    if not len(groups) == len(sha256s) == len(hashes):
        raise ValueError(
            f"expected one sha256 and one hash a group ({len(groups)}), found {len(sha256s)} and {len(hashes)}"
        )
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    everything = np.arange(len(groups))
    others = [first_alike(hashes)]
    for names in (np.array(groups), np.array(sha256s)):
        _, first, which = np.unique(names, return_index=True, return_inverse=True)
        others.append(first[which])
    edges = (np.tile(everything, len(others)), np.concatenate(others))
    graph = coo_array((np.ones(len(edges[0]), bool), edges), shape=(len(groups), len(groups)))
    _, component = connected_components(graph, directed=False)
    names_of: dict[int, set[str]] = {}
    for number, name in zip(component.tolist(), groups, strict=True):
        names_of.setdefault(number, set()).add(name)
    chosen = {number: min(names, key=lambda name: (position(name, seed), name)) for number, names in names_of.items()}
    return np.array([chosen[number] for number in component.tolist()], dtype=np.str_)


def _quarters(hashes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """B×12: the mean colours of the thumbnails' four quarters."""
    half = SIDE // 2
    cells = hashes[:, THUMBNAIL].reshape(-1, 2, half, 2, half, 3)
    means: NDArray[np.float64] = cells.mean(axis=(2, 4)).reshape(len(hashes), -1)
    return means
