"""What a sceptic would try first: an answer that needs no network of ours, for each measure that we report.

Knows arrays only. Shapes: B labelled pictures, H of them held out; C channels of a trunk; N pictures of a catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bootstrap import Interval, balanced_gain
from model.evaluation import Evaluation, answers_of, evaluate
from model.retrieval import Search, search_by
from model.split import Split

Floats = NDArray[np.floating]

HUES, SATURATIONS, VALUES = 16, 4, 4
GREY_SIDE, FREQUENCIES = 32, 8
BITS_BYTES = FREQUENCIES**2 // 8
NOISE = 2.0  # weaker frequencies are a JPEG's noise
STRIDE = 2  # every second pixel of a row and of a column
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of the logistic regression
FOLDS = 3
MOST_TRAINING = 20_000  # pictures that a baseline is fitted to
BOOTSTRAP = 1000


@dataclass(frozen=True)
class Baseline:
    """A simple answer on the held-out pictures, and how far the network is above it."""

    name: str
    evaluation: Evaluation
    gain: float
    """The network's balanced accuracy less this one's."""
    gain_interval: Interval | None
    """Paired, over samples of whole groups; None where no sample had both classes."""

    @property
    def beaten(self) -> bool:
        """The network is better by more than chance gives."""
        return self.gain_interval is not None and self.gain_interval[0] > 0

    @property
    def words(self) -> str | None:
        """What a reader has to be told; None where the network is better."""
        if self.beaten:
            return None
        ends = self.gain_interval or ()
        within = f" ({' to '.join(_signed(end) for end in ends)})" if ends else ""
        return f"The network does not beat {self.name}: balanced accuracy {_signed(self.gain)}{within}."

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, for a manifest."""
        measures = asdict(self.evaluation)
        kept = {name: measures[name] for name in measures if name.startswith(("accuracy", "balanced_", "auroc"))}
        interval = None if self.gain_interval is None else list(self.gain_interval)
        return {"name": self.name, **kept, "gain": self.gain, "gain_interval": interval}


def polarity_baselines(
    labels: NDArray[np.int64],
    groups: NDArray[Any],
    sides: Split,
    polarity: Floats,
    features: Mapping[str, Floats],
    *,
    bootstrap: int = BOOTSTRAP,
    seed: int = 0,
) -> tuple[Baseline, ...]:
    """The majority class, and a logistic regression on each kind of features; fitted to the training side only.

    Args:
        labels: B of 0 and 1.
        groups: B.
        sides: which of the B train and which are held out.
        polarity: H, what the network answers on the held-out side, in its order.
        features: by the words that name them after "a logistic regression on", B×n each: the trunk's pooled maps, a
            colour histogram.
        bootstrap: samples of whole groups for the intervals.
        seed: of the bootstrap, and of the draw where more than 20 000 pictures train.

    Raises:
        LabelsUnusable: the held-out side lacks a class.
        ValueError: lengths differ.
    """
    train = sides.train
    if len(train) > MOST_TRAINING:
        train = np.sort(np.random.default_rng(seed).choice(train, MOST_TRAINING, replace=False))
    majority = np.full(len(sides.held_out), float(labels[sides.train].mean() >= 0.5))
    answers = {"the more frequent class of the training side": majority}
    for name, values in features.items():
        if len(values) != len(labels):
            raise ValueError(f"{name}: expected one a label ({len(labels)}), found {len(values)}")
        fitted = _logistic_regression(values[train], labels[train], groups[train])
        answers[f"a logistic regression on {name}"] = fitted.predict_proba(values[sides.held_out])[:, 1]
    truth, held_out = labels[sides.held_out], groups[sides.held_out]
    return tuple(
        _baseline(name, truth, held_out, answer, polarity, bootstrap, seed) for name, answer in answers.items()
    )


def _signed(number: float) -> str:
    return f"{number:+.3f}".replace("-", "−")


def _baseline(
    name: str,
    labels: NDArray[np.int64],
    groups: NDArray[Any],
    answer: Floats,
    polarity: Floats,
    bootstrap: int,
    seed: int,
) -> Baseline:
    evaluation = evaluate(labels, answer, groups, bootstrap=bootstrap, seed=seed)
    right, theirs = (answers_of(values) == labels for values in (polarity, answer))
    gain = right.astype(np.int64) - theirs
    return Baseline(name, evaluation, *balanced_gain(gain, labels, groups, bootstrap, seed))


