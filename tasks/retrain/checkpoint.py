"""Where an interrupted training is taken up again: one object in the lake for each training that was asked for."""

from __future__ import annotations

import hashlib
import logging

from lake.errors import ObjectNotFound, StoreUnavailable
from lake.store import Store

logger = logging.getLogger(__name__)


class LakeCheckpoint:
    """The newest checkpoint of one training; `model.checkpoints.CheckpointStore` over the lake.

    Its name comes from what was asked for, so that the same request, started again, finds it.
    """

    def __init__(self, store: Store, *asked_for: object) -> None:
        self._store = store
        name = hashlib.sha256(repr(asked_for).encode()).hexdigest()[:32]
        self.path = f"checkpoints/{name}.safetensors"

    def load(self) -> bytes | None:
        """What was saved last; None at first."""
        try:
            return self._store.get(self.path)
        except ObjectNotFound:
            return None

    def save(self, data: bytes) -> None:
        """Replace it whole. A lake that does not answer costs the checkpoint, not the training."""
        try:
            self._store.put(self.path, data)
        except StoreUnavailable as error:
            logger.warning("a checkpoint was not saved: %s", error)
