"""What the page shows is what it was given; it asks no network for anything; odd data give a good page."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from model.baselines import Baseline
from model.evaluation import evaluate
from model.gate import Check, Decision
from pages.evaluation import PAGE_BYTES, WORST_SHOWN, render_page
from pages.evaluation_data import PageData, WrongPicture, most_wrong
from pages.measures import measures_of
from pages.overlays import LONGEST_SIDE, NEGATIVE_HEAT, POSITIVE_HEAT, lay_over, thumbnail

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Collects what a reader sees, and checks that every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html = html
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"{tag} closed out of order"

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def row(self, name: str) -> list[str]:
        """The cells of the row whose heading starts with `name`."""
        return next([" ".join(cell.split()) for cell in row] for row in self.rows if row and row[0].startswith(name))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def jpeg(width: int = 96, height: int = 96, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def wrong(key: str = "mug/mug-001/0.jpg", **changes: Any) -> WrongPicture:
    attention = np.zeros((4, 4), np.float32)
    attention[0, 3] = 1.5
    picture = WrongPicture(key, 1, 0.0321, jpeg(), attention, -attention)
    return dataclasses.replace(picture, **changes)


def data(count: int = 300, seed: int = 0, **changes: Any) -> PageData:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    polarity = 1 / (1 + np.exp(-rng.normal(2.4 * labels - 1.2, 1.5)))
    page = PageData(
        title="Retraining on labels.csv",
        model_version=7,
        decision=Decision((Check(True, "accuracy: expected at least 0.600 (the floor), found 0.812"),)),
        candidate={"pictures": 1234, "accuracy": (0.8124, 0.7711, 0.8502), "auroc": 0.9017, "ece": 0.0456},
        incumbent={"pictures": 1234, "accuracy": (0.7901, 0.7502, 0.8303), "auroc": 0.9112, "ece": 0.0999},
        labels=labels,
        polarity=polarity.astype(np.float32),
        positive_intensity=polarity,
        negative_intensity=np.clip(1 - polarity + rng.normal(0, 0.1, count), 0, 1),
        categories=[f"kind {number % 3}" for number in range(count)],
        worst=(wrong(),),
        training={"epochs": 12, "rates": {"head": 1e-3}, "frozen": False, "ema": None},
        label_facts={"labelled": 4321},
    )
    return dataclasses.replace(page, **changes)


@pytest.fixture(scope="module")
def html() -> str:
    return render_page(data())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_measures_shown_are_those_given_beside_the_incumbents(page: Page) -> None:
    assert page.row("Accuracy")[1:] == [
        "0.812", "0.771 to 0.850", "", "0.790", "0.750 to 0.830", "+0.022 better",
    ]  # fmt: skip
    assert page.row("AUROC")[-1] == "−0.010 worse"
    assert page.row("Calibration error")[-1] == "−0.054 better"
    assert page.row("Held-out pictures")[1:5] == ["1,234", "", "", "1,234"]
    exact = [attributes["value"] for attributes in page.all("data")]
    assert {"0.8124", "0.7901", "0.9017", "0.0999"} <= set(exact)


def test_interval_bars_stand_where_the_numbers_say(page: Page) -> None:
    styles = {attributes.get("style") for attributes in page.all("span")}
    assert {"left:77.11%;width:7.91%", "left:81.24%", "left:79.01%"} <= styles


def test_a_refusal_states_every_reason(page: Page) -> None:
    reasons = ("accuracy: expected at least 0.7 (the floor), found 0.6", "auroc: expected < 1 & > 0, found 2")
    decision = Decision(tuple(Check(False, reason) for reason in reasons))
    drawn = Page(render_page(data(decision=decision, worst=())))
    assert "✗ Refused" in drawn.text and "✓ Promoted" in page.text
    assert "accuracy : expected at least 0.7 (the floor), found 0.6" in drawn.text
    assert "expected < 1 & > 0, found 2" in drawn.text
    assert [a["aria-label"] for a in drawn.all("span") if "aria-label" in a] == ["failed", "failed"]


def test_a_forced_promotion_says_so_and_keeps_its_failed_checks() -> None:
    failed = Check(False, "accuracy: expected 1, found 0")
    decision = Decision((failed,), forced="the boss <said> so")
    drawn = Page(render_page(data(10, decision=decision, worst=())))
    assert "By force: the boss <said> so" in drawn.text and "✓ Promoted" in drawn.text
    assert "accuracy : expected 1, found 0" in drawn.text
    ordinary = Page(render_page(data(10, decision=Decision((Check(True, "a: expected 1, found 1"),)), worst=())))
    assert "By force" not in ordinary.text


def test_the_confusion_matrix_counts_the_rows_given(page: Page) -> None:
    given = data()
    answers = np.asarray(given.polarity) >= 0.5
    for label, name in enumerate(("negative", "positive")):
        counts = [int(((given.labels == label) & (answers == bool(answer))).sum()) for answer in (0, 1)]
        shares = [f"{count} {100 * count / sum(counts):.1f} %" for count in counts]
        cells = next(row for row in page.rows if row[0].startswith(name))
        assert [re.sub(r"(?<=\d)(?=\d+\.\d %$)", "", cell) for cell in cells[1:]] == [
            s.replace(" ", "", 1) for s in shares
        ]


def test_slices_are_the_accuracies_of_their_rows_the_worst_first(page: Page) -> None:
    given = data()
    right = (np.asarray(given.polarity) >= 0.5) == (given.labels == 1)
    accuracies = {f"kind {kind}": float(right[np.arange(300) % 3 == kind].mean()) for kind in range(3)}
    rows = [row for row in page.rows if row[0].startswith("kind ")]
    assert [row[0] for row in rows] == sorted(accuracies, key=lambda kind: accuracies[kind])
    for row in rows:
        assert row[1] == "100" and row[3].strip() == f"{accuracies[row[0]]:.3f}"


def test_a_picture_without_a_category_is_in_no_slice() -> None:
    given = data(categories=[f"kind {number % 3}" if number % 3 else None for number in range(300)])
    drawn = Page(render_page(given))
    assert "None" not in drawn.text
    assert sorted(row[:2] for row in drawn.rows if row[0].startswith("kind ")) == [["kind 1", "100"], ["kind 2", "100"]]


def test_correlations_are_stated_overall_and_by_label(page: Page) -> None:
    given = data()
    for name, mine in (("all pictures", given.labels >= 0), ("labelled negative", given.labels == 0)):
        r = np.corrcoef(np.asarray(given.positive_intensity)[mine], np.asarray(given.negative_intensity)[mine])[0, 1]
        assert f"{name} {r:+.3f}".replace("-", "−") + f" (n = {mine.sum()})" in page.text


def test_facts_are_flattened_and_shown(page: Page) -> None:
    for words in ("epochs 12", "rates: head 0.001", "frozen no", "ema none", "labelled 4,321"):
        assert words in page.text


HOSTILE = "<script>alert(1)</script>\"'><img src=http://evil/x>&amp;\u202egnp.jpg"


def test_whatever_users_wrote_is_text() -> None:
    decision = Decision((Check(False, f"{HOSTILE}: {HOSTILE}"),), HOSTILE)
    given = data(
        6, title=HOSTILE, decision=decision, categories=[HOSTILE] * 6, worst=(wrong(HOSTILE),),
        candidate={HOSTILE: 0.5}, incumbent=None, training={HOSTILE: HOSTILE}, label_facts={"file": HOSTILE},
    )  # fmt: skip
    drawn = Page(render_page(given))
    assert not drawn.all("script")
    assert all((attributes["src"] or "").startswith("data:") for attributes in drawn.all("img"))
    assert drawn.text.count("alert(1)") >= 7


def test_keys_that_no_document_may_hold_are_replaced() -> None:
    page = render_page(data(6, worst=(wrong("half \ud800 and nul \0.jpg"),)))
    page.encode("utf-8")
    assert "half ? and nul \N{REPLACEMENT CHARACTER}.jpg" in page


def test_the_page_asks_no_network_for_anything(html: str) -> None:
    addresses = set(re.findall(r"https?://[^\"' ]*", html))
    assert addresses == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"@import|<script|<link|url\((?!#)", html)
    for _, attributes in Page(html).tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#")[:5].startswith(("#", "data:"))


def test_ids_are_unique_and_what_refers_to_them_exists(html: str) -> None:
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', html)) <= set(ids)


def test_every_plot_is_sound_xml_with_words_as_text_and_an_alternative(html: str, page: Page) -> None:
    drawn = [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]  # noqa: S314 (our own)
    words = [{"".join(text.itertext()) for text in svg.iter("{http://www.w3.org/2000/svg}text")} for svg in drawn]
    labels = ("negatives called positive (share)", "positives found (recall)", "P(positive), ten bins", "P(positive)")
    assert len(drawn) == 5
    assert all(label in texts for label, texts in zip((*labels, "positive intensity"), words, strict=True))
    alts = [attributes.get("aria-label") for attributes in page.all("div") if attributes.get("role") == "img"]
    assert len(alts) == 5 and all(alts)
    assert all(attributes.get("alt") for attributes in page.all("img"))


def test_areas_in_the_legends_are_scikit_learns(html: str) -> None:
    given = data()
    assert f"candidate, {roc_auc_score(given.labels, given.polarity):.3f}" in html
    assert f"candidate, {average_precision_score(given.labels, given.polarity):.3f}" in html


def test_the_same_data_give_the_same_bytes_in_any_thread(html: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(lambda _: render_page(data()), range(3))) == {html}


# Edges --------------------------------------------------------------------------------------------------


def test_five_pictures_make_a_page() -> None:
    drawn = Page(render_page(data(5, labels=np.array([0, 1, 0, 1, 1]))))
    assert len(drawn.all("svg")) == 5


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_curves_but_all_the_rest(label: int) -> None:
    drawn = Page(render_page(data(8, labels=np.full(8, label), incumbent=None)))
    assert len(drawn.all("svg")) == 3
    assert drawn.text.count("needs both classes") == 2
    assert "undefined (n = 0)" in drawn.text
    assert "no trained incumbent" in drawn.text


def test_rows_that_are_not_numbers_are_counted_and_left_out() -> None:
    given = data(40, candidate={"accuracy": float("nan"), "auroc": None, "ece": (float("nan"),) * 3})
    polarity = np.array(given.polarity)
    polarity[:3] = np.nan
    drawn = Page(render_page(dataclasses.replace(given, polarity=polarity, worst=(wrong(polarity=float("nan")),))))
    assert "3 of 40 held-out pictures have a score that is not a number" in drawn.text
    assert drawn.row("Accuracy")[1] == drawn.row("AUROC")[1] == "not measured"
    assert "answered nothing" in drawn.text
    assert not re.search(r"\bnan\b", drawn.html, re.IGNORECASE)


def test_nothing_at_all_is_still_a_page() -> None:
    none = np.empty(0)
    given = data(0, labels=none.astype(np.int64), polarity=none, positive_intensity=none, negative_intensity=none,
                 categories=[], worst=(), candidate={}, incumbent={}, training={}, label_facts={},
                 decision=Decision(()))  # fmt: skip
    drawn = Page(render_page(given))
    assert drawn.text.count("No held-out picture has a finite score") == 5
    assert "No held-out picture was answered wrongly" in drawn.text


def test_a_thousand_categories_and_every_picture_wrong_stay_readable() -> None:
    worst = tuple(wrong(f"{number}.jpg") for number in range(WORST_SHOWN + 5))
    drawn = Page(render_page(data(1000, categories=[f"c{n}" for n in range(1000)], worst=worst)))
    assert "40 of 1000 categories" in drawn.text
    assert len(drawn.all("article")) == WORST_SHOWN
    assert f"The worst {WORST_SHOWN} of {WORST_SHOWN + 5}" in drawn.text


def test_the_largest_page_stays_within_its_bound() -> None:
    noise = tuple(wrong("k" * 5000, jpeg=jpeg(900, 300, seed)) for seed in range(WORST_SHOWN))
    page = render_page(data(5000, categories=[f"{n}" * 200 for n in range(5000)], worst=noise))
    assert len(page.encode()) < PAGE_BYTES
    assert len(re.findall(r"<use", page)) < 400  # the points are pixels


def test_columns_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"polarity: expected one a label \(300\), found 2"):
        data(polarity=np.zeros(2))


# Pictures -----------------------------------------------------------------------------------------------


def luminance(picture: Image.Image) -> NDArray[np.float64]:
    return np.asarray(picture.convert("L"), np.float64)


@pytest.mark.parametrize("ramp", [NEGATIVE_HEAT, POSITIVE_HEAT])
@pytest.mark.parametrize("cell", [(0, 0), (1, 3), (3, 2)])
@pytest.mark.parametrize("grey", [0, 110, 255])
def test_the_overlay_is_brightest_where_the_map_peaks(
    ramp: tuple[tuple[int, int, int], ...], cell: tuple[int, int], grey: int
) -> None:
    attention = np.full((4, 4), -2.0)
    attention[cell] = 3.0
    bright = luminance(lay_over(Image.new("RGB", (80, 40), (grey, grey, grey)), attention, ramp))
    means = bright.reshape(4, 10, 4, 20).mean(axis=(1, 3))
    assert means[cell] == means.max()
    assert means[cell] > 1.2 * np.median(means)


@pytest.mark.parametrize("ramp", [NEGATIVE_HEAT, POSITIVE_HEAT])
@pytest.mark.parametrize("grey", [0, 110, 255])
def test_more_attention_is_never_darker(ramp: tuple[tuple[int, int, int], ...], grey: int) -> None:
    bright = luminance(lay_over(Image.new("RGB", (300, 4), (grey, grey, grey)), np.arange(5.0)[None], ramp))
    assert (np.diff(bright[0]) >= 0).all() and bright[0, -1] > bright[0, 0] + 80


def test_a_flat_map_lays_no_heat() -> None:
    picture = Image.new("RGB", (20, 20), (200, 100, 50))
    for attention in (np.full((2, 2), 7.0), np.full((2, 2), np.nan)):
        laid = np.asarray(lay_over(picture, attention, NEGATIVE_HEAT))
        assert (laid == laid[0, 0, 0]).all()


def test_each_wrong_picture_carries_its_three_images(page: Page) -> None:
    sources = [attributes["src"] or "" for attributes in page.all("img")]
    images = [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in sources]
    assert [image.size for image in images] == [(96, 96)] * 3
    negative, positive = (luminance(image) for image in images[1:])
    assert negative[:24, 72:].mean() > negative[60:, :36].mean() + 40
    assert positive[:24, 72:].mean() < positive[60:, :36].mean() - 40
    assert "P(positive) = 0.032" in page.text and "mug/mug-001/0.jpg" in page.text


def test_thumbnails_are_small_and_never_enlarged() -> None:
    assert thumbnail(jpeg(30, 20)).size == (30, 20)
    assert thumbnail(jpeg(800, 600)).size == (267, 200)
    assert max(thumbnail(jpeg(1500, 40)).size) == LONGEST_SIDE


def test_a_picture_that_cannot_be_read_is_a_note_not_an_error() -> None:
    drawn = Page(render_page(data(6, worst=(wrong(jpeg=b"no picture"), wrong(jpeg=jpeg()[:60])))))
    assert drawn.text.count("could not be read") == 2


# Helpers for callers ------------------------------------------------------------------------------------


def test_an_evaluations_plain_fields_become_measures() -> None:
    fields = {"pictures": 9, "accuracy": 0.8, "accuracy_low": 0.7, "accuracy_high": 0.9, "auroc": [0.5, 0.4, 0.6],
              "ece": None, "confusion": [[1, 2], [3, 4]], "slices": {"mug": 1.0}, "trained": True}  # fmt: skip
    assert measures_of(fields) == {"pictures": 9, "accuracy": (0.8, 0.7, 0.9), "auroc": [0.5, 0.4, 0.6], "ece": None}


def test_the_most_confident_mistakes_come_first() -> None:
    labels = np.array([1, 0, 1, 0, 1, 0])
    polarity = np.array([0.9, 0.99, 0.3, 0.1, np.nan, 0.5])
    assert most_wrong(labels, polarity).tolist() == [1, 2, 5, 4]
    assert most_wrong(labels, polarity, 1).tolist() == [1]


def baseline(name: str, accuracy: float, gain: float, interval: tuple[float, float] | None) -> Baseline:
    labels = np.arange(60) % 2
    answers = np.where(np.arange(60) < 60 * accuracy, labels, 1 - labels).astype(np.float64)
    return Baseline(name, evaluate(labels, answers, np.arange(60) // 2, bootstrap=50, seed=0), gain, interval)


def test_the_candidate_stands_beside_what_is_simple() -> None:
    told = baseline("a logistic regression on the trunk", 0.8, -0.02, (-0.06, 0.03))
    page = Page(render_page(data(baselines=(baseline("the majority class", 0.5, 0.3, (0.2, 0.4)), told))))
    assert page.row("This network")[1:3] == ["0.812", "0.771 to 0.850"]
    assert page.row("The majority class")[-2:] == ["+0.300", "+0.200 to +0.400"]
    assert page.row("A logistic regression on the trunk")[-2:] == ["−0.020", "−0.060 to +0.030"]
    assert "does not beat a logistic regression on the trunk: balanced accuracy −0.020" in page.text
    assert "does not beat the majority" not in page.text


def test_without_baselines_there_is_no_table_of_them(page: Page) -> None:
    assert "Beside what is simple" not in page.text
