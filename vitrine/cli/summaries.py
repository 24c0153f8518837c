"""What each command tells a person when it is done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vitrine.cli.printing import cell, console, print_fields, print_rows, to_stderr

if TYPE_CHECKING:
    from lake.comments import Described
    from lake.health import Finding
    from lake.rollback import RolledBack
    from tasks.ingest.stage import IngestSummary
    from tasks.night import NightSummary
    from tasks.rebuild.stage import IndexSummary
    from tasks.retrain.stage import RetrainSummary
    from tasks.retrain_look.stage import RetrainLookSummary
    from tasks.score.stage import ScoreSummary
    from tasks.search.key_lists import KeyCounts
    from tasks.search.near_duplicates import NearDuplicatesReport
    from tasks.search.queries import SearchAnswer
    from vitrine.cli.sql import Exported
    from vitrine.demo.run import Demo

NEIGHBOUR_COLUMNS = ("image_key", "similarity", "polarity", "label")
POLARITY_COLUMNS = ("image_key", "polarity", "positive_intensity", "negative_intensity")
NAMED = 5  # of many names
LEAST_SHARE = 0.05  # of a night; `stage_times` in `runs` keeps the others


def print_ingest(summary: IngestSummary) -> None:
    """The pictures of one listing."""
    parts = [f"{summary.unchanged} unchanged", f"{summary.ingested} ingested", f"{summary.rejected} rejected"]
    parts += [f"{summary.failed} not fetched (tried again next time)"] if summary.failed else []
    console.print(f"ingest  {summary.listed} pictures listed: {', '.join(parts)}; {summary.deleted} deleted")
    if summary.renamed:
        console.print(f"        {summary.renamed} belong to another product by the pattern of product ids")
    if summary.unreadable:
        console.print(f'        {summary.unreadable} can\'t be read; `vitrine sql "FROM unreadable"` has all:')
        _print_named(summary.first_unreadable, summary.unreadable)
    if summary.unreadable_folders:
        left = f"their {summary.unlisted} known pictures stay as they are"
        console.print(f"        {len(summary.unreadable_folders)} folders can't be listed, {left}:")
        _print_named(summary.unreadable_folders, len(summary.unreadable_folders))
    if summary.skipped:
        kinds = ", ".join(f"{count} {kind}" for kind, count in summary.skipped_by_kind.items())
        console.print(f"        {summary.skipped} passed over: {kinds}; `vitrine passed-over` lists them")


def _print_named(some: Sequence[tuple[str, str]], count: int) -> None:
    """A few of many names, each with its reason."""
    for name, reason in some[:NAMED]:
        console.print(f"          {cell(name)}: {reason}")
    if count > NAMED:
        console.print(f"          … {count - NAMED} more")


def print_score(summary: ScoreSummary) -> None:
    """The contents that the networks looked at."""
    console.print(f"score   {summary}")
    if summary.pictures_per_second is not None:
        busy = ", ".join(f"{spent.name} {spent.busy_s:.1f} s" for spent in summary.times)
        console.print(f"        {summary.pictures_per_second:.1f} pictures/s in {summary.arithmetic}: {busy}")


def print_index(summary: IndexSummary) -> None:
    """The index that readers use."""
    if summary.index_version is None:
        console.print("index   no pictures, no index")
    elif not summary.is_new:
        console.print(f"index   version {summary.index_version} serves on: nothing changed")
    else:
        measured = ""
        if summary.recall_at_10 is not None:
            measured = f", recall@10 {summary.recall_at_10:.3f}, {summary.latency_ms:.2f} ms a search"
        console.print(f"index   version {summary.index_version} published: {summary.rows} pictures{measured}")
        shards = "shard" if summary.shards_written == 1 else "shards"
        written = f"{summary.shards_written} {shards} written ({summary.bytes_written / 1e6:.1f} MB)"
        if summary.same_product_at_1 is not None:
            at_1, at_5 = summary.same_product_at_1, summary.same_product_at_5
            console.print(f"        the own product first {at_1:.3f}, among five {at_5:.3f}")
        reason = f"; built anew: {summary.rebuild_reason}" if summary.rebuild_reason else ""
        console.print(f"        {written}, {summary.shards_kept} kept{reason}")
    if summary.warning:
        console.print(f"        warning: {summary.warning}")


def print_night(night: NightSummary) -> None:
    """One night."""
    if night.first_look is not None:
        console.print(
            f"look    version {night.first_look} registered, the lake's first: search by looks works; what they make",
            "        feel is unknown until `vitrine retrain LABELS` promotes a model",
            sep="\n",
        )
    print_ingest(night.ingest)
    print_score(night.score)
    print_index(night.index)
    print_times(night)


def print_times(night: NightSummary) -> None:
    """Where the night's time went: the shares of its seconds, the busiest stage first."""
    speed = "" if night.pictures_per_second is None else f", {night.pictures_per_second:.0f} pictures/s"
    held = "" if night.bottleneck is None else f"; held up by: {night.bottleneck}"
    console.print(f"time    {night.seconds:.1f} s{speed}{held}")
    shares, least = [], LEAST_SHARE * night.seconds
    for spent in sorted(night.stage_times, key=lambda spent: -spent.busy_s):
        if spent.busy_s >= least:
            waiting = f" (waiting {spent.waiting_s / night.seconds:.0%})" if spent.waiting_s >= least else ""
            shares.append(f"{spent.name} {spent.busy_s / night.seconds:.0%}{waiting}")
    console.print(f"        {', '.join(shares)}")


