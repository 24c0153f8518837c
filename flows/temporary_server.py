"""A Prefect server that lives as long as its parent: it ends when its standard input does.

It runs in a session of its own, so that Ctrl-C in a terminal reaches the run first, which can then still tell
the server how it ended.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import uvicorn

GRACE_SECONDS = 5


def main() -> None:
    """Serve Prefect's API on the loopback port given as the argument."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="critical",
        lifespan="on",
    )


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(GRACE_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    main()
