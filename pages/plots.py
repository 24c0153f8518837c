"""The plots of an evaluation as SVG text that takes a page's own colours. Knows arrays; no page, no pictures.

Shapes: B held-out pictures; `labels` are 0 and 1, `polarity` is P(positive), both finite.
"""

from __future__ import annotations

import io
import re
import threading
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from model.calibration import BINS, calibration_bins

Floats = NDArray[np.floating]
Labels = NDArray[np.integer]
Counts = NDArray[np.int64]
Place = Literal["upper center", "lower left", "lower right"]

# Blue and orange stay apart for every kind of colour blindness, on white and on black.
NEGATIVE, POSITIVE = "#d9631e", "#2a80c5"
# Stand-ins, replaced by the page's variables: a plot turns dark with the page that holds it.
INK, SOFT, FAINT = "#010203", "#070809", "#040506"
THEME = {INK: "var(--ink)", SOFT: "var(--soft)", FAINT: "var(--line)"}

SCATTER_MARKS = 1200
"""More points than this are drawn as pixels inside the SVG: their size on the page stops growing."""
HISTOGRAM_BINS = 20

_one_at_a_time = threading.Lock()  # matplotlib's SVG settings belong to the whole process


# Numbers behind the plots -------------------------------------------------------------------------------


def wilson_interval(right: Counts | int, total: Counts | int) -> tuple[Floats, Floats]:
    """The 95% score interval of a share: it stays inside [0, 1] and keeps a width where all are right."""
    count, z = np.asarray(total, np.float64), 1.959964
    share = np.asarray(right) / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return np.clip(centre - reach, 0, 1), np.clip(centre + reach, 0, 1)


# Plots --------------------------------------------------------------------------------------------------


def plot_roc(labels: Labels, polarity: Floats, incumbent: Floats | None = None) -> str:
    """Both classes must be there."""
    from sklearn.metrics import roc_auc_score, roc_curve

    figure, axes = _square("negatives called positive (share)", "positives called positive (share)")
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, dashes=(1.5, 2.5), label="chance, 0.500")
    if incumbent is not None:
        false, true, _ = roc_curve(labels, incumbent)
        area = roc_auc_score(labels, incumbent)
        axes.plot(false, true, color=INK, linewidth=1.3, dashes=(4, 2), label=f"incumbent, {area:.3f}")
    false, true, _ = roc_curve(labels, polarity)
    area = roc_auc_score(labels, polarity)
    axes.plot(false, true, color=POSITIVE, linewidth=2.2, label=f"candidate, {area:.3f}")
    _legend(axes, "lower right", "area under the curve")
    return _svg(figure, "roc")


