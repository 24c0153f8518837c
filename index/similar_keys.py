"""The keys that someone may have meant, of a whole catalogue: nearest by edit distance. Knows strings only."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

CHARACTERS_AN_EDIT = 5  # a key is like another where no more than one in so many characters differs
BATCH = 1 << 16  # keys that are Python strings at the same time
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif")

Near = tuple[int, int, str]  # edits, edits where case and prefixes count too, key


def similar_keys(asked: str, keys: pa.ChunkedArray, most: int = 3) -> list[str]:
    """The keys most like the one asked for, nearest first; none where none is near.

    Counted are the characters to insert, delete or replace, over whole keys. Upper and lower case are the same, a
    leading "/" or "./" and all that stands before a key in a URL or an absolute path cost nothing, and another ending
    of a picture's name counts as one. A key that has more folders before what was asked for is named where no more
    than `most` have it. What is more than twice as far as the nearest is left out.
    """
    asked = asked.encode(errors="replace").decode()  # a command line's bytes need not be text
    whole = _without_prefix(asked.lower())
    if not whole:
        return []
    forms = _forms(asked.lower(), whole)
    near: list[Near] = []
    deeper: list[str] = []  # keys that have more folders before it
    for start in range(0, len(keys), BATCH):
        batch = keys.slice(start, BATCH)
        lowered = pc.utf8_lower(batch)
        if len(deeper) <= most:
            deeper += batch.filter(pc.ends_with(lowered, "/" + whole)).to_pylist()
        near = sorted({*near, *_near(asked, forms, batch, lowered, most)})[:most]
    if len(deeper) <= most:
        near = sorted({*near, *((1, len(key) - len(asked), key) for key in deeper)})
    distinct = dict.fromkeys(key for edits, _, key in near if edits <= 2 * near[0][0])
    return list(distinct)[:most]


def _without_prefix(asked: str) -> str:
    """A key without what never begins one: a scheme and a host or bucket, slashes, the folder that one stands in."""
    if asked.startswith(("http://", "https://")):
        asked = unquote(urlsplit(asked).path)
    if "://" in asked:
        asked = asked.partition("://")[2].partition("/")[2]
    return asked.removeprefix("./").lstrip("/")


def _forms(asked: str, whole: str) -> dict[str, int]:
    """What to look for in place of a key, and how many edits each stands for already."""
    forms = {asked: 0, whole: 0}
    stem, dot, ending = whole.rpartition(".")
    if dot + ending in ENDINGS:
        forms |= {stem + other: 1 for other in ENDINGS if other != dot + ending}
    if asked.startswith("/") or "://" in asked:  # where the key begins is not known
        folders = whole.split("/")
        forms |= {"/".join(folders[first:]): 0 for first in range(1, len(folders)) if folders[first]}
    return forms


def _near(asked: str, forms: dict[str, int], keys: pa.ChunkedArray, lowered: pa.ChunkedArray, most: int) -> list[Near]:
    """At least the `most` nearest of some keys, as far as they are near."""
    from rapidfuzz import process
    from rapidfuzz.distance import Levenshtein

    allowed = np.array([max(1, len(form) // CHARACTERS_AN_EDIT) for form in forms])
    distances = process.cdist(
        list(forms), lowered.to_pylist(), scorer=Levenshtein.distance, score_cutoff=int(allowed.max())
    )
    edits = np.asarray(distances, dtype=np.int64) + np.array(list(forms.values()))[:, None]
    edits[edits > allowed[:, None]] = np.iinfo(np.int64).max
    fewest = edits.min(axis=0)
    last = min(most, len(fewest)) - 1
    at = np.flatnonzero(fewest <= min(allowed.max(), np.partition(fewest, last)[last]))
    names = keys.take(pa.array(at)).to_pylist()
    return [
        (int(fewest[place]), Levenshtein.distance(asked, name), name)
        for place, name in zip(at.tolist(), names, strict=True)
    ]
