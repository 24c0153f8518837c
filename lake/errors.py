"""What can go wrong in the lake, by what the caller should do about it.

LakeError                  stop the run; the message is one line that says what to do
├── StoreUnavailable       retry: the network, the server or the disk did not answer
├── ObjectNotFound         the one object is gone; the caller knows what that means
├── ObjectUnreadable       the one object can't be read, today or tomorrow, until somebody does something about it
├── ObjectExists           a put-if-absent lost; read what is there
├── LostRace               another writer published first; nothing of ours is lost, start again from theirs
│   └── ModelReplaced      another model became current while an index was made; start again under that model
├── LakeBusy               another run is writing; wait for it
├── LeaseLost              another run took over because this one seemed dead; stop, and commit nothing more
├── NoLake                 the root holds no lake; ingest makes one
├── UnknownVersion         no such version was ever recorded
├── DamagedDocument        a log entry, a manifest or the marker is not what was written
└── CorruptFile            size or sha256 differ from the manifest; never open the file
"""

from __future__ import annotations


class LakeError(Exception):
    """Stops the run. The message is one line: what was expected, what was found, what to do."""


class StoreUnavailable(LakeError):
    """The store did not answer in time; the same call may succeed later."""


class ObjectNotFound(LakeError):
    """There is no object at this path."""


class ObjectUnreadable(LakeError):
    """The store refuses this one object, and would again: `reason` says why in a few words, for its row."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


class ObjectExists(LakeError):
    """A put-if-absent found an object at this path."""


class LostRace(LakeError):
    """Another writer moved the current version first."""


class ModelReplaced(LostRace):
    """Another look or model was put in place while an index or scores were made under the one before."""


class LakeBusy(LakeError):
    """Another run holds the lease on the lake."""


class LeaseLost(LakeError):
    """Another run holds the lease that this one had."""


class UnknownVersion(LakeError):
    """The log names no such version."""


class NoLake(LakeError):
    """There is no lake at this URI."""


class DamagedDocument(LakeError):
    """One of the lake's small JSON objects is empty, cut off or not one of ours."""


class CorruptFile(LakeError):
    """A file's size or sha256 is not what its manifest says."""


def lost(uri: str, epoch: int) -> LeaseLost:
    """The error of a run whose lease another has."""
    return LeaseLost(
        f"another run took over the writing of {uri} (epoch {epoch}), for this one gave no sign of life for too long: "
        "it commits nothing more, run it again"
    )