def print_plan(plan: Mapping[str, Any]) -> None:
    """What a dry run found out."""
    print_fields(plan, title="dry run: nothing was written")


def print_initial_model(model: Mapping[str, Any]) -> None:
    """The first model."""
    console.print(
        f"look    version {model['look_version']} registered, {model['weights']} weights: search by what pictures look "
        "like",
        "        works with it; what they make feel is unknown until `vitrine retrain LABELS` promotes a model",
        sep="\n",
    )
    if model["adapted_weights"]:
        console.print(f"weights {model['adapted_weights']}")


def print_retrain(summary: RetrainSummary) -> None:
    """The candidate and the decision."""
    measured = summary.evaluation
    sides = f"{summary.trained_on} trained on, {measured['pictures']} held out"
    console.print(f"train   {summary.labelled} labelled pictures: {sides}")
    console.print(f"judge   {accuracy(measured)}")
    for baseline in measured["baselines"]:
        shown = f"accuracy {baseline['accuracy']:.3f}, AUROC {baseline['auroc']:.3f}"
        console.print(f"        beside it {baseline['name']}: {shown}")
    for words in filter(None, (baseline["words"] for baseline in measured["baselines"])):
        console.print(f"        {words}")
    verdict = "promoted" if summary.promoted else "refused"
    console.print(f"gate    model {summary.model_version} {verdict}")
    for reason in summary.reasons:
        console.print(f"        {reason}")
    console.print(f"        {summary.page}")
    if summary.score is not None:
        print_score(summary.score)


def print_retrain_look(summary: RetrainLookSummary) -> None:
    """The candidate and the decision."""
    verdict = "promoted" if summary.promoted else "refused"
    measured = summary.evaluation
    console.print(
        f"train   {measured['trained_on']} pictures of {measured['trained_on_products']} products; "
        f"{measured['held_out']} of {measured['held_out_products']} others judge"
    )
    console.print(f"gate    look {summary.look_version} {verdict}")
    for reason in summary.reasons:
        console.print(f"        {reason}")
    if summary.score is not None and summary.index is not None:
        print_score(summary.score)
        print_index(summary.index)


def accuracy(measured: Mapping[str, Any]) -> str:
    """Held-out accuracy in one line."""
    return (
        f"accuracy {measured['accuracy']:.3f} (95 % interval {measured['accuracy_low']:.3f} to "
        f"{measured['accuracy_high']:.3f}) on {measured['pictures']} held-out pictures; always answering the more "
        f"frequent class: {measured['majority_share']:.3f}; AUROC {measured['auroc']:.3f}"
    )


def print_neighbours(answer: SearchAnswer) -> None:
    """A query's neighbours."""
    model = "no model of polarity yet" if answer.model_version is None else f"model {answer.model_version}"
    title = f"most like {answer.query} by {answer.by} (index {answer.index_version}, {model})"
    if not answer.neighbours:
        console.print(f"{title}: the index holds no other picture that was asked for")
        return
    print_rows(answer.neighbours, NEIGHBOUR_COLUMNS, title=title, decimals=3)


def print_key_counts(file: str, counts: KeyCounts) -> None:
    """What a list of keys lacked, beside the answer: on stderr."""
    if not counts.listed:
        to_stderr.print(f"{file} lists no keys", markup=False)
    elif counts.unknown:
        some = ", ".join(map(repr, counts.examples)) + (", …" if counts.unknown > len(counts.examples) else "")
        missing = f"{counts.unknown} of {counts.listed} keys of {file} are not in the index"
        to_stderr.print(f"{missing}: {some}", markup=False)


def print_near_duplicates(duplicates: NearDuplicatesReport) -> None:
    """How many pictures the index holds more than once, and the largest groups of them."""
    by = "" if duplicates.threshold is None else f" at a cosine of {duplicates.threshold:g}"
    console.print(
        f"{duplicates.pictures} pictures (index {duplicates.index_version}, look {duplicates.look_version}): "
        f"{duplicates.groups} groups of near-identical ones{by}; "
        f"one of each kept, {duplicates.superfluous} would go"
    )
    rows = [
        {"group": number, "image_key": each.image_key, "product_id": each.product_id, "similarity": each.similarity}
        for number, group in enumerate(duplicates.shown, start=1)
        for each in group.pictures
    ]
    if rows:
        print_rows(rows, decimals=4)
    if duplicates.groups > len(duplicates.shown):
        console.print(f"… {duplicates.groups - len(duplicates.shown)} more groups; --limit shows more")


