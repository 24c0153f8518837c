"""The evaluation of a candidate as one HTML document that needs nothing else: no network, no script, no files.

Knows arrays, bytes and words; no lake, no network of neurons. Shapes: B held-out pictures; h×w an attention map.
"""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from model.gate import Check, Decision
from pages import plots
from pages.overlays import NEGATIVE_HEAT, POSITIVE_HEAT, RelativeBox, encode_jpeg, lay_over, thumbnail

Measured = float | Sequence[float] | None
"""A value, or a value with the low and the high end of its 95% interval; None is not measured."""

POSITIVE_FROM = 0.5  # as the measures were taken
WORST_SHOWN = 12
SLICES_SHOWN = 40
FLAT = 0.05
"""A map that spans less moves the gate of equation (8) by about one percent: the picture is the stretching's."""
LONGEST_TEXT = 300  # characters of a key or a fact
PAGE_BYTES = 2 << 20
"""No page is larger, however many pictures were held out."""

TEMPLATE = Path(__file__).with_suffix(".html")


@dataclass(frozen=True)
class Verdict:
    """What the gate decided, and every check that it says something about."""

    promoted: bool
    checks: tuple[Check, ...]
    forced: str | None = None
    """Why a person promoted it all the same."""

    @classmethod
    def of(cls, decision: Decision) -> "Verdict":
        """The gate's own words; a forced promotion bears its reason in front of them."""
        first = next(iter(decision.reasons), "")
        forced = first.removeprefix("forced: ") if first.startswith("forced: ") else None
        return cls(decision.promote, decision.checks, forced)


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
    seen: RelativeBox = (0.0, 0.0, 1.0, 1.0)
    """Left, top, right, bottom of what the maps cover, in shares of the picture's sides."""


@dataclass(frozen=True)
class PageData:
    """All that the page shows. Rows without a finite score are counted, and left out of the plots."""

    title: str
    model_version: int
    verdict: Verdict
    candidate: Mapping[str, Measured]
    incumbent: Mapping[str, Measured] | None
    """On the same pictures; None where there is none to compare with."""
    labels: NDArray[np.integer]
    """B of 0 and 1."""
    polarity: NDArray[np.floating]
    """B of P(positive)."""
    positive_intensity: NDArray[np.floating]
    negative_intensity: NDArray[np.floating]
    categories: Sequence[str] | None = None
    """B, for the table of slices."""
    incumbent_polarity: NDArray[np.floating] | None = None
    """B, for its curves beside the candidate's."""
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


def render_page(data: PageData) -> str:
    """The document; the same data give the same text."""
    held_out = _HeldOut.of(data)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        data=data,
        held_out=held_out,
        tiles=_tiles(data.candidate, data.incumbent),
        measures=_measure_rows(data.candidate, data.incumbent),
        panels=_panels(held_out),
        confusion=_confusion(held_out),
        correlations=_correlations(held_out),
        worst=[_show(picture) for picture in data.worst[:WORST_SHOWN]],
        slices=_slices(held_out)[:SLICES_SHOWN],
        slices_in_all=len(_slices(held_out)),
        facts=[("Training", _flatten(data.training)), ("Labels", _flatten(data.label_facts))],
    )
    # A key may hold half a surrogate pair or a NUL, which no document may.
    return page.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


def most_wrong(labels: NDArray[np.integer], polarity: NDArray[np.floating], count: int = 8) -> NDArray[np.int64]:
    """Rows whose answer is not their label, the most confident mistake first; rows without a finite score last."""
    broken = ~np.isfinite(polarity)
    error = np.where(broken, -1.0, np.abs(polarity - labels))
    wrong = np.flatnonzero(broken | ((polarity >= POSITIVE_FROM) != (labels == 1)))
    return wrong[np.argsort(-error[wrong], kind="stable")][:count]


def measures_of(evaluation: Mapping[str, Any]) -> dict[str, Measured]:
    """The numbers among an evaluation's plain fields; `x`, `x_low` and `x_high` become one with its interval."""
    numbers = {name: value for name, value in evaluation.items() if _is_measured(value)}
    ends = {name + end for name in numbers for end in ("_low", "_high")}
    return {name: _with_interval(name, numbers) for name in numbers if name not in ends}


def _is_measured(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) == 3 and all(_is_measured(each) and not isinstance(each, list | tuple) for each in value)
    return value is None or (isinstance(value, int | float | np.number) and not isinstance(value, bool))


def _with_interval(name: str, numbers: Mapping[str, Any]) -> Measured:
    low, high = numbers.get(f"{name}_low"), numbers.get(f"{name}_high")
    value: Measured = numbers[name]
    return value if low is None or high is None or not isinstance(value, float) else (value, low, high)


# Numbers in words ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Known:
    name: str
    says: str
    higher_is_better: bool | None  # None: neither


