"""The paper's Tables 3 and 4 with ours beside them, as Markdown."""

from __future__ import annotations

from benchmarks._search_data import MethodResult
from index.spec import Metric

PAPER_3 = {100_000: (13.6, 1.3), 200_000: (25.1, 1.5), 500_000: (73.5, 1.9), 1_000_000: (125.8, 2.7)}
PAPER_4 = {
    ("euclidean", "exhaustive"): (2.36, 92.68),
    ("euclidean", "PQ"): (0.12, 89.27),
    ("euclidean", "coarse + PQ"): (0.74, 90.63),
    ("cosine", "exhaustive"): (2.96, 97.48),
    ("cosine", "PQ"): (0.15, 90.52),
    ("cosine", "coarse + PQ"): (0.13, 96.74),
}


def print_table_3(results: dict[int, list[MethodResult]]) -> None:
    """Time of one search against the number of vectors."""
    print("\nTable 3, cosine: milliseconds a search, one thread\n")
    print("| vectors | exhaustive | PQ alone | PQ, re-ranked | ours | times faster | batched: exhaustive | ours "
          "| times faster | recall@1 | recall@10 | bytes a vector | build, s | the paper: exhaustive | ours "
          "| times faster |")  # fmt: skip
    print("|--:" * 16 + "|")
    for count, rows in results.items():
        named = {row.method: row for row in rows}
        base, ours = named["exhaustive"], named["coarse + PQ"]
        codes, ranked = (f"{named[name].single_ms:.2f}" if name in named else "–" for name in ("PQ", "PQ, re-ranked"))
        paper = PAPER_3.get(count)
        published = (f"{paper[0]}", f"{paper[1]}", f"{paper[0] / paper[1]:.0f}") if paper else ("–",) * 3
        cells = [
            f"{count:,}".replace(",", " "), f"{base.single_ms:.1f}", codes, ranked, f"{ours.single_ms:.3f}",
            f"**{base.single_ms / ours.single_ms:.0f}**", f"{base.batched_ms:.2f}", f"{ours.batched_ms:.3f}",
            f"**{base.batched_ms / ours.batched_ms:.0f}**", f"{ours.recall_at_1:.3f}", f"{ours.recall_at_10:.3f}",
            f"{ours.bytes_per_vector:.0f}", f"{ours.build_s:.0f}", *published,
        ]  # fmt: skip
        print("| " + " | ".join(cells) + " |")


def print_table_4(count: int, metric: Metric, rows: list[MethodResult]) -> None:
    """Each method: time, what it finds, what it costs."""
    print(f"\nTable 4, {metric}, {count:,} vectors\n".replace(",", " ", 0))
    print("| method | ms a search | batched | recall@1 | recall@10 | accuracy | bytes a vector | build, s | setting "
          "| the paper: time | accuracy |")  # fmt: skip
    print("|---" + "|--:" * 7 + "|---" + "|--:" * 2 + "|")
    for row in rows:
        published = PAPER_4.get((metric, row.method), ("–", "–"))
        cells = [
            row.method, f"{row.single_ms:.3f}", f"{row.batched_ms:.3f}", f"{row.recall_at_1:.3f}",
            f"{row.recall_at_10:.3f}", f"{100 * row.accuracy:.1f} %", f"{row.bytes_per_vector:.0f}",
            f"{row.build_s:.0f}", row.setting, f"{published[0]}", f"{published[1]}",
        ]  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)
