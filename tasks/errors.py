"""What stops a run because of its input, rather than because of the lake, the model or the index."""


class SourceError(Exception):
    """The pictures' source can't be used as it is: it does not exist, is empty, or lost too much at once."""


class LabelsError(Exception):
    """The labels can't be used as they are; the message names the rows."""


class CountsDisagree(Exception):
    """A run lost count of its pictures: what came in is not what went out."""