_KNOWN = {
    "pictures": _Known("Held-out pictures", "", None),
    "positives": _Known("Of these positive", "", None),
    "majority_share": _Known("Majority's share", "the accuracy of always giving the more frequent answer", None),
    "accuracy": _Known("Accuracy", "answers that are right", True),
    "balanced_accuracy": _Known("Balanced accuracy", "both recalls, averaged; a constant answer has 0.5", True),
    "auroc": _Known("AUROC", "the chance that a positive picture scores above a negative one", True),
    "auprc": _Known("AUPRC", "precision, averaged over recall", True),
    "brier": _Known("Brier score", "the mean squared error of P(positive)", False),
    "ece": _Known("Calibration error", "how far P(positive) is from the share that came true (ECE)", False),
    "ece_before": _Known("Calibration error before scaling", "ECE before the temperature", False),
    "ece_after": _Known("Calibration error after scaling", "ECE after the temperature", False),
    "log_loss": _Known("Log loss", "", False),
    "temperature": _Known("Temperature", "what the logits are divided by, fitted on validation", None),
    "recall_at_1": _Known("Retrieval recall@1", "the nearest picture shows the same product", True),
    "recall_at_5": _Known("Retrieval recall@5", "one of the five nearest shows the same product", True),
}  # fmt: skip

_HEADLINES = ("accuracy", "balanced_accuracy", "auroc", "ece")


def _known(name: str) -> _Known:
    words = name.replace("_", " ").strip()
    return _KNOWN.get(name) or _Known(words[:1].upper() + words[1:], "", None)


@dataclass(frozen=True)
class _Number:
    """A value as it is shown and as it is, and where its marks stand on a strip from 0 to 100 %."""

    text: str
    exact: str
    interval: str
    at: float | None
    low: float | None
    width: float | None


def _number(measured: Measured) -> _Number:
    value, low, high = _parts(measured)
    interval = f"{_text(low)} to {_text(high)}" if math.isfinite(low) and math.isfinite(high) else ""
    on_strip = not isinstance(value, int) and 0 <= value <= 1
    ends = on_strip and interval != ""
    return _Number(
        text=_text(value),
        exact=str(value) if math.isfinite(value) else "",
        interval=interval,
        at=_percent(value) if on_strip else None,
        low=_percent(low) if ends else None,
        width=round(_percent(high) - _percent(low), 2) if ends else None,
    )


def _parts(measured: Measured) -> tuple[float, float, float]:
    """Value, low, high; NaN for what is not there. Whole numbers stay whole."""
    nothing = float("nan")
    if measured is None:
        return nothing, nothing, nothing
    if isinstance(measured, Sequence):
        value, low, high = (nothing if part is None else float(part) for part in measured)
        return value, low, high
    whole = isinstance(measured, int | np.integer)
    return (int(measured) if whole else float(measured)), nothing, nothing


def _text(value: float) -> str:
    if not math.isfinite(value):
        return "not measured" if math.isnan(value) else "infinite"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _percent(value: float) -> float:
    return round(100 * min(1.0, max(0.0, value)), 2)


@dataclass(frozen=True)
class _MeasureRow:
    name: str
    says: str
    direction: str
    candidate: _Number
    incumbent: _Number | None
    change: str
    change_kind: str


def _measure_rows(candidate: Mapping[str, Measured], incumbent: Mapping[str, Measured] | None) -> list[_MeasureRow]:
    names = [*candidate, *(name for name in incumbent or {} if name not in candidate)]
    return [_measure_row(name, candidate.get(name), (incumbent or {}).get(name)) for name in names]


def _measure_row(name: str, candidate: Measured, incumbent: Measured) -> _MeasureRow:
    known = _known(name)
    change, kind = _change(_parts(candidate)[0], _parts(incumbent)[0], known.higher_is_better)
    directions = {True: "higher is better", False: "lower is better", None: ""}
    other = None if incumbent is None else _number(incumbent)
    return _MeasureRow(
        known.name, known.says, directions[known.higher_is_better], _number(candidate), other, change, kind
    )


def _change(candidate: float, incumbent: float, higher_is_better: bool | None) -> tuple[str, str]:
    change = candidate - incumbent
    if not math.isfinite(change) or higher_is_better is None:
        return "", ""
    if abs(change) < 0.0005:
        return "same", ""
    kind = "better" if (change > 0) == higher_is_better else "worse"
    return f"{change:+.3f}".replace("-", "−"), kind


def _tiles(
    candidate: Mapping[str, Measured], incumbent: Mapping[str, Measured] | None
) -> list[tuple[str, _Number, _Number | None]]:
    others = incumbent or {}
    return [
        (_known(name).name, _number(candidate[name]), _number(others[name]) if name in others else None)
        for name in _HEADLINES
        if name in candidate
    ]


