"""What every flow run does around its work: open the lake, time the stages, count, leave a row and artifacts."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow as pa
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows import display
from flows.settings import SettingsError
from lake.catalogue import CATALOGUE, write_catalogue
from lake.errors import LakeError
from lake.lake import Lake, open_lake
from lake.tables import RUNS, STAGE
from tasks import workspace
from tasks.stage_times import StageTime, bottleneck, merged

logger = logging.getLogger(__name__)

SUBMITTED_AT_ONCE = 64
ORCHESTRATION = "orchestration"  # Prefect, opening the lake, the rows of runs

Work = TypeVar("Work")
Result = TypeVar("Result")

_current: ContextVar[Run | None] = ContextVar("current_run", default=None)


@dataclass
class Run:
    """One flow run as it goes: its lake, its counts and its stages."""

    run_id: str
    parent_run_id: str | None
    flow: str
    lake: Lake
    source: str | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    counts: dict[str, Any] = field(default_factory=dict)
    stages: list[display.Stage] = field(default_factory=list)

    def count(self, **counts: Any) -> None:
        """Set columns of the run's row."""
        unknown = counts.keys() - set(RUNS.names)
        if unknown:
            raise KeyError(f"the runs table has no column {', '.join(unknown)}")
        self.counts |= counts

    @contextmanager
    def stage(self, name: str, pictures: int = 0) -> Iterator[display.Stage]:
        """A named and timed part of the run."""
        with display.stage(name, pictures) as done:
            self.stages.append(done)  # at once: a failed run's row shows the stage that it died in
            yield done

    def adopt(self, other: Sequence[display.Stage]) -> None:
        """Count a part flow's stages as this run's own."""
        self.stages.extend(other)

    def row(self, status: str, error: str | None) -> pa.Table:
        """The run as one row of `runs`."""
        finished_at = datetime.now(UTC)
        made: dict[str, Any] = {
            "run_id": self.run_id,
            "parent_run_id": self.parent_run_id,
            "flow": self.flow,
            "status": status,
            "error": error,
            "started_at": self.started_at,
            "finished_at": finished_at,
            "source": self.source,
            "pictures_per_second": self.pictures_per_second(),
            "stages": [{name: getattr(stage, name) for name in STAGE.names} for stage in self.stages],
            "stage_times": [asdict(spent) for spent in self.times()],
            "bottleneck": bottleneck(self.times()),
        }
        return pa.Table.from_pylist([made | self.counts], schema=RUNS)

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return (datetime.now(UTC) - self.started_at).total_seconds()

    def times(self) -> tuple[StageTime, ...]:
        """How long each stage was busy and waiting; what no stage claims is the orchestration's."""
        known = [
            spent for stage in self.stages for spent in stage.times or (StageTime(stage.name, stage.seconds, 0.0),)
        ]
        rest = max(0.0, self.seconds - sum(stage.seconds for stage in self.stages))
        return merged([*known, StageTime(ORCHESTRATION, rest, 0.0)])

    def pictures_per_second(self) -> float | None:
        """Pictures that passed a working stage, over the time that those stages took."""
        working = [stage for stage in self.stages if stage.pictures]
        seconds = sum(stage.seconds for stage in working)
        return max(stage.pictures for stage in working) / seconds if seconds else None


@contextmanager
def running(flow: str, lake_uri: str, *, source: str | None = None, create: bool = False) -> Iterator[Run]:
    """Around a flow's work: whatever happens, the run leaves a row, and the catalogue names what is committed."""
    from prefect.runtime import deployment, flow_run

    if deployment.id is not None:
        _check_absolute(lake=lake_uri, source=source)
    parent = _current.get()
    # A second attempt of a run must never overwrite what the first has committed.
    run_id = f"{flow_run.id}-{flow_run.run_count}"
    run = Run(run_id, parent.run_id if parent else None, flow, open_lake(lake_uri, create=create), source)
    token = _current.set(run)
    try:
        yield run
    except BaseException as error:
        _record_failure(run, error)
        raise
    finally:
        _current.reset(token)
        if parent is not None:
            parent.adopt(run.stages)
    _record(run, "completed", None)
    _leave_artifacts(run)


def _check_absolute(**places: str | None) -> None:
    """A worker runs a deployment wherever it likes: a relative path would name another place each time."""
    for name, place in places.items():
        if place is not None and "://" not in place and not Path(place).is_absolute():
            raise SettingsError(f"{name} is {place!r}: a deployed run needs an absolute path or a URI")


def each(work: Sequence[Work], submit: Callable[[Work], PrefectFuture[Result]], *, key: str, what: str) -> list[Result]:
    """Run a unit of work for each reference; the results in their order."""
    told = display.ProgressArtifact(key, len(work), what)
    results: list[Result] = []
    submitted: deque[PrefectFuture[Result]] = deque()
    # A window, for thousands of task runs at once are more than a Prefect server bears.
    for reference in work:
        submitted.append(submit(reference))
        if len(submitted) >= SUBMITTED_AT_ONCE:
            results.append(submitted.popleft().result())
            told.advance(1)
    while submitted:
        results.append(submitted.popleft().result())
        told.advance(1)
    return results


def threads(units_at_once: int) -> TaskRunner[PrefectFuture[Any]]:
    """The task runner of a flow whose units of work release the GIL and run so many at once."""
    # Prefect's runners are invariant in their future's type, though a flow only ever reads it.
    return cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=units_at_once))


def _leave_artifacts(run: Run) -> None:
    """The run on the Prefect server: a summary, its counts as a table, a link to the catalogue."""
    counts = {name: value for name, value in run.counts.items() if value is not None}
    lines = [f"# {run.flow}", "", f"Lake `{run.lake.uri}`" + (f", source `{run.source}`" if run.source else ""), ""]
    lines += ["| stage | seconds | pictures |", "|---|---:|---:|"]
    lines += [f"| {stage.name} | {stage.seconds:.1f} | {stage.pictures} |" for stage in run.stages]
    lines += ["", "| within the stages | busy, s | waiting, s |", "|---|---:|---:|"]
    lines += [f"| {spent.name} | {spent.busy_s:.1f} | {spent.waiting_s:.1f} |" for spent in run.times()]
    link = f"{run.lake.uri}/{CATALOGUE}"
    with display.best_effort():
        create_markdown_artifact("\n".join(lines), key=run.flow, description="What the run did, stage by stage")
        create_table_artifact([counts], key=f"{run.flow}-counts", description="The run's row of the runs table")
        create_link_artifact(link, link_text=CATALOGUE, key=f"{run.flow}-catalogue")


def _record(run: Run, status: str, error: str | None) -> None:
    """Write the run's row, then the catalogue; the workspace is of no more use."""
    part = run.lake.runs.write_part(run.row(status, error), run.run_id)
    run.lake.runs.commit([part], application_id=f"run-{run.run_id}")
    if run.parent_run_id is None:  # readers see a whole night at once, not its parts
        write_catalogue(run.lake)
    try:
        workspace.clear(run.lake.store, run.run_id)
    except LakeError as failure:
        logger.warning("the run's workspace was left behind: %s", failure)


def _record_failure(run: Run, error: BaseException) -> None:
    """The row of a failed run, as far as the lake still answers; the run's own error matters more."""
    try:
        _record(run, "failed", str(error) or type(error).__name__)
    except LakeError as failure:
        logger.warning("the failed run left no row: %s", failure)
