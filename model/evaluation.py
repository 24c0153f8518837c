"""How good a classifier is on labelled pictures that it never saw. Knows arrays only, no network.

Shapes: B pictures; G groups (products) of pictures; E numbers an embedding. Intervals are 95% intervals of a
bootstrap that draws whole groups: pictures of one product are alike, so that drawing single pictures would
promise more certainty than there is. A measure without meaning (one class only) is None, never NaN.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.calibration import apply_temperature
from model.errors import LabelsUnusable

POSITIVE_FROM = 0.5
"""A picture counts as positive from this P(positive) on."""

CALIBRATION_BINS = 10
BOOTSTRAP = 1000
SMALLEST_CORRELATION = 3  # pictures; through two points goes a line whatever they are
QUERY_BATCH = 256  # similarities in memory: this many times B

Confusion = tuple[tuple[int, int], tuple[int, int]]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Slice:
    """The pictures of one category."""

    pictures: int
    positives: int
    accuracy: float
    low: float | None
    """None where the category is a single group, which tells nothing of another one."""
    high: float | None


@dataclass(frozen=True)
class Recall:
    """Recall at one k."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Retrieval:
    """How often a picture's k nearest neighbours show its own product."""

    queries: int
    """Pictures of products with two pictures or more."""
    recall: Mapping[int, Recall]
    """By k; empty where nothing can be asked."""


@dataclass(frozen=True)
class Correlations:
    """Pearson's correlation of positive with negative intensity (the paper's Figure 6)."""

    overall: float | None
    negative: float | None
    """Over the pictures labelled negative."""
    positive: float | None


@dataclass(frozen=True)
class HeldOut:
    """What a model answered on the held-out pictures: what two models are compared by, picture by picture."""

    labels: NDArray[np.int64]
    polarity: NDArray[np.floating]
    groups: NDArray[Any]
    categories: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        _check_lengths(len(self.labels), polarity=self.polarity, groups=self.groups, categories=self.categories)


