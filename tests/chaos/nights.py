"""The child process: one night on a lake, counted at its storage operations, killed at one of them if asked.

`without` takes a part of the product away, in this process and nowhere else, so that the harness can be seen to fail.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch
from obstore.store import S3Store
from torch import nn

import lake.retries
import lake.s3
import tasks.runner
import tasks.runs
from flows.errors import for_people
from lake.collection_policy import CollectionPolicy
from lake.lake import Lake, open_lake
from lake.lease import Lease
from lake.presence import Presence
from model.backbones.registry import BACKBONES
from model.backbones.spec import BackboneSpec
from model.look import LookConfig, LookNetwork
from model.preprocessing import Preprocessing
from tasks.collect.stage import collect
from tasks.decoders import pool, server
from tasks.ingest.config import IngestConfig
from tasks.looks import seal_look
from tasks.night import NightConfig, night
from tasks.rebuild.config import RebuildConfig
from tasks.runner import Inline, LeaseTerms
from tasks.score.config import ScoreConfig
from tests.small_lake import register_model

ONE_CONVOLUTION = BackboneSpec("one-convolution", lambda: nn.Conv2d(3, 16, 8, stride=8), 16, stages=(("",),))
BACKBONES[ONE_CONVOLUTION.name] = ONE_CONVOLUTION
PATTERN = r"([^/]+)/[^/]+$"
SHARD_PICTURES = 12  # two or three shards a night
NOTHING_KEPT = CollectionPolicy(keep_versions=2, keep_days=0, longest_run_hours=0)

Part = Literal["nothing", "lease", "retries"]
_CHANGES = {"open", "os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir"}


@dataclass(frozen=True)
class Work:
    """What a child is to do, and where it says how it went."""

    run_id: str
    lake: str
    source: str
    said: Path  # JSON; missing where it was killed
    collects: bool = False  # instead of a night
    environment: tuple[tuple[str, str], ...] = ()
    waits: bool = False  # for another run that writes
    lease_seconds: float = 10.0
    request_seconds: float = 2.0  # of the store, before it is asked again
    ends_at: int | None = None  # the how manieth storage operation, of those whose path matches, at which it sends
    signal: int = signal.SIGKILL  # itself the signal
    ends_on: str = ""
    without: Part = "nothing"


@dataclass
class Named(Inline):
    """An inline runner whose outermost run has a given name."""

    name: str = ""

    def run_id(self) -> str:
        return self.name


def make_lake(uri: str) -> None:
    """A lake with a look and a model on it that are as small as any, of random weights."""
    made = open_lake(uri, create=True)
    torch.manual_seed(0)
    draft = made.looks.draft()
    look = LookNetwork(LookConfig(backbone=ONE_CONVOLUTION.name)).eval()
    seal_look(draft, look, Preprocessing(image_size=32), weights="random")
    made.looks.append("promote", draft.version, based_on=None)
    register_model(uri)


def run(work: Work) -> None:
    """Do the work in this process and write what became of it."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    os.environ |= dict(work.environment)
    operations = Operations(work)
    pool._here._server = ForkedServer()
    sys.addaudithook(operations.seen)
    _take_away(work)
    said: dict[str, Any] = {"run_id": work.run_id, "outcome": "completed"}
    try:
        _do(work)
    except BaseException as error:
        known = isinstance(error, Exception) and for_people(error) is not None
        said |= {"outcome": "failed", "kind": type(error).__name__, "error": str(error), "for_people": known}
        if not known:
            said["traceback"] = traceback.format_exc()
    operations.ends_at = None
    work.said.write_text(json.dumps(said | {"operations": operations.count, "cpu_s": time.process_time()}))
    os._exit(0)  # as a night's process has ended: no thread of a store's client is waited for


def _do(work: Work) -> None:
    terms = LeaseTerms(waits=work.waits)
    object.__setattr__(terms, "lease_seconds", work.lease_seconds)  # settings allow no less than 10 s
    runner, lake = Named(terms, retry_seconds=0.1, name=work.run_id), open_lake(work.lake)
    if work.collects:
        collect(lake, NOTHING_KEPT, runner)
        return
    cache = work.said.parent / "cache"
    config = NightConfig(
        ingest=IngestConfig(
            shard_pictures=SHARD_PICTURES,
            product_id_pattern=PATTERN,
            fetch_threads=4,
            decode_threads=2,
            max_deleted_share=1,
        ),
        score=ScoreConfig(shard_pictures=SHARD_PICTURES, decode_threads=1, device="cpu"),
        rebuild=RebuildConfig(shard_vectors=16, cache=cache),
    )
    night(lake, work.source, config, runner)


class ForkedServer(pool._Server):
    """The server of the decoders, forked from this process, which has one thread yet; a new one costs seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection, theirs = socket.socketpair()
        self.loaded = False
        self._process = os.fork()
        if self._process == 0:
            self._connection.close()
            server.main(theirs.detach(), pool.READER)
            os._exit(0)
        theirs.close()

    @property
    def alive(self) -> bool:
        return os.waitpid(self._process, os.WNOHANG)[0] == 0

    def close(self) -> None:
        self._connection.close()


class Operations:
    """Counts what this process does below a local lake's folder, and kills or stops it at one of them.

    What delta-rs and DuckDB do there outside of Python is not seen here; kills at random moments meet it.
    """

    def __init__(self, work: Work) -> None:
        self.count = self._matching = 0
        self.ends_at = work.ends_at
        self._work = work
        self._root = work.lake if "://" not in work.lake else None

    def seen(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._root is None or event not in _CHANGES or not str(arguments[0]).startswith(self._root):
            return
        self.count += 1
        if re.search(self._work.ends_on, str(arguments[0])):
            self._matching += 1
            if self._matching == self.ends_at:
                os.kill(os.getpid(), self._work.signal)


def _take_away(work: Work) -> None:
    patch.object(lake.s3, "REQUEST_SECONDS", work.request_seconds).start()
    if work.without == "lease":
        patch.object(tasks.runs, "acquire", _unasked).start()
    elif work.without == "retries":
        patch.object(lake.retries, "ATTEMPTS", 1).start()
        patch.object(tasks.runner, "RETRIES", 0).start()
        patch.object(lake.s3, "S3Store", _unretried).start()


def _unretried(*named: Any, **options: Any) -> S3Store:
    """A client that asks once."""
    return S3Store(*named, **(options | {"retry_config": {"max_retries": 0}}))


def _unasked(lake: Lake, _presence: Presence, **_terms: object) -> Lease:
    """The right to write, whoever else does."""
    return Lease(lake, 0)
