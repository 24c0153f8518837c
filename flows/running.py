"""What every flow run does around its work: have the lake to write to, time the stages, leave a row and artifacts."""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow as pa
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows import display, on_prefect
from flows.errors import SettingsError, for_people
from flows.settings import read_settings
from lake.catalogue import CATALOGUE, write_catalogue
from lake.errors import LakeBusy, LakeError, StoreUnavailable
from lake.lake import Lake, open_lake
from lake.lease import Lease, OpenRun, Presence, Writer, acquire, dead_runs, forget
from lake.tables import RUNS, STAGE
from tasks import shards as workspace
from tasks.timing import StageTime, bottleneck, merged

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
    flow: str
    lake: Lake
    presence: Presence
    source: str | None = None
    lease: Lease | None = None
    parent: Run | None = None  # of which this run is a part
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    counts: dict[str, Any] = field(default_factory=dict)
    stages: list[display.Stage] = field(default_factory=list)

    @property
    def parent_run_id(self) -> str | None:
        """The run that this one is a part of."""
        return None if self.parent is None else self.parent.run_id

    def count(self, **counts: Any) -> None:
        """Set columns of the run's row."""
        unknown = counts.keys() - set(RUNS.names)
        if unknown:
            raise KeyError(f"the runs table has no column {', '.join(unknown)}")
        self.counts |= counts

    @contextmanager
    def stage(self, name: str, pictures: int = 0) -> Iterator[display.Stage]:
        """A named and timed part of the run. Raises LeaseLost where another run has taken over the lake."""
        if self.lease is not None:
            with suppress(StoreUnavailable):  # the commit is refused all the same
                self.lease.check()
        with display.stage(name, pictures) as done:
            self.stages.append(done)  # at once: a failed run's row shows the stage that it died in
            yield done
        counted = f"{done.pictures} pictures in " if done.pictures else ""
        on_prefect.log("%s: %s%.1f s", done.name, counted, done.seconds)

    @contextmanager
    def writing(self, *, wait: bool) -> Iterator[None]:
        """Hold the lease on the lake: `lake` is the one to commit to while the block runs.

        Where another run holds it, wait for so long as the settings allow, or not at all. Raises LakeBusy.
        """
        if self.lease is not None:
            yield
            return
        patience = timedelta(hours=read_settings().wait_hours) if wait else timedelta(0)
        with on_prefect.waiting() as say:
            lease = acquire(self.lake, self.presence, wait=patience, on_wait=lambda writer: say(_waits_for(writer)))
        unleased, self.lake, self.lease, failed = self.lake, lease.lake, lease, True
        try:
            yield
            failed = False
        finally:
            self.lake, self.lease = unleased, None
            lease.release(failed=failed)

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
def running(
    flow: str, lake_uri: str, *, source: str | None = None, create: bool = False, writes: bool = True
) -> Iterator[Run]:
    """Around a flow's work: whatever happens, the run leaves a row, and the catalogue names what is committed.

    One run writes to a lake at a time: with `writes` this one holds the lease throughout. A deployment's run waits for
    it, one from the command line raises LakeBusy at once.
    """
    from prefect.runtime import flow_run

    is_deployed = on_prefect.is_deployed()
    if is_deployed:
        on_prefect.prepare_deployed_run()
        _check_absolute(lake=lake_uri, source=source)
    # A second attempt of a run must never overwrite what the first has committed.
    run_id = f"{flow_run.id}-{flow_run.run_count}"
    with ExitStack() as around:
        run = _opened(around, flow, run_id, lake_uri, source, create=create)
        token = _current.set(run)
        around.callback(_current.reset, token)
        try:
            with run.writing(wait=is_deployed) if writes else nullcontext():
                _record_dead_runs(run)
                yield run
                _record(run, "completed", None)
        except BaseException as error:
            if is_deployed or run.stages or not isinstance(error, LakeBusy):  # else nothing was begun
                _record_failure(run, error)
            raise
        finally:
            if run.parent is not None:
                run.parent.adopt(run.stages)
        _leave_artifacts(run)


def _opened(around: ExitStack, flow: str, run_id: str, lake_uri: str, source: str | None, *, create: bool) -> Run:
    """The run, and its sign of life until the stack is left; a part of another run shares that one's lake."""
    parent = _current.get()
    if parent is not None:
        run = Run(run_id, flow, parent.lake, parent.presence, source, parent.lease, parent)
    else:
        lake = open_lake(lake_uri, create=create)
        presence = Presence(lake.store, run_id, flow, lease_seconds=read_settings().lease_seconds)
        run = Run(run_id, flow, lake, presence, source)
    around.callback(run.presence.closed, run_id)
    run.presence.opened(OpenRun(run_id, run.parent_run_id, flow, source, run.started_at.isoformat()))
    if parent is None:
        around.callback(run.presence.stop)
        run.presence.start()
    return run


def _waits_for(writer: Writer) -> str:
    return f"waiting for {writer}, which is writing to the lake"


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
    _commit_rows(run.lake, run.row(status, error), f"run-{run.run_id}")
    if run.parent_run_id is None:  # readers see a whole night at once, not its parts
        write_catalogue(run.lake)
    try:
        workspace.clear(run.lake.store, run.run_id)
    except LakeError as failure:
        logger.warning("the run's workspace was left behind: %s", failure)


def _commit_rows(lake: Lake, rows: pa.Table, name: str) -> None:
    """Commit the rows once under this name; whoever comes second overwrites nothing of what is committed."""
    part = lake.runs.write_part(rows, f"{name}-{uuid.uuid4().hex[:8]}")
    lake.runs.commit([part], application_id=name)


def _record_failure(run: Run, error: BaseException) -> None:
    """The row of a run that failed or was stopped, as far as the lake still answers; its own error matters more."""
    if isinstance(error, KeyboardInterrupt | TerminationSignal):
        status, reason = "cancelled", "stopped by " + ("Ctrl-C" if isinstance(error, KeyboardInterrupt) else "a signal")
    else:
        known = for_people(error) if isinstance(error, Exception) else None
        status, reason = "failed", str(known or error) or type(error).__name__
    try:
        _record(run, status, reason)
    except LakeError as failure:
        logger.warning("the run left no row: %s", failure)


def _record_dead_runs(run: Run) -> None:
    """The rows that killed runs could not leave; should one of them wake up, its own row counts."""
    if run.parent is not None:
        return
    try:
        dead = dead_runs(run.presence)
        for writer, last_seen in dead:
            if not writer.open_runs:
                continue
            rows = pa.Table.from_pylist([_crashed(each, writer, last_seen) for each in writer.open_runs], schema=RUNS)
            _commit_rows(run.lake, rows, f"crashed-{writer.run_id}")
            on_prefect.log("%s (run %s) crashed", writer, writer.run_id)
        forget(run.lake.store, [writer for writer, _ in dead])
    except LakeError as failure:
        logger.warning("the rows of crashed runs were not written: %s", failure)


def _crashed(dead: OpenRun, writer: Writer, last_seen: datetime) -> dict[str, Any]:
    return {
        "run_id": dead.run_id,
        "parent_run_id": dead.parent_run_id,
        "flow": dead.flow,
        "status": "crashed",
        "error": f"no sign of life of process {writer.pid} on {writer.host} any more",
        "started_at": datetime.fromisoformat(dead.started_at),
        "finished_at": last_seen,
        "source": dead.source,
    }