def plot_precision_recall(labels: Labels, polarity: Floats, incumbent: Floats | None = None) -> str:
    """Both classes must be there."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    figure, axes = _square("positives found (recall)", "of those called positive, right (precision)")
    base = float(labels.mean())
    axes.plot([0, 1], [base, base], color=SOFT, linewidth=1, dashes=(1.5, 2.5), label=f"chance, {base:.3f}")
    if incumbent is not None:
        precision, recall, _ = precision_recall_curve(labels, incumbent, drop_intermediate=True)
        area = average_precision_score(labels, incumbent)
        axes.step(
            recall, precision, where="post", color=INK, linewidth=1.3, dashes=(4, 2), label=f"incumbent, {area:.3f}"
        )
    precision, recall, _ = precision_recall_curve(labels, polarity, drop_intermediate=True)
    area = average_precision_score(labels, polarity)
    axes.step(recall, precision, where="post", color=POSITIVE, linewidth=2.2, label=f"candidate, {area:.3f}")
    _legend(axes, "lower left", "average precision")
    return _svg(figure, "precision-recall")


def plot_reliability(labels: Labels, polarity: Floats) -> str:
    """What came true against what was promised, above how many pictures each bin holds."""
    pictures, sums, promised = calibration_bins(labels, polarity)
    held, positives = pictures > 0, sums.astype(np.int64)
    means = promised[held] / pictures[held]
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    _style(axes, "", "labelled positive (share)")
    _style(counts, "P(positive), ten bins", "pictures")
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, dashes=(1.5, 2.5), label="as promised")
    share = positives[held] / pictures[held]
    low, high = wilson_interval(positives[held], pictures[held])
    reach = np.maximum(np.stack([share - low, high - share]), 0)
    axes.errorbar(means, share, yerr=reach, color=POSITIVE, fmt="none", elinewidth=1.3, capsize=3, alpha=0.7)
    # A bin of two pictures says less than one of two hundred, and looks it.
    sizes = 24 + 160 * pictures[held] / pictures.max()
    axes.scatter(means, share, s=sizes, c=POSITIVE, linewidths=0, zorder=3, label="a bin, larger with pictures")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.03, 1.03))
    _above(axes, _legend(axes, "upper center", columns=2))
    _count_bars(counts, pictures)
    return _svg(figure, "reliability")


def plot_scores(labels: Labels, polarity: Floats) -> str:
    """Histogram of P(positive): positives upwards, negatives downwards, the threshold between."""
    figure, axes = _square("P(positive)", "pictures")
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    tallest = 1
    for label, colour, name, sign in ((1, POSITIVE, "positive", 1), (0, NEGATIVE, "negative", -1)):
        counts, _ = np.histogram(polarity[labels == label], edges)
        tallest = max(tallest, int(counts.max()))
        axes.bar(
            edges[:-1], sign * counts, 0.9 / HISTOGRAM_BINS, align="edge", color=colour,
            label=f"labelled {name}: {int(counts.sum()):,}",
        )  # fmt: skip
    axes.axhline(0, color=INK, linewidth=0.9)
    axes.axvline(0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(xlim=(-0.02, 1.02), ylim=(-1.1 * tallest, 1.1 * tallest))
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):,.0f}"))
    _above(axes, _legend(axes, "upper center", columns=2))
    return _svg(figure, "scores")


def plot_intensities(labels: Labels, positive: Floats, negative: Floats) -> str:
    """The paper's Figure 6: each picture by its two intensities."""
    figure, axes = _square("positive intensity", "negative intensity")
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, dashes=(1.5, 2.5))
    many = len(labels) > SCATTER_MARKS
    for label, colour, name, mark in ((0, NEGATIVE, "negative", "^"), (1, POSITIVE, "positive", "o")):
        mine = labels == label
        axes.scatter(
            positive[mine], negative[mine], s=9 if many else 24, c=colour, marker=mark, linewidths=0,
            alpha=0.35 if many else 0.7, label=f"labelled {name}: {int(mine.sum()):,}", rasterized=many,
        )  # fmt: skip
    axes.set_aspect("equal")
    legend = _legend(axes, "upper center", columns=2)
    _above(axes, legend)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
            handle.set_rasterized(False)
            handle.set(sizes=[30])
    return _svg(figure, "intensities")


def _count_bars(axes: Axes, pictures: Counts) -> None:
    lefts = np.arange(BINS) / BINS
    axes.bar(lefts + 0.5 / BINS, pictures, 0.9 / BINS, color=POSITIVE, alpha=0.55)
    for left, count in zip(lefts, pictures, strict=True):
        axes.annotate(
            f"{count:,}", (left + 0.5 / BINS, count), (0, 2), textcoords="offset points", ha="center", va="bottom",
            color=INK, fontsize=9,
        )  # fmt: skip
    axes.set_ylim(0, max(1, int(pictures.max())) * 1.45)
    axes.yaxis.set_major_locator(MaxNLocator(2, integer=True))


def _square(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    _style(axes, x_label, y_label)
    return figure, axes


def _style(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label, color=INK, fontsize=11)
    axes.set_ylabel(y_label, color=INK, fontsize=11)
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, length=0, labelsize=10)
    axes.grid(True, color=FAINT, linewidth=0.6, alpha=0.7)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)


def _legend(axes: Axes, place: Place, title: str | None = None, columns: int = 1) -> Legend:
    legend: Legend = axes.legend(
        loc=place, frameon=False, fontsize=10, labelcolor=INK, title=title, title_fontsize=10, ncols=columns,
        handletextpad=0.5, columnspacing=1.2, alignment="left",
    )  # fmt: skip
    legend.get_title().set_color(INK)
    return legend


def _above(axes: Axes, legend: Legend) -> None:
    legend.set_bbox_to_anchor((0.5, 1.12), transform=axes.transAxes)


# SVG text -----------------------------------------------------------------------------------------------


def _svg(figure: Figure, name: str) -> str:
    """Same figure, same text: no date, no random id, and ids that differ between a page's plots."""
    figure.patch.set_alpha(0)
    buffer = io.StringIO()
    with _one_at_a_time, mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", dpi=144, metadata=nothing)
    return _for_the_page(buffer.getvalue(), name)


def _for_the_page(document: str, name: str) -> str:
    svg = document[document.index("<svg") :]
    # A style element inside would reach out to the whole page, which says the same for plots only.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg([^>]*?) width="[^"]*" height="[^"]*"', r'<svg\1 aria-hidden="true"', svg, count=1)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for stand_in, variable in THEME.items():
        svg = svg.replace(stand_in, variable)
    return re.sub(r"\s*\n\s*", " ", svg).strip()
