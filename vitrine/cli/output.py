"""How a command ends: what it prints, and the one line and exit code of a failure.

0 done, 1 failed with one line that says what to do, 2 bad usage, 130 interrupted, 143
terminated.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from vitrine.cli.printable import printable

INTERRUPTED = 130  # what Typer makes of Ctrl-C
TERMINATED = 143  # what a shell makes of SIGTERM
STOPPED = "what was committed stays, run it again for the rest"


def print_result(as_json: bool, result: Any, for_people: Callable[[Any], None]) -> None:
    """What a command found or did, as one JSON document or in words."""
    from vitrine.cli.printing import print_json

    try:
        print_json(result) if as_json else for_people(result)
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        nobody_reads()


def fail(message: str, code: int = 1, *, lines: bool = False) -> NoReturn:
    """End with a line that says why, or with several `lines`, where further ones show in which place."""
    shown = "\n".join(map(printable, message.split("\n"))) if lines else printable(message)
    with suppress(OSError):  # the terminal may have gone
        print(f"vitrine: {shown or 'failed'}", file=sys.stderr)  # noqa: T201
    sys.exit(code)


def nobody_reads() -> NoReturn:
    """The reader of our output has gone, or its terminal: nothing is left to say."""
    sys.stderr.close()
    sys.exit(1)