def _flatten(facts: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in facts.items():
        words = before + str(name).replace("_", " ")
        rows += _flatten(value, f"{words}: ") if isinstance(value, Mapping) else [(words, _fact(value))]
    return rows


def _fact(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:g}"
        case _:
            return _shortened(str(value))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"


# Plots and tables ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _HeldOut:
    """The rows whose every number is finite."""

    labels: NDArray[np.int64]
    polarity: NDArray[np.float64]
    positive: NDArray[np.float64]
    negative: NDArray[np.float64]
    incumbent: NDArray[np.float64] | None
    categories: tuple[str, ...] | None
    left_out: int

    @classmethod
    def of(cls, data: PageData) -> "_HeldOut":
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
            categories=None if data.categories is None else tuple(str(data.categories[int(row)]) for row in kept),
            left_out=len(sound) - len(kept),
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        return len(np.unique(self.labels))

    @property
    def right(self) -> NDArray[np.bool_]:
        right: NDArray[np.bool_] = (self.polarity >= POSITIVE_FROM) == (self.labels == 1)
        return right


@dataclass(frozen=True)
class _Panel:
    """A plot, or why there is none."""

    title: str
    alt: str
    caption: str
    svg: Markup | None
    instead: str


_NO_PICTURES = "No held-out picture has a finite score."
_ONE_CLASS = "This curve needs both classes; the held-out pictures are all of one."


def _panels(rows: _HeldOut) -> list[_Panel]:
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


def _panel(title: str, alt: str, caption: str, draw: Callable[[], str], *instead: str) -> _Panel:
    return _Panel(title, alt, caption, None if instead else Markup(draw()), "".join(instead))  # noqa: S704 (our own SVG)


@dataclass(frozen=True)
class _Cell:
    count: int
    share: float  # of its row, in percent
    right: bool


def _confusion(rows: _HeldOut) -> list[tuple[str, list[_Cell], int]]:
    """By label, negative first: its name, a cell an answer, its pictures."""
    answers = rows.polarity >= POSITIVE_FROM
    table = []
    for label, name in enumerate(("negative", "positive")):
        mine = rows.labels == label
        counts = [int((mine & (answers == bool(answer))).sum()) for answer in (0, 1)]
        total = max(1, sum(counts))
        cells = [_Cell(count, _percent(count / total), answer == label) for answer, count in enumerate(counts)]
        table.append((name, cells, sum(counts)))
    return table


def _correlations(rows: _HeldOut) -> list[tuple[str, str, int]]:
    groups = {"all pictures": np.ones(len(rows), bool), "labelled negative": rows.labels == 0}
    groups["labelled positive"] = rows.labels == 1
    found = []
    for name, mine in groups.items():
        r = plots.correlation(rows.positive[mine], rows.negative[mine])
        found.append((name, "undefined" if math.isnan(r) else f"{r:+.3f}".replace("-", "−"), int(mine.sum())))
    return found


@dataclass(frozen=True)
class _Slice:
    category: str
    pictures: int
    positives: int
    accuracy: _Number


def _slices(rows: _HeldOut) -> list[_Slice]:
    """The least accurate first."""
    if rows.categories is None:
        return []
    names, slices = np.array(rows.categories, dtype=object), []
    for name in sorted(set(rows.categories)):
        mine = names == name
        right, pictures = int(rows.right[mine].sum()), int(mine.sum())
        low, high = plots.wilson_interval(right, pictures)
        accuracy = _number((right / pictures, float(low), float(high)))
        slices.append(_Slice(_shortened(name), pictures, int(rows.labels[mine].sum()), accuracy))
    return sorted(slices, key=lambda each: (each.accuracy.at, -each.pictures, each.category))


# Pictures -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shown:
    key: str
    label: str
    answer: str
    polarity: _Number
    images: list[tuple[str, str, str]]
    """Name, data URI and alternative text; none where the bytes are no picture."""


def _show(wrong: WrongPicture) -> _Shown:
    words = ("negative", "positive")
    answer = words[wrong.polarity >= POSITIVE_FROM] if math.isfinite(wrong.polarity) else "nothing"
    return _Shown(_shortened(wrong.image_key), words[wrong.label], answer, _number(wrong.polarity), _images(wrong))


def _images(wrong: WrongPicture) -> list[tuple[str, str, str]]:
    try:
        picture = thumbnail(wrong.jpeg)
    except OSError:
        return []
    shown = [("picture", _data_uri(encode_jpeg(picture)), "The picture itself.")]
    maps = (
        ("negative", wrong.attention_negative, NEGATIVE_HEAT),
        ("positive", wrong.attention_positive, POSITIVE_HEAT),
    )
    for name, attention, ramp in maps:
        low, high = float(np.min(attention)), float(np.max(attention))
        overlay = _data_uri(encode_jpeg(lay_over(picture, attention, ramp, seen=wrong.seen)))
        span = f"{low:.3g} to {high:.3g}".replace("-", "−") + (", almost flat" if high - low < FLAT else "")
        alt = f"Where the {name} branch looks, {attention.shape[0]}×{attention.shape[1]} cells, from {span}."
        shown.append((f"{name} {span}", overlay, alt))
    return shown


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