@dataclass(frozen=True)
class Evaluation:
    """Measures on held-out pictures. None: without meaning here, or not measured by the release that wrote it."""

    pictures: int
    positives: int
    accuracy: float
    accuracy_low: float
    """2.5th percentile over bootstrap samples of whole groups."""
    accuracy_high: float
    """97.5th percentile."""
    balanced_accuracy: float
    """The mean of the two classes' recalls: 0.5 for any constant answer."""
    majority_share: float
    """The accuracy of always answering the more frequent class."""
    auroc: float
    """The chance that a positive picture scores above a negative one; a tie counts half."""
    brier: float
    """The mean squared error of P(positive)."""
    ece: float
    """Expected calibration error of P(positive) over ten bins of equal width."""
    confusion: Confusion
    """Counts [label][answer], negative first."""
    balanced_accuracy_low: float | None = None
    balanced_accuracy_high: float | None = None
    auroc_low: float | None = None
    auroc_high: float | None = None
    auprc: float | None = None
    """Average precision of finding the positive pictures; the share of positives for a constant answer."""
    temperature: float | None = None
    """Fitted on the validation pictures."""
    ece_calibrated: float | None = None
    """`ece` of P(positive) at that temperature."""
    categories: Mapping[str, Slice] | None = None
    intensities: Correlations | None = None
    retrieval: Retrieval | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, for a manifest."""
        fields = asdict(self) | {"confusion": [list(row) for row in self.confusion]}
        if self.retrieval is not None:
            fields["retrieval"]["recall"] = {str(k): asdict(found) for k, found in self.retrieval.recall.items()}
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Evaluation":
        """The inverse of `to_dict`; fields that an older release did not measure are None.

        Raises:
            TypeError: a key is unknown or missing.
        """
        (tn, fp), (fn, tp) = fields["confusion"]
        read = {name: _READERS[name](fields[name]) for name in _READERS if fields.get(name) is not None}
        return cls(**{**fields, "confusion": ((tn, fp), (fn, tp)), **read})


def _read_categories(fields: Mapping[str, Any]) -> dict[str, Slice]:
    return {category: Slice(**slice_) for category, slice_ in fields.items()}


def _read_correlations(fields: Mapping[str, Any]) -> Correlations:
    return Correlations(**fields)


def _read_retrieval(fields: Mapping[str, Any]) -> Retrieval:
    return Retrieval(fields["queries"], {int(k): Recall(**found) for k, found in fields["recall"].items()})


_READERS: dict[str, Callable[[Mapping[str, Any]], object]] = {
    "categories": _read_categories,
    "intensities": _read_correlations,
    "retrieval": _read_retrieval,
}


def evaluate(
    labels: NDArray[np.int64],
    polarity: NDArray[np.floating],
    groups: NDArray[Any],
    *,
    bootstrap: int = BOOTSTRAP,
    seed: int,
    temperature: float | None = None,
    categories: NDArray[Any] | None = None,
    intensities: NDArray[np.floating] | None = None,
) -> Evaluation:
    """Measures P(positive) against labels. Retrieval is measured apart: `retrieval_recall`.

    Args:
        labels: B of 0 and 1.
        polarity: B of P(positive), before calibration.
        groups: B of any comparable type.
        bootstrap: how many samples the intervals come from. Their width is 0 where every answer is right.
        seed: of the bootstrap.
        temperature: from `fit_temperature` on pictures that are not among these.
        categories: B of names or None; a picture without one is in no slice.
        intensities: B×2, negative and positive.

    Raises:
        LabelsUnusable: one class is not there, so that half the measures have no meaning.
        ValueError: lengths differ, or a polarity is not in [0, 1].
    """
    _check(labels, polarity, groups)
    _check_lengths(len(labels), categories=categories, intensities=intensities)
    answers = answers_of(polarity)
    correct = answers == labels
    positives = int(labels.sum())
    accuracy, balanced, auroc = _intervals(labels, polarity, groups, bootstrap, seed)
    return Evaluation(
        pictures=len(labels),
        positives=positives,
        accuracy=float(correct.mean()),
        accuracy_low=accuracy[0],
        accuracy_high=accuracy[1],
        balanced_accuracy=float((correct[labels == 0].mean() + correct[labels == 1].mean()) / 2),
        majority_share=max(positives, len(labels) - positives) / len(labels),
        auroc=_auroc(labels, polarity),
        brier=float(np.mean((polarity.astype(np.float64) - labels) ** 2)),
        ece=calibration_error(labels, polarity),
        confusion=_confusion(labels, answers),
        balanced_accuracy_low=None if balanced is None else balanced[0],
        balanced_accuracy_high=None if balanced is None else balanced[1],
        auroc_low=None if auroc is None else auroc[0],
        auroc_high=None if auroc is None else auroc[1],
        auprc=_average_precision(labels, polarity),
        temperature=temperature,
        ece_calibrated=None
        if temperature is None
        else calibration_error(labels, apply_temperature(polarity, temperature)),
        categories=None if categories is None else _slices(labels, correct, groups, categories, bootstrap, seed),
        intensities=None if intensities is None else correlate_intensities(intensities, labels),
    )


def answers_of(polarity: NDArray[np.floating]) -> NDArray[np.int64]:
    """B of 0 and 1."""
    return (polarity >= POSITIVE_FROM).astype(np.int64)


def _check(labels: NDArray[np.int64], polarity: NDArray[np.floating], groups: NDArray[Any]) -> None:
    if not len(labels) == len(polarity) == len(groups):
        raise ValueError(
            f"expected one polarity and one group a label ({len(labels)}), found {len(polarity)} and {len(groups)}"
        )
    if not ((polarity >= 0) & (polarity <= 1)).all():
        raise ValueError("expected every polarity in [0, 1], found others")
    found = np.unique(labels).tolist()
    if found != [0, 1]:
        raise LabelsUnusable(f"expected labels 0 and 1 among the pictures to measure on, found {found}")


def _check_lengths(pictures: int, **others: NDArray[Any] | None) -> None:
    for name, values in others.items():
        if values is not None and len(values) != pictures:
            raise ValueError(f"{name}: expected one a label ({pictures}), found {len(values)}")


# The bootstrap --------------------------------------------------------------------------------------------


def group_draws(groups: int, samples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each group is drawn, G numbers a sample: as many draws as groups, with replacement."""
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        yield np.bincount(rng.integers(groups, size=groups), minlength=groups)


