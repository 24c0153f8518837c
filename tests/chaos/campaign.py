"""One lake and its shop through many disturbed nights, each followed sooner or later by one that nothing disturbs."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from lake.lake import open_lake
from tests.chaos.nights import Part, Work, make_lake, run
from tests.chaos.oracle import Oracle
from tests.chaos.proxy import Passage, Proxy, Renewals, Weather
from tests.chaos.shop import Shop

PICTURES = 28
HANGS_AFTER = 600.0  # seconds, on a busy machine
SHORT_LEASE = 1.5  # seconds without a sign of life, of a run that is to be taken over from
# What retries have to cover: a night in this weather completes.
BAD = Weather({"lost new": 0.4, "busy": 0.2, "lost": 0.05, "reset": 0.02, "short": 0.02, "stall": 0.005})
UNSETTLED = Weather({fault: rate / 3 for fault, rate in BAD.rates.items()})
FAIR = Weather()

_children = multiprocessing.get_context("forkserver")
# A child is forked from a process that has imported everything and used nothing: no threads, no clients.
_children.set_forkserver_preload(
    ["tests.chaos.nights", "deltalake.transaction", "pyarrow.dataset", "model.predict", "safetensors.torch", "pytz"]
)


@dataclass(frozen=True)
class Event:
    """One disturbed run and what became of it: a line of the log."""

    what: str
    run_id: str
    outcome: str  # completed, failed, killed, hung or died
    seconds: float
    error: str = ""


@dataclass
class Log:
    """Every run of a campaign, and every difference that an oracle found; a line each in a file."""

    path: Path
    events: list[Event] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    comparisons: int = 0
    rows: int = 0  # of current views that were compared
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def event(self, event: Event) -> None:
        with self._lock:
            self.events.append(event)
            self._write({"event": asdict(event)})

    def compared(self, after: str, rows: int, differences: list[str]) -> None:
        with self._lock:
            self.comparisons += 1
            self.rows += rows
            self.differences += [f"{after}: {each}" for each in differences]
            self._write({"after": after, "rows": rows, "differences": differences})

    def _write(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


@dataclass
class Child:
    """A run in a process of its own."""

    what: str
    work: Work
    process: ForkServerProcess
    started: float

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def send(self, signal_number: int) -> None:
        """Nothing where it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal_number)

    def wait_until_stopped(self) -> bool:
        """Whether a signal has stopped it; False where it has ended first."""
        deadline = time.monotonic() + HANGS_AFTER
        while self.process.is_alive() and time.monotonic() < deadline:
            ps = ["ps", "-o", "state=", "-p", str(self.pid)]
            if subprocess.run(ps, capture_output=True, text=True, check=False).stdout.startswith("T"):
                return True
            time.sleep(0.02)
        return False

    def ended(self) -> Event:
        """Wait for it; what became of it."""
        self.process.join(HANGS_AFTER)
        hung = self.process.is_alive()
        if hung:
            self.send(signal.SIGUSR1)  # it says where its threads are
            time.sleep(1)
            self.process.kill()
            self.process.join()
        seconds = time.monotonic() - self.started
        said = json.loads(self.work.said.read_text()) if self.work.said.exists() else {}
        outcome, error = said.get("outcome", "killed"), said.get("error", "")
        if hung:
            outcome = "hung"
        elif self.process.exitcode not in (0, -signal.SIGKILL):
            outcome, error = "died", f"exit code {self.process.exitcode}"
        elif outcome == "failed":
            error = f"{said['kind']}: {error}" if said["for_people"] else f"no error for people: {said['traceback']}"
        return Event(self.what, self.work.run_id, outcome, seconds, error)


