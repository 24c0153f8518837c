"""The evaluation of a candidate as one HTML document that needs nothing else: no network, no script, no files.

Knows arrays, bytes and words; no lake, no network of neurons.
"""

from __future__ import annotations

from pathlib import Path

from pages.answers import HeldOutRows, confusion, correlations, panels, slices
from pages.baselines import baseline_rows
from pages.evaluation_data import PageData
from pages.html import facts, fill_in
from pages.measures import headlines, measure_rows
from pages.wrong_pictures import show

WORST_SHOWN = 12
SLICES_SHOWN = 40
PAGE_BYTES = 2 << 20
"""No page is larger, however many pictures were held out."""

TEMPLATE = Path(__file__).with_suffix(".html")


def render_page(data: PageData) -> str:
    """The document; the same data give the same text."""
    held_out = HeldOutRows.of(data)
    categories = slices(held_out)
    return fill_in(
        TEMPLATE,
        data=data,
        held_out=held_out,
        tiles=headlines(data.candidate, data.incumbent),
        measures=measure_rows(data.candidate, data.incumbent),
        baselines=baseline_rows(data.candidate, data.baselines),
        not_beaten=[baseline.words for baseline in data.baselines if baseline.words],
        panels=panels(held_out),
        confusion=confusion(held_out),
        correlations=correlations(held_out),
        worst=[show(picture) for picture in data.worst[:WORST_SHOWN]],
        slices=categories[:SLICES_SHOWN],
        slices_in_all=len(categories),
        facts=[("Training", facts(data.training)), ("Labels", facts(data.label_facts))],
    )