def print_answers(answers: Sequence[Sequence[Mapping[str, Any]]], _: object) -> None:
    """What SQL statements gave, one table after another."""
    for number, rows in enumerate(answers):
        if number:
            console.print()
        print_rows(rows)
    if not answers:
        console.print("done: no statement gave an answer")


def print_exported(exported: Exported) -> None:
    """Where an answer went."""
    console.print(f"{exported.rows} rows in {exported.file}")


def print_schema(described: Sequence[Described]) -> None:
    """What SQL may ask, a view or macro after another."""
    for each in described:
        call = f"({', '.join(each.parameters)})" if each.kind == "macro" else ""
        console.print(f"{each.name}{call}", style="bold")
        console.print(f"  {each.comment}")
        for column in each.columns:
            console.print(f"  {column.name:<20} {column.type}: {column.comment}", markup=False)


def print_status(status: Mapping[str, Any]) -> None:
    """The lake at a glance."""
    last_run = status["last_run"]
    print_fields({name: value for name, value in status.items() if name != "last_run"})
    if last_run is None:
        console.print("no run yet")
        return
    print_fields({name: value for name, value in last_run.items() if value is not None}, title="last run")


def print_findings(findings: Sequence[Finding]) -> None:
    """What the doctor found, and what to do where something is wrong."""
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        style = {"bad": "bold red", "warning": "yellow", "repaired": "green"}.get(finding.state)
        console.print(f"{finding.state:<8}  {finding.what:<{width}}  {finding.says}", style=style)
        if finding.remedy:
            console.print(f"{'':<8}  {'':<{width}}  → {finding.remedy}")


def print_versions(versions: Sequence[Mapping[str, Any]]) -> None:
    """The versions of one kind, oldest first."""
    if not versions:
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
        for row in versions
    ]
    print_rows(rows)


def _holds(properties: Mapping[str, Any]) -> str:
    if not properties:
        return "a damaged manifest"
    if "rows" in properties:
        return f"{properties['rows']} pictures, look {properties['look_version']}, {properties['factory']}"
    if "look" in properties:
        fitted = ""
        if "evaluation" in properties:
            first = cell(properties["evaluation"]["same_product_first"])
            fitted = f", {properties['embedding_size']} dimensions, the own product first {first}"
        return f"{properties['look']['backbone']}, {properties['weights']} weights{fitted}"
    return f"{properties['network']['backbone']}, accuracy {cell(properties['evaluation']['accuracy'])}"


def print_rolled_back(rollback: RolledBack) -> None:
    """Where a rollback leaves everybody."""
    console.print(f"{rollback.kind} rolled back to version {rollback.version}")
    serving = rollback.serving
    look, index, model = map(cell, (serving.look_version, serving.index_version, serving.model_version))
    console.print(f"readers use look {look}, index {index} and model {model}")
    if rollback.note:
        console.print(rollback.note)


def print_collected(collected: Mapping[str, Any]) -> None:
    """What was removed, or would be."""
    verb = "would remove" if collected["dry_run"] else "removed"
    for kind in ("indexes", "looks", "models"):
        if collected[kind]:
            console.print(f"{kind:<8}{verb} {len(collected[kind])} versions: {', '.join(map(str, collected[kind]))}")
    console.print(
        f"files   {verb} {collected['bytes'] / 1e6:.1f} MB: {collected['version_files']} files of versions, "
        f"{collected['workspaces']} workspaces of dead runs, {collected['checkpoints']} checkpoints, "
        f"{collected['table_parts']} parts that no commit names"
    )


def print_demo(demo: Demo) -> None:
    """What the demo found, and what to try next."""
    console.print(f"A shop of {demo.pictures} pictures, drawn in {demo.source}", style="bold")
    print_retrain(demo.retrain)
    console.print()
    console.print("The night", style="bold")
    print_night(demo.night)
    for row in demo.rejected:
        console.print(f"        {row['image_key']}: {row['reason']}")
    console.print()
    print_rows(demo.most_positive, POLARITY_COLUMNS, title="most positive", decimals=3)
    console.print()
    print_rows(demo.most_negative, POLARITY_COLUMNS, title="most negative", decimals=3)
    console.print()
    look = demo.look
    console.print("look    each picture asks once, all others answer; in brackets a colour histogram")
    console.print(f"        same product first          {look.same_product:.3f} ({look.histogram_same_product:.3f})")
    console.print(f"        same kind, another product  {look.same_kind:.3f} ({look.histogram_same_kind:.3f})")
    console.print()
    print_neighbours(demo.search)
    console.print()
    console.print("What to try next", style="bold")
    for command in demo.next_commands:
        console.print(f"  {command}")
