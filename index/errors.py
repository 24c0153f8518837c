"""What goes wrong with an index, as a tree by reaction.

IndexingError
├── BadVectors   refuse the rows (or the query): nothing was written or searched
├── NotAnIndex   look elsewhere: the directory holds no index that this code reads
├── CorruptIndex fetch the version again: its files are damaged or disagree
├── UnknownKey   tell the asker: no such picture in this index
├── UnknownColumn tell the asker: this index can't be filtered so
└── BelowTarget  refuse to publish: no setting of the search finds enough
"""

from __future__ import annotations


class IndexingError(Exception):
    """The root of everything that this package raises on purpose."""


class BadVectors(IndexingError):
    """Vectors or keys that faiss would swallow in silence and answer wrongly."""


class NotAnIndex(IndexingError):
    """A directory without an `index.json` of a format that this code knows."""


class CorruptIndex(IndexingError):
    """Files that cannot be read, or that contradict `index.json` or each other."""


class UnknownKey(IndexingError):
    """An image_key that the index does not hold."""


class UnknownColumn(IndexingError):
    """A column that the index's keys do not have."""


class BelowTarget(IndexingError):
    """The recall wanted cannot be reached, even when every list is searched."""
