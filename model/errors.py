"""The errors of `model`, one class for each thing a caller does about one.

    ModelError
    ├── Undecodable       record the row with its reason and go on
    ├── UnfitPicture      stop: choose another size of the network's input
    ├── WeightsMismatch   stop: these weights are not of this network, or are damaged
    ├── LabelsUnusable    stop: the labels cannot train or measure a model
    └── TrainingDiverged  stop: the loss left the finite numbers

A bare ModelError says what to change in the call: a device that is not there, a download that failed.
"""

from __future__ import annotations


class ModelError(Exception):
    """What `model` raises when its caller can do something about it."""


class Undecodable(ModelError):
    """The bytes are no picture that we can use; `reason` goes into the row."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UnfitPicture(ModelError):
    """The backbone has no maps of a picture of this size; the message names the nearest that has."""


class WeightsMismatch(ModelError):
    """The weights do not fit the network: keys, shapes, or a damaged file."""


class LabelsUnusable(ModelError):
    """The labels cannot train or measure a model; the message says expected and found."""


class TrainingDiverged(ModelError):
    """The loss became infinite or not a number; the message names epoch and step."""
