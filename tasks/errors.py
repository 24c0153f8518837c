"""What stops a run because of its input, rather than because of the lake, the model or the index.

TaskError
├── SourceError     the pictures' source is not there, is empty, or lost too much at once
├── LabelsError     the labels can't be used; the message names the rows
├── OtherModel      a query's vector and the index are of different models
├── NoDeviceLock    the lock file that GPU work is to hold can't be used
└── CountsDisagree  a run lost count of its pictures; what it has not committed stays invisible
"""

from __future__ import annotations


class TaskError(Exception):
    """Stops the run. The message is one line: what was expected, what was found, what to do."""


class SourceError(TaskError):
    """The pictures' source can't be used as it is."""


class LabelsError(TaskError):
    """The labels can't be used as they are."""


class OtherModel(TaskError):
    """Vectors of two models can't be compared."""


class NoDeviceLock(TaskError):
    """The lock file of the device can't be used."""


class CountsDisagree(TaskError):
    """What came in is not what went out."""