def _logistic_regression(features: Floats, labels: NDArray[np.int64], groups: NDArray[Any]) -> Any:
    """Standardised; C is chosen by cross-validation in which no group is on both sides."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = min(FOLDS, *(len(np.unique(groups[labels == value])) for value in (0, 1)))
    if folds < 2:
        return model.set_params(logisticregression__C=PENALTIES[0]).fit(features, labels)
    splits = list(StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(features, labels, groups))
    both = [(fit, test) for fit, test in splits if min(len(set(labels[fit])), len(set(labels[test]))) == 2]
    if not both:
        return model.set_params(logisticregression__C=PENALTIES[0]).fit(features, labels)
    choice = GridSearchCV(model, {"logisticregression__C": PENALTIES}, scoring="neg_log_loss", cv=both)
    return choice.fit(features, labels)


def colour_histograms(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Uint8 B×3×S×S → B×256: the roots of the shares of 16 hues × 4 saturations × 4 values over the whole frame."""
    return np.stack([_colour_histogram(picture[:, ::STRIDE, ::STRIDE].reshape(3, -1)) for picture in pixels])


def _colour_histogram(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    red, green, blue = channels = rgb.astype(np.float32) / 255
    value, spread = channels.max(axis=0), np.ptp(channels, axis=0)
    safe = np.maximum(spread, 1e-6)
    sixth = np.select(
        [value == red, value == green], [(green - blue) / safe % 6, (blue - red) / safe + 2], (red - green) / safe + 4
    )
    saturation = spread / np.maximum(value, 1e-6)
    places = [_bin(sixth / 6, HUES), _bin(saturation, SATURATIONS), _bin(value, VALUES)]
    index = np.ravel_multi_index(places, (HUES, SATURATIONS, VALUES))
    counts = np.bincount(index, minlength=HUES * SATURATIONS * VALUES)
    return np.sqrt(counts / len(index)).astype(np.float32)


def _bin(values: NDArray[np.floating], bins: int) -> NDArray[np.int64]:
    return np.minimum((values * bins).astype(np.int64), bins - 1)


def plain_hash(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Of a picture, H×W×3, what pHash keeps: 64 bits of the grey picture's lowest frequencies, and 8×8 colours."""
    from PIL import Image

    picture = Image.fromarray(rgb)
    grey = picture.convert("L").resize((GREY_SIDE, GREY_SIDE), Image.Resampling.BOX)
    k, x = np.arange(FREQUENCIES)[:, None], np.arange(GREY_SIDE)[None]
    waves = np.cos(np.pi * (2 * x + 1) * k / (2 * GREY_SIDE)) * np.sqrt(2 / GREY_SIDE)
    waves[0] /= np.sqrt(2)
    strengths = (waves @ np.asarray(grey, dtype=np.float64) @ waves.T).ravel()
    strengths[np.abs(strengths) < NOISE] = 0
    bits = strengths > np.median(strengths[1:])
    bits[0] = False  # the mean brightness
    colours = picture.resize((FREQUENCIES, FREQUENCIES), Image.Resampling.BOX)
    return np.concatenate([np.packbits(bits), np.asarray(colours, dtype=np.uint8).ravel()])


def hash_search(hashes: NDArray[np.uint8]) -> Search:
    """Search by `plain_hash`, N×200: fewest differing bits, then nearest colours."""
    bits = np.ascontiguousarray(hashes[:, :BITS_BYTES]).view(np.uint64).ravel()
    thumbnails = hashes[:, BITS_BYTES:].astype(np.float32) / 255
    squares = (thumbnails**2).sum(axis=1)

    def similarity(queries: NDArray[np.int64]) -> NDArray[np.float64]:
        differing = np.bitwise_count(bits[queries, None] ^ bits[None]).astype(np.float64)
        apart = squares[queries, None] + squares[None] - 2 * thumbnails[queries] @ thumbnails.T
        return np.asarray(-differing - apart / (thumbnails.shape[1] + 1))

    return search_by(similarity)
