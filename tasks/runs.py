"""What every run does around its work: hold the lake's lease, time its stages, leave a row, keep the catalogue up."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from lake.catalogue import write_catalogue
from lake.errors import LakeBusy, LakeError, StoreUnavailable
from lake.lake import Lake
from lake.lease import Lease, acquire
from lake.places import CATALOGUE
from lake.presence import OpenRun, Presence, Writer, dead_runs, forget
from lake.schemas import RUNS, STAGE
from tasks import progress, shards
from tasks.runner import Runner
from tasks.timing import StageTime, bottleneck, merged

logger = logging.getLogger(__name__)

ORCHESTRATION = "orchestration"  # the runner, opening the lake, the rows of runs


@dataclass
class Stage:
    """One stage of a run and how long it took; `times` tell what went on within it, where more is known."""

    name: str
    pictures: int = 0
    seconds: float = 0.0
    times: tuple[StageTime, ...] = ()


@dataclass
class Run:
    """One run as it goes: its lake, its counts and its stages."""

    run_id: str
    flow: str
    lake: Lake
    presence: Presence
    runner: Runner
    source: str | None = None
    lease: Lease | None = None
    parent: Run | None = None  # of which this run is a part
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    counts: dict[str, Any] = field(default_factory=dict)
    stages: list[Stage] = field(default_factory=list)

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
    def stage(self, name: str, pictures: int = 0) -> Iterator[Stage]:
        """A named and timed part of the run. Raises LeaseLost where another run has taken over the lake."""
        if self.lease is not None:
            with suppress(StoreUnavailable):  # the commit is refused all the same
                self.lease.check()
        stage = Stage(name, pictures)
        self.stages.append(stage)  # at once: a failed run's row shows the stage that it died in
        started = time.monotonic()
        try:
            with progress.stage(name, pictures):
                yield stage
        finally:
            stage.seconds = time.monotonic() - started
        counted = f"{stage.pictures} pictures in " if stage.pictures else ""
        self.runner.say("%s: %s%.1f s", stage.name, counted, stage.seconds)

    @contextmanager
    def writing(self, *, wait: bool) -> Iterator[None]:
        """Hold the lease on the lake: `lake` is the one to commit to while the block runs.

        Where another run holds it, wait for so long as the runner's terms allow, or not at all. Raises LakeBusy.
        """
        if self.lease is not None:
            yield
            return
        patience = timedelta(hours=self.runner.lease.wait_hours if wait else 0)
        with self.runner.waiting() as say:
            lease = acquire(
                self.lake,
                self.presence,
                wait=patience,
                on_wait=lambda writer: say(f"waiting for {writer}, which is writing to the lake"),
            )
        unleased, self.lake, self.lease, failed = self.lake, lease.lake, lease, True
        try:
            yield
            failed = False
        finally:
            self.lake, self.lease = unleased, None
            lease.release(failed=failed)

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

    def row(self, status: str, error: str | None) -> pa.Table:
        """The run as one row of `runs`."""
        columns: dict[str, Any] = {
            "run_id": self.run_id,
            "parent_run_id": self.parent_run_id,
            "flow": self.flow,
            "status": status,
            "error": error,
            "started_at": self.started_at,
            "finished_at": datetime.now(UTC),
            "source": self.source,
            "pictures_per_second": self.pictures_per_second(),
            "stages": [{name: getattr(stage, name) for name in STAGE.names} for stage in self.stages],
            "stage_times": [asdict(spent) for spent in self.times()],
            "bottleneck": bottleneck(self.times()),
        }
        return pa.Table.from_pylist([columns | self.counts], schema=RUNS)


@contextmanager
def running(lake: Lake, flow: str, runner: Runner, *, source: str | None = None, writes: bool = True) -> Iterator[Run]:
    """Around a run's work: whatever happens, the run leaves a row, and the catalogue names what is committed.

    One run writes to a lake at a time: with `writes` this one holds the lease throughout. A run within another one is
    a part of it and shares its lease. Raises LakeBusy where another run writes and the runner's terms are not to wait.
    """
    with ExitStack() as around:
        run = _opened(around, lake, flow, runner, source)
        try:
            with run.writing(wait=runner.lease.waits) if writes else nullcontext():
                _record_dead_runs(run)
                yield run
                _record(run, "completed", None)
        except BaseException as error:
            if runner.lease.waits or run.stages or not isinstance(error, LakeBusy):  # else nothing was begun
                _record_failure(run, error)
            raise
        finally:
            if run.parent is not None:
                run.parent.stages.extend(run.stages)
        _show(run)


def _opened(around: ExitStack, lake: Lake, flow: str, runner: Runner, source: str | None) -> Run:
    """The run, and its sign of life until the stack is left; a part of another run shares that one's."""
    parent = runner.current
    if parent is not None:
        run = Run(uuid.uuid4().hex, flow, parent.lake, parent.presence, runner, source, parent.lease, parent)
    else:
        run_id = runner.run_id()
        presence = Presence(lake.store, run_id, flow, lease_seconds=runner.lease.lease_seconds)
        run = Run(run_id, flow, lake, presence, runner, source)
    around.callback(setattr, runner, "current", parent)
    runner.current = run
    around.callback(run.presence.closed, run.run_id)
    run.presence.opened(OpenRun(run.run_id, run.parent_run_id, flow, source, run.started_at.isoformat()))
    if parent is None:
        around.callback(run.presence.stop)
        run.presence.start()
    return run


