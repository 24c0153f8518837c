"""The plots and tables of a model's answers on the held-out pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from model.evaluation import POSITIVE_FROM, correlate_intensities
from pages import plots
from pages.evaluation_data import PageData
from pages.html import percent, shortened, signed
from pages.measures import Number


@dataclass(frozen=True)
class HeldOutRows:
    """The held-out pictures whose every number is finite: what the plots and tables are of."""

    labels: NDArray[np.int64]
    polarity: NDArray[np.float64]
    positive: NDArray[np.float64]
    negative: NDArray[np.float64]
    incumbent: NDArray[np.float64] | None
    categories: tuple[str | None, ...] | None
    left_out: int

    @classmethod
    def of(cls, data: PageData) -> HeldOutRows:
        """The page's rows without those that are left out; an incumbent that is not a number somewhere has no curve."""
        columns = [data.polarity, data.positive_intensity, data.negative_intensity]
        polarity, positive, negative = (np.asarray(column, np.float64) for column in columns)
        sound = np.isfinite(polarity) & np.isfinite(positive) & np.isfinite(negative)
        incumbent = None if data.incumbent_polarity is None else np.asarray(data.incumbent_polarity, np.float64)[sound]
        if incumbent is not None and not np.isfinite(incumbent).all():
            incumbent = None
        kept = np.flatnonzero(sound)
        return cls(
            labels=np.asarray(data.labels, np.int64)[sound],
            polarity=polarity[sound],
            positive=positive[sound],
            negative=negative[sound],
            incumbent=incumbent,
            categories=None if data.categories is None else tuple(data.categories[int(row)] for row in kept),
            left_out=len(sound) - len(kept),
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        """How many of the two labels there are."""
        return len(np.unique(self.labels))

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which rows are answered with their label."""
        right: NDArray[np.bool_] = (self.polarity >= POSITIVE_FROM) == (self.labels == 1)
        return right


@dataclass(frozen=True)
class Panel:
    """A plot, or why there is none."""

    title: str
    alt: str
    caption: str
    svg: Markup | None
    instead: str


_NO_PICTURES = "No held-out picture has a finite score."
_ONE_CLASS = "This curve needs both classes; the held-out pictures are all of one."


def panels(rows: HeldOutRows) -> list[Panel]:
    """The plots, in the order in which they are read."""
    two = () if rows.classes == 2 else (_ONE_CLASS if len(rows) else _NO_PICTURES,)
    any_ = () if len(rows) else (_NO_PICTURES,)
    labels, polarity = rows.labels, rows.polarity
    return [
        _panel(
            "ROC curve", "Share of positives found against share of negatives wrongly called positive.",
            "Up and to the left is better; the diagonal is chance.",
            lambda: plots.plot_roc(labels, polarity, rows.incumbent), *two,
        ),
        _panel(
            "Precision and recall", "Precision against recall as the threshold falls.",
            "What is called positive, and how much of the positive it finds.",
            lambda: plots.plot_precision_recall(labels, polarity, rows.incumbent), *two,
        ),
        _panel(
            "Reliability", "Share labelled positive against mean P(positive) in ten bins, with counts of pictures.",
            "On the diagonal, a picture scored 0.8 is positive 8 times in 10. Bars: 95 % of each bin's share.",
            lambda: plots.plot_reliability(labels, polarity), *any_,
        ),
        _panel(
            "Scores by label", "Histogram of P(positive): positives upwards, negatives downwards.",
            "Blue left of the dashed threshold and orange right of it are mistakes.",
            lambda: plots.plot_scores(labels, polarity), *any_,
        ),
        _panel(
            "Intensities (the paper's Figure 6)", "Negative against positive intensity of each picture, by label.",
            "A picture may stir both feelings or neither. Blue dots: labelled positive; orange triangles: negative.",
            lambda: plots.plot_intensities(labels, rows.positive, rows.negative), *any_,
        ),
    ]  # fmt: skip


def _panel(title: str, alt: str, caption: str, draw: Callable[[], str], *instead: str) -> Panel:
    return Panel(title, alt, caption, None if instead else Markup(draw()), "".join(instead))  # noqa: S704 (our own SVG)


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix."""

    count: int
    share: float  # of its row, in percent
    right: bool


def confusion(rows: HeldOutRows) -> list[tuple[str, list[Cell], int]]:
    """The confusion matrix: of each label, negative first, its name, a cell an answer, and how many pictures."""
    answers = rows.polarity >= POSITIVE_FROM
    table = []
    for label, name in enumerate(("negative", "positive")):
        mine = rows.labels == label
        counts = [int((mine & (answers == bool(answer))).sum()) for answer in (0, 1)]
        total = max(1, sum(counts))
        cells = [Cell(count, percent(count / total), answer == label) for answer, count in enumerate(counts)]
        table.append((name, cells, sum(counts)))
    return table


def correlations(rows: HeldOutRows) -> list[tuple[str, str, int]]:
    """Pearson's r of positive and negative intensity, of all pictures and by label: name, r, pictures."""
    measured = correlate_intensities(np.stack([rows.negative, rows.positive], axis=1), rows.labels)
    negatives = int((rows.labels == 0).sum())
    of_groups = {
        "all pictures": (measured.overall, len(rows)),
        "labelled negative": (measured.negative, negatives),
        "labelled positive": (measured.positive, len(rows) - negatives),
    }
    return [(name, "undefined" if r is None else signed(r), pictures) for name, (r, pictures) in of_groups.items()]


@dataclass(frozen=True)
class Slice:
    """The held-out pictures of one category."""

    category: str
    pictures: int
    positives: int
    accuracy: Number


def slices(rows: HeldOutRows) -> list[Slice]:
    """Accuracy by category, the least accurate first; a picture without one is in none."""
    if rows.categories is None:
        return []
    names, slices = np.array(rows.categories, dtype=object), []
    for name in sorted({name for name in rows.categories if name is not None}):
        mine = names == name
        right, pictures = int(rows.right[mine].sum()), int(mine.sum())
        low, high = plots.wilson_interval(right, pictures)
        accuracy = Number.of((right / pictures, float(low), float(high)))
        slices.append(Slice(shortened(name), pictures, int(rows.labels[mine].sum()), accuracy))
    return sorted(slices, key=lambda each: (each.accuracy.at, -each.pictures, each.category))
