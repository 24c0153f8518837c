"""What each command tells a person when it is done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vitrine.cli.printing import cell, console, print_fields, print_rows

if TYPE_CHECKING:
    from lake.rollback import RolledBack
    from tasks.ingest.stage import IngestSummary
    from tasks.night import NightSummary
    from tasks.rebuild.stage import IndexSummary
    from tasks.retrain.stage import RetrainSummary
    from tasks.score.stage import ScoreSummary
    from tasks.search.near_duplicates import NearDuplicatesReport
    from tasks.search.queries import SearchAnswer
    from tasks.timing import StageTime
    from vitrine.demo.run import Demo

NEIGHBOUR_COLUMNS = ("image_key", "similarity", "polarity", "label")
POLARITY_COLUMNS = ("image_key", "polarity", "positive_intensity", "negative_intensity")
LEAST_SHARE = 0.05  # of a night; `stage_times` in `runs` keeps the others


def print_ingest(found: IngestSummary) -> None:
    """The pictures of one listing."""
    parts = [f"{found.unchanged} unchanged", f"{found.ingested} ingested", f"{found.rejected} rejected"]
    parts += [f"{found.failed} not fetched (tried again next time)"] if found.failed else []
    console.print(f"ingest  {found.listed} pictures listed: {', '.join(parts)}; {found.deleted} deleted")
    if found.skipped:
        console.print(f"        {found.skipped} objects passed over: no pictures by their name")


def print_score(found: ScoreSummary) -> None:
    """The contents that a model scored."""
    console.print(f"score   {found}")
    if found.pictures_per_second is not None:
        busy = ", ".join(f"{spent.name} {spent.busy_s:.1f} s" for spent in found.times)
        console.print(f"        {found.pictures_per_second:.1f} pictures/s in {found.arithmetic}: {busy}")


def print_index(found: IndexSummary) -> None:
    """The index that readers use."""
    if found.index_version is None:
        console.print("index   no pictures, no index")
    elif not found.is_new:
        console.print(f"index   version {found.index_version} serves on: nothing changed")
    else:
        measured = ""
        if found.recall_at_10 is not None:
            measured = f", recall@10 {found.recall_at_10:.3f}, {found.latency_ms:.2f} ms a search"
        console.print(f"index   version {found.index_version} published: {found.rows} pictures{measured}")
        console.print(f"        {_built(found)}", markup=False)


def _built(found: IndexSummary) -> str:
    shards = "shard" if found.shards_written == 1 else "shards"
    written = f"{found.shards_written} {shards} written ({found.bytes_written / 1e6:.1f} MB), {found.shards_kept} kept"
    return f"{written}; built anew: {found.rebuild_reason}" if found.rebuild_reason else written


def print_night(found: NightSummary) -> None:
    """One night."""
    print_ingest(found.ingest)
    print_score(found.score)
    print_index(found.index)
    print_times(found)


def print_times(found: NightSummary) -> None:
    """Where the night's time went: the shares of its seconds, the busiest stage first."""
    speed = "" if found.pictures_per_second is None else f", {found.pictures_per_second:.0f} pictures/s"
    held = "" if found.bottleneck is None else f"; held up by: {found.bottleneck}"
    console.print(f"time    {found.seconds:.1f} s{speed}{held}", markup=False)
    shares = [
        _share(spent, found.seconds)
        for spent in sorted(found.stage_times, key=lambda spent: -spent.busy_s)
        if spent.busy_s >= LEAST_SHARE * found.seconds
    ]
    console.print(f"        {', '.join(shares)}", markup=False)


def _share(spent: StageTime, seconds: float) -> str:
    waiting = f" (waiting {spent.waiting_s / seconds:.0%})" if spent.waiting_s >= LEAST_SHARE * seconds else ""
    return f"{spent.name} {spent.busy_s / seconds:.0%}{waiting}"


def print_plan(found: Mapping[str, Any]) -> None:
    """What a dry run found out."""
    print_fields(found, title="dry run: nothing was written")


def print_initial_model(found: Mapping[str, Any]) -> None:
    """The first model."""
    console.print(
        f"model   version {found['model_version']} registered from {found['weights']} weights. Similarity search works "
        "with it;\n        its polarity is untrained and says nothing until `vitrine retrain LABELS` promotes a model"
    )


def print_retrain(found: RetrainSummary) -> None:
    """The candidate and the decision."""
    measured = found.evaluation
    console.print(
        f"train   {found.labelled} labelled pictures: {found.trained_on} trained on, {measured['pictures']} held out"
    )
    console.print(f"judge   {accuracy(measured)}")
    verdict = "promoted" if found.promoted else "refused"
    console.print(f"gate    model {found.model_version} {verdict}")
    for reason in found.reasons:
        console.print(f"        {reason}", markup=False)
    console.print(f"        {found.page}", markup=False)
    if found.score is not None and found.index is not None:
        print_score(found.score)
        print_index(found.index)


