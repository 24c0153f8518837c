"""Text that others wrote, keys, reasons, file names, as a terminal may be given it."""

from __future__ import annotations

import logging


def printable(text: str) -> str:
    """The text with what no terminal shows as it is, control and bidirectional characters, spelled as in Python.

    Escape sequences would set titles and overwrite lines; a newline would make two lines of one.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


class PrintableFormatter(logging.Formatter):
    """Log lines whose messages hold names that others chose. Tracebacks keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's own name)
        """The line without its traceback."""
        return printable(super().formatMessage(record))
