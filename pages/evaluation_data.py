"""What the evaluation page shows, as arrays, bytes and words.

Shapes: B held-out pictures; h×w an attention map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.baselines import Baseline
from model.evaluation import POSITIVE_FROM
from model.gate import Decision
from pages.measures import Measured


@dataclass(frozen=True)
class WrongPicture:
    """A held-out picture that the candidate got wrong."""

    image_key: str
    label: int
    polarity: float
    jpeg: bytes
    attention_negative: NDArray[np.floating]
    """h×w: N_m."""
    attention_positive: NDArray[np.floating]
    """h×w: N_t."""


@dataclass(frozen=True)
class PageData:
    """All that the page shows. Rows without a finite score are counted, and left out of the plots."""

    title: str
    model_version: int
    decision: Decision
    candidate: Mapping[str, Measured]
    incumbent: Mapping[str, Measured] | None
    """On the same pictures; None where there is none to compare with."""
    labels: NDArray[np.integer]
    """B of 0 and 1."""
    polarity: NDArray[np.floating]
    """B of P(positive)."""
    positive_intensity: NDArray[np.floating]
    negative_intensity: NDArray[np.floating]
    categories: Sequence[str | None] | None = None
    """B, for the table of slices; a picture may have none."""
    incumbent_polarity: NDArray[np.floating] | None = None
    """B, for its curves beside the candidate's."""
    baselines: tuple[Baseline, ...] = ()
    """On the same pictures."""
    worst: tuple[WrongPicture, ...] = ()
    """The worst first."""
    training: Mapping[str, Any] = field(default_factory=dict)
    label_facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = {name: getattr(self, name) for name in ("polarity", "positive_intensity", "negative_intensity")}
        columns |= {name: getattr(self, name) for name in ("categories", "incumbent_polarity")}
        for name, column in columns.items():
            if column is not None and len(column) != len(self.labels):
                raise ValueError(f"{name}: expected one a label ({len(self.labels)}), found {len(column)}")


def most_wrong(labels: NDArray[np.integer], polarity: NDArray[np.floating], count: int = 8) -> NDArray[np.int64]:
    """Rows whose answer is not their label, the most confident mistake first; rows without a finite score last."""
    broken = ~np.isfinite(polarity)
    error = np.where(broken, -1.0, np.abs(polarity - labels))
    wrong = np.flatnonzero(broken | ((polarity >= POSITIVE_FROM) != (labels == 1)))
    return wrong[np.argsort(-error[wrong], kind="stable")][:count]