def _intervals(
    labels: NDArray[np.int64], polarity: NDArray[np.floating], groups: NDArray[Any], samples: int, seed: int
) -> tuple[Interval, Interval | None, Interval | None]:
    """Of accuracy, balanced accuracy and AUROC, from the same samples. A sample of one class has only the first."""
    _, group = np.unique(groups, return_inverse=True)
    correct = answers_of(polarity) == labels
    _, level = np.unique(polarity, return_inverse=True)
    # [label][right], by group, so that a sample is two products of a vector with a matrix.
    table = np.stack([np.bincount(group, weights=(labels == v) & (correct == r)) for v in (0, 1) for r in (0, 1)])
    measured = []
    for drawn in group_draws(table.shape[1], samples, seed):
        wrong_0, right_0, wrong_1, right_1 = table @ drawn
        negatives, positives = wrong_0 + right_0, wrong_1 + right_1
        accuracy = (right_0 + right_1) / (negatives + positives)
        if not negatives or not positives:
            measured.append((accuracy, np.nan, np.nan))
            continue
        balanced = (right_0 / negatives + right_1 / positives) / 2
        measured.append((accuracy, balanced, _weighted_auroc(labels, level, drawn[group])))
    accuracies, balanced_accuracies, aurocs = np.array(measured).T
    accuracy_interval = middle(accuracies)
    assert accuracy_interval is not None  # noqa: S101 (every sample has an accuracy)
    return accuracy_interval, middle(balanced_accuracies), middle(aurocs)


def middle(values: NDArray[np.float64]) -> Interval | None:
    """The middle 95% of the values that are numbers; None where none is."""
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def _mean_interval(values: NDArray[Any], groups: NDArray[Any], samples: int, seed: int) -> Interval | None:
    """Of the mean of B values; None for a single group."""
    _, group = np.unique(groups, return_inverse=True)
    sizes, sums = np.bincount(group), np.bincount(group, weights=values)
    if len(sizes) == 1:
        return None
    return middle(np.array([sums @ drawn / (sizes @ drawn) for drawn in group_draws(len(sizes), samples, seed)]))


# The measures ---------------------------------------------------------------------------------------------


def _auroc(labels: NDArray[np.int64], polarity: NDArray[np.floating]) -> float:
    _, level = np.unique(polarity, return_inverse=True)
    return _weighted_auroc(labels, level, np.ones(len(labels)))


def _weighted_auroc(labels: NDArray[np.int64], level: NDArray[np.int64], weights: NDArray[Any]) -> float:
    """`level` is the polarity's rank, equal for ties."""
    positives = np.bincount(level, weights=weights * labels)
    negatives = np.bincount(level, weights=weights * (1 - labels))
    below = np.cumsum(negatives) - negatives
    return float(positives @ (below + negatives / 2) / (positives.sum() * negatives.sum()))


def _average_precision(labels: NDArray[np.int64], polarity: NDArray[np.floating]) -> float:
    """Σ over thresholds of precision · growth in recall; ties share one threshold."""
    _, level = np.unique(-polarity, return_inverse=True)
    found = np.bincount(level, weights=labels)
    precision = np.cumsum(found) / np.cumsum(np.bincount(level))
    return float(precision @ found / found.sum())


