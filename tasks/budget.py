"""So many bytes for everybody at once."""

from __future__ import annotations

import threading


class Budget:
    """So many bytes may be taken at once; whoever asks for more than all of them gets them alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._closed = False
        self._changed = threading.Condition()

    def take(self, size: int) -> bool:
        """Wait until the bytes fit; False where the budget was closed meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._taken or self._taken + size <= self._limit)
            self._taken += size
            return not self._closed

    def give_back(self, size: int) -> None:
        """Let others take so many bytes that were taken."""
        with self._changed:
            self._taken -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Let everybody go who waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