class Campaign:
    """Draws events with its seed until it is told to stop."""

    def __init__(
        self, directory: Path, root: str, log: Log, seed: str, *, proxy: Proxy | None = None, without: Part = "nothing"
    ) -> None:
        """A new lake and shop at the root, a directory or, with a proxy, an S3 URI."""
        self.lake_uri = f"{root}/lake"
        self.draw = random.Random(seed)  # noqa: S311 (a test's seed)
        self.log = log
        self._directory = directory
        self._seed = seed
        self._proxy = proxy
        self._without = without
        self._runs: list[tuple[Work, str]] = []
        self._operations, self._seconds = 100, 2.0  # of a night, as it was last
        directory.mkdir(parents=True, exist_ok=True)
        make_lake(self.lake_uri)
        self.shop = Shop(f"{root}/source", self.draw, PICTURES)
        self.oracle = Oracle(directory / "cache")

    @property
    def events(self) -> list[Callable[[], None]]:
        """What may happen here."""
        both = [
            *[self.killed_at_an_operation, self.killed_at_a_commit, self.killed_at_random] * 2,
            self.killed_while_it_collects,
            self.raced,
            self.stopped_and_taken_over_from,
            self.on_changing_pictures,
        ]
        through_the_proxy = [self.in_bad_weather, self.in_bad_weather, self.expired, self.without_signs_of_life]
        return both + through_the_proxy if self._proxy is not None else both

    def go_on(self, until: Callable[[], bool]) -> None:
        """Rounds of disturbed nights, each with an undisturbed one and a comparison at its end."""
        self.undisturbed()
        while not until():
            for _ in range(self.draw.randint(3, 6)):
                self.draw.choice(self.events)()
            self.undisturbed()

    # What happens

    def undisturbed(self) -> None:
        """A night that has to complete and to leave everything as the dictionary says."""
        with self._night("undisturbed", endpoint=None) as child:
            event = self._ended(child)
        problems = [] if event.outcome == "completed" else [f"it {event.outcome}: {event.error}"]
        if not problems:
            self._seconds = event.seconds
            operations = json.loads(child.work.said.read_text())["operations"]
            self._operations = max(self._operations // 2, operations) if self._proxy is None else self._operations
        problems += self.oracle.differences(open_lake(self.lake_uri), self.shop.content, self._runs)
        self.log.compared(event.run_id, 5 * len(self.shop.content), problems)

    def killed_at_an_operation(self) -> None:
        self.shop.change()
        at = self.draw.randint(1, self._operations)
        self._alone("killed at an operation", self._weather(), ends_at=at)

    def killed_at_a_commit(self) -> None:
        """Around what makes a state visible: the logs of tables and versions, and the lease before them."""
        self.shop.change()
        where = self.draw.choice(["_delta_log/", "/log/", "/lease/", r"\.parquet", "catalogue"])
        self._alone("killed at a commit", self._weather(), ends_on=where, ends_at=self.draw.randint(1, 6))

    def killed_at_random(self) -> None:
        self.shop.change()
        with self._night("killed at random", self._weather()) as child:
            self._kill_later(child)
            self._ended(child)
        self._look()

    def killed_while_it_collects(self) -> None:
        at = self.draw.randint(1, self._operations // 3)
        self._alone("killed while it collects", self._weather(), ends_at=at, collects=True)

    def raced(self) -> None:
        """Two nights at once; one of them may be killed."""
        self.shop.change()
        waits = [self.draw.random() < 0.7 for _ in range(2)]
        weather = self._weather()
        with (
            self._night("raced", weather, waits=waits[0]) as first,
            self._night("raced", weather, waits=waits[1]) as second,
        ):
            if self.draw.random() < 0.5:
                self._kill_later(self.draw.choice([first, second]))
            for child in (first, second):
                self._ended(child, "LakeBusy")
        self._look()

    def stopped_and_taken_over_from(self, where: dict[str, Any] | None = None) -> None:
        """A night that is stopped, anywhere by default, and goes on when the next has taken over and ended."""
        self.shop.change()
        where = where or {"ends_at": self.draw.randint(1, self._operations)}
        with self._night("stopped", signal=signal.SIGSTOP, lease_seconds=SHORT_LEASE, **where) as first:
            if first.wait_until_stopped():
                self.shop.change(2)
                try:
                    with self._night("took over", endpoint=None, waits=True) as second:
                        self._ended(second)
                finally:
                    first.send(signal.SIGCONT)
            self._ended(first, "LeaseLost", "LakeBusy")
        self._look()

    def on_changing_pictures(self) -> None:
        with self._night("on changing pictures", self._weather()) as child:
            for _ in range(3):
                time.sleep(self.draw.uniform(0, self._seconds / 3))
                self.shop.change_under_the_night()
            self._ended(child)
        self._look()

    def in_bad_weather(self, weather: Weather = BAD) -> None:
        self.shop.change()
        self._alone("in bad weather", weather)

    def expired(self) -> None:
        """The token ends in the middle of the night, and is renewed some requests later, or not."""
        self.shop.change()
        first = self.draw.randint(1, self._operations)
        self._alone("expired", Weather(expired=range(first, first + self.draw.choice([2, 10, 10**6]))), "expired")

    def without_signs_of_life(self) -> None:
        """A slow night whose signs of life are refused or late; another waits for it, and takes over."""
        self.shop.change()
        renewals: Renewals = self.draw.choice(["refused", "late"])
        weather = Weather(renewals=renewals, late_seconds=2 * SHORT_LEASE, delay_seconds=0.02)
        with self._night("without signs of life", weather, lease_seconds=SHORT_LEASE) as first:
            time.sleep(self._seconds / 2)
            with self._night("took over", endpoint=None, waits=True) as second:
                self._ended(first, "LeaseLost", "LakeBusy")
                self._ended(second)
        self._look()

    # How

    def _weather(self) -> Weather:
        """Bad in half of the nights; of no account for a local lake."""
        return self.draw.choice([FAIR, BAD])

    def _alone(self, what: str, weather: Weather = FAIR, may_say: str = "", **work: Any) -> None:
        with self._night(what, weather, **work) as child:
            self._ended(child, may_say or "nothing")
        self._look()

    def _look(self) -> None:
        """What a reader sees now, whatever has just ended, is whole."""
        seen = self.oracle.unseen_states(open_lake(self.lake_uri), self.shop.ever)
        self.log.compared(f"looked at after {self._runs[-1][0].run_id}", len(self.shop.content), seen)

    @contextmanager
    def _night(
        self, what: str, weather: Weather = FAIR, *, endpoint: str | None = "the proxy's", **options: Any
    ) -> Iterator[Child]:
        """A run that begins; with an S3 lake through a passage of its own unless there is to be none."""
        number = f"{len(self._runs):04d}"
        run_id = f"{self._seed}-{number}"
        work = Work(
            run_id, self.lake_uri, self.shop.uri, self._directory / f"{number}.json", without=self._without, **options
        )
        self._runs.append((work, "begun"))
        process: ForkServerProcess | None = None
        with self._passage(work, weather, endpoint) as passage:
            if passage is not None:
                passage.victim = lambda: None if process is None else process.pid
                work = replace(work, ends_at=None, environment=_reaching(passage.endpoint))
            elif self._proxy is not None:
                work = replace(work, environment=_reaching(os.environ["AWS_ENDPOINT_URL"]))
            process = _children.Process(target=run, args=(work,), name=run_id)
            process.start()
            yield Child(what, work, process, time.monotonic())
            if passage is not None and what != "killed while it collects":
                self._operations = max(self._operations // 2, passage.requests)

    def _passage(self, work: Work, weather: Weather, endpoint: str | None) -> Any:
        if self._proxy is None or endpoint is None:
            return nullcontext()
        if work.ends_at is not None:
            after = self.draw.random() < 0.5
            weather = replace(weather, ends_at=work.ends_at, ends_on=work.ends_on, signal=work.signal, ends_after=after)
        return Passage(self._proxy, work.run_id, weather, seed=work.run_id)

    def _kill_later(self, child: Child) -> None:
        child.process.join(self.draw.uniform(0, self._seconds))
        child.send(signal.SIGKILL)

    def _ended(self, child: Child, *may_say: str) -> Event:
        """Wait for the run and log it. One that may not fail so is a difference."""
        event = child.ended()
        self.log.event(event)
        at = next(at for at, (work, _) in enumerate(self._runs) if work.run_id == child.work.run_id)
        self._runs[at] = child.work, event.outcome
        wrong = event.outcome in ("hung", "died") or event.error.startswith("no error for people")
        if event.outcome == "failed" and not any(each in event.error for each in may_say):
            wrong = True
        if wrong:
            self.log.compared(event.run_id, 0, [f"{event.what}, it {event.outcome}: {event.error}"])
        return event


def _reaching(endpoint: str) -> tuple[tuple[str, str], ...]:
    """The environment of a child, which a fork server has that was perhaps begun under another."""
    aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return tuple((aws | {"AWS_ENDPOINT_URL": endpoint}).items())