def accuracy(measured: Mapping[str, Any]) -> str:
    """Held-out accuracy in one line."""
    return (
        f"accuracy {measured['accuracy']:.3f} (95 % interval {measured['accuracy_low']:.3f} to "
        f"{measured['accuracy_high']:.3f}) on {measured['pictures']} held-out pictures; always answering the more "
        f"frequent class: {measured['majority_share']:.3f}; AUROC {measured['auroc']:.3f}"
    )


def print_found(found: SearchAnswer) -> None:
    """A query's neighbours."""
    title = f"most like {found.query} (index {found.index_version}, model {found.model_version})"
    if not found.neighbours:
        console.print(f"{title}: the index holds no other picture that was asked for", markup=False)
        return
    print_rows(found.neighbours, NEIGHBOUR_COLUMNS, title=title, decimals=3)


def print_near_duplicates(found: NearDuplicatesReport) -> None:
    """How many pictures the index holds more than once, and the largest groups of them."""
    console.print(
        f"{found.pictures} pictures (index {found.index_version}, model {found.model_version}): {found.groups} groups "
        f"of near-identical ones at a cosine of {found.threshold:g}; one of each kept, {found.superfluous} would go"
    )
    rows = [
        {"group": number, "image_key": each.image_key, "product_id": each.product_id, "similarity": each.similarity}
        for number, group in enumerate(found.shown, start=1)
        for each in group.pictures
    ]
    if rows:
        print_rows(rows, decimals=4)
    if found.groups > len(found.shown):
        console.print(f"… {found.groups - len(found.shown)} more groups; --limit shows more")


def print_status(found: Mapping[str, Any]) -> None:
    """The lake at a glance."""
    last_run = found["last_run"]
    print_fields({name: value for name, value in found.items() if name != "last_run"})
    if last_run is None:
        console.print("no run yet")
        return
    print_fields({name: value for name, value in last_run.items() if value is not None}, title="last run")


def print_versions(found: Sequence[Mapping[str, Any]]) -> None:
    """The versions of one kind, oldest first."""
    if not found:
        console.print("no versions yet")
        return
    rows = [
        {
            "version": row["version"],
            "status": row["status"],
            "current": "current" if row["is_current"] else "",
            "serving": "serving" if row["is_serving"] else "",
            "created_at": row["created_at"],
            "holds": _holds(json.loads(row["properties"])),
            "reason": row["reason"],
        }
        for row in found
    ]
    print_rows(rows)


def _holds(properties: Mapping[str, Any]) -> str:
    if "rows" in properties:
        return f"{properties['rows']} pictures, model {properties['model_version']}, {properties['factory']}"
    name = properties["network"]["backbone"]
    if not properties["trained"]:
        return f"{name}, untrained"
    return f"{name}, accuracy {cell(properties['evaluation']['accuracy'])}"


def print_rolled_back(found: RolledBack) -> None:
    """Where a rollback leaves everybody."""
    console.print(f"{found.kind} rolled back to version {found.version}")
    console.print(f"readers use model {cell(found.serving_model)} and index {cell(found.serving_index)}")
    if found.note:
        console.print(found.note, markup=False)


def print_collected(found: Mapping[str, Any]) -> None:
    """What was removed, or would be."""
    verb = "would remove" if found["dry_run"] else "removed"
    for kind in ("indexes", "models"):
        if found[kind]:
            console.print(f"{kind:<8}{verb} {len(found[kind])} versions: {', '.join(map(str, found[kind]))}")
    console.print(
        f"files   {verb} {found['bytes'] / 1e6:.1f} MB: {found['version_files']} files of versions, "
        f"{found['workspaces']} workspaces of dead runs, {found['checkpoints']} checkpoints, {found['table_parts']} "
        "parts that no commit names"
    )


def print_demo(found: Demo) -> None:
    """What the demo found, and what to try next."""
    console.print(f"[bold]A shop of {found.pictures} pictures[/bold], drawn in {found.source}")
    print_retrain(found.retrain)
    console.print()
    console.print("[bold]The night[/bold]")
    print_night(found.night)
    for row in found.rejected:
        console.print(f"        {row['image_key']}: {row['reason']}", markup=False)
    console.print()
    print_rows(found.most_positive, POLARITY_COLUMNS, title="most positive", decimals=3)
    console.print()
    print_rows(found.most_negative, POLARITY_COLUMNS, title="most negative", decimals=3)
    console.print()
    print_found(found.search)
    console.print()
    console.print("[bold]What to try next[/bold]")
    for command in found.next_commands:
        console.print(f"  {command}", markup=False)