def _show(run: Run) -> None:
    """The run on a page: a summary, its counts as a table, a link to the catalogue."""
    counts = {name: value for name, value in run.counts.items() if value is not None}
    lines = [f"# {run.flow}", "", f"Lake `{run.lake.uri}`" + (f", source `{run.source}`" if run.source else ""), ""]
    lines += ["| stage | seconds | pictures |", "|---|---:|---:|"]
    lines += [f"| {stage.name} | {stage.seconds:.1f} | {stage.pictures} |" for stage in run.stages]
    lines += ["", "| within the stages | busy, s | waiting, s |", "|---|---:|---:|"]
    lines += [f"| {spent.name} | {spent.busy_s:.1f} | {spent.waiting_s:.1f} |" for spent in run.times()]
    link = f"{run.lake.uri}/{CATALOGUE}"
    run.runner.show(run.flow, "\n".join(lines), table=[counts], links={CATALOGUE: link})


def _record(run: Run, status: str, error: str | None) -> None:
    """Write the run's row, then the catalogue; the workspace is of no more use.

    A run that fails when its row says `completed` already, as on a full disk, gets another one, which counts.
    """
    name = "run" if status == "completed" else "failed"
    _commit_rows(run.lake, run.row(status, error), f"{name}-{run.run_id}")
    if run.parent_run_id is None:  # readers see a whole night at once, not its parts
        write_catalogue(run.lake)
    try:
        shards.clear(run.lake.store, run.run_id)
    except LakeError as failure:
        logger.warning("the run's workspace was left behind: %s", failure)


def _commit_rows(lake: Lake, rows: pa.Table, name: str) -> None:
    """Commit the rows once under this name; whoever comes second overwrites nothing of what is committed."""
    part = lake.runs.write_part(rows, f"{name}-{uuid.uuid4().hex[:8]}")
    lake.runs.commit([part], application_id=name)


def _record_failure(run: Run, error: BaseException) -> None:
    """The row of a run that failed or was stopped, as far as the lake still answers; its own error matters more."""
    if isinstance(error, Exception):
        status, reason = "failed", str(error) or type(error).__name__
    else:
        status, reason = "cancelled", "stopped by " + ("Ctrl-C" if isinstance(error, KeyboardInterrupt) else "a signal")
    try:
        _record(run, status, reason)
    except LakeError as failure:
        if str(failure) != reason:  # else it is about to be said
            logger.warning("how the run ended could not be written: %s", failure)


def _record_dead_runs(run: Run) -> None:
    """The rows that killed runs could not leave; should one of them wake up, its own row counts."""
    if run.parent is not None:
        return
    try:
        dead = dead_runs(run.presence)
        for writer, last_seen in dead:
            _record_crash(run, writer, last_seen)
        forget(run.lake.store, [writer for writer, _ in dead])
    except LakeError as failure:
        logger.warning("the rows of crashed runs were not written: %s", failure)


def _record_crash(run: Run, writer: Writer, last_seen: datetime) -> None:
    """A row for each run of a process that is dead."""
    if not writer.open_runs:
        return
    rows = [
        {
            "run_id": each.run_id,
            "parent_run_id": each.parent_run_id,
            "flow": each.flow,
            "status": "crashed",
            "error": f"no sign of life of process {writer.pid} on {writer.host} any more",
            "started_at": datetime.fromisoformat(each.started_at),
            "finished_at": last_seen,
            "source": each.source,
        }
        for each in writer.open_runs
    ]
    _commit_rows(run.lake, pa.Table.from_pylist(rows, schema=RUNS), f"crashed-{writer.run_id}")
    run.runner.say("%s (run %s) crashed", writer, writer.run_id)
