"""Asks again for what a store did not answer: what obstore does for single requests, for sequences of several."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from lake.errors import StoreUnavailable

logger = logging.getLogger(__name__)

ATTEMPTS = 4
FIRST_PAUSE = 0.25  # seconds before the second attempt; each later pause is twice as long

Result = TypeVar("Result")


def retried(call: Callable[[], Result]) -> Result:
    """What an idempotent call gives, once the store answers. Raises StoreUnavailable after some seconds."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return call()
        except StoreUnavailable as error:
            logger.info("trying again: %s", error)
            pause(attempt)
    return call()


def pause(attempt: int) -> None:
    """Wait after a failed attempt, the first of which is 0; by chance a little longer, so that many do not meet."""
    time.sleep(FIRST_PAUSE * 2**attempt * random.uniform(1, 1.5))  # noqa: S311 (no secret)