def calibration_error(labels: NDArray[np.int64], polarity: NDArray[np.floating]) -> float:
    """Σ over bins of |mean polarity − share of positives|, each weighted by its share of the pictures."""
    bins = np.minimum((polarity * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=polarity.astype(np.float64) - labels, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def _confusion(labels: NDArray[np.int64], answers: NDArray[np.int64]) -> Confusion:
    tn, fp, fn, tp = np.bincount(2 * labels + answers, minlength=4).tolist()
    return ((tn, fp), (fn, tp))


def _slices(
    labels: NDArray[np.int64],
    correct: NDArray[np.bool_],
    groups: NDArray[Any],
    categories: NDArray[Any],
    samples: int,
    seed: int,
) -> dict[str, Slice]:
    names = sorted({category for category in categories.tolist() if category is not None})
    slices = {}
    for name in names:
        inside = categories == name
        interval = _mean_interval(correct[inside], groups[inside], samples, seed)
        low, high = (None, None) if interval is None else interval
        counted = int(inside.sum()), int(labels[inside].sum())
        slices[str(name)] = Slice(*counted, float(correct[inside].mean()), low, high)
    return slices


def correlate_intensities(intensities: NDArray[np.floating], labels: NDArray[np.int64]) -> Correlations:
    """Correlations of B×2 intensities, None where a class has fewer than three pictures or no spread."""
    return Correlations(
        overall=_correlation(intensities),
        negative=_correlation(intensities[labels == 0]),
        positive=_correlation(intensities[labels == 1]),
    )


def _correlation(pairs: NDArray[np.floating]) -> float | None:
    centred = pairs.astype(np.float64) - pairs.mean(axis=0, dtype=np.float64) if len(pairs) else pairs
    spread = np.sqrt((centred**2).sum(axis=0))
    # A constant's spread is its rounding, not 0.
    if len(pairs) < SMALLEST_CORRELATION or (spread <= 1e-7 * np.abs(pairs).max()).any():
        return None
    return float(np.clip((centred[:, 0] / spread[0]) @ (centred[:, 1] / spread[1]), -1, 1))


def retrieval_recall(
    embeddings: NDArray[np.floating],
    groups: NDArray[Any],
    ks: Sequence[int] = (1, 5),
    *,
    bootstrap: int = BOOTSTRAP,
    seed: int = 0,
) -> Retrieval:
    """The share of queries that find a picture of their group among their k nearest by cosine.

    Every picture of a group of two or more is a query against all the others. A picture of another group that
    is exactly as near counts as nearer: embeddings that are all alike must not score.

    Args:
        embeddings: N×E of any length.
        groups: N.
        ks: how many neighbours.
        bootstrap: samples of whole groups for the intervals.
        seed: of the bootstrap.

    Raises:
        ValueError: lengths differ, an embedding is not finite, or a k is below 1.
    """
    if len(embeddings) != len(groups) or min(ks) < 1:
        raise ValueError(
            f"expected a group an embedding and every k from 1, found {len(embeddings)}, {len(groups)}, {ks}"
        )
    if not np.isfinite(embeddings).all():
        raise ValueError("expected finite embeddings, found others")
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    queries = np.flatnonzero(sizes[group] > 1)
    if not len(queries):
        return Retrieval(0, {})
    ahead = _wrong_ahead(embeddings.astype(np.float32), group, queries)
    recall = {}
    for k in ks:
        hit = ahead < k
        interval = _mean_interval(hit, group[queries], bootstrap, seed)
        low, high = (None, None) if interval is None else interval
        recall[k] = Recall(float(hit.mean()), low, high)
    return Retrieval(len(queries), recall)


def _wrong_ahead(
    embeddings: NDArray[np.float32], group: NDArray[np.int64], queries: NDArray[np.int64]
) -> NDArray[np.int64]:
    """How many pictures of other groups are at least as near to each query as the nearest one of its own."""
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    counts = []
    for start in range(0, len(queries), QUERY_BATCH):
        batch = queries[start : start + QUERY_BATCH]
        near = unit[batch] @ unit.T
        same = group[batch, None] == group[None]
        own = same.copy()
        own[np.arange(len(batch)), batch] = False
        best = np.where(own, near, -np.inf).max(axis=1, keepdims=True)
        counts.append(((near >= best) & ~same).sum(axis=1))
    return np.concatenate(counts)
