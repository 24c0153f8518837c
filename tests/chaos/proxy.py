"""Stands between a night and a real S3 server, on real sockets, and spoils some of what passes. Logs each request.

    client ── one TCP connection ── Passage ── another ── server

A request is passed on as it came, its signature with it (the Host header stays the client's). One `Passage` has a port
of its own, and so is one night's. What a fault is to do is drawn with the passage's seed, in the order in which
requests come.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

Fault = Literal["busy", "reset", "short", "stall", "lost", "lost new", "expired", "renewal"]
Renewals = Literal["pass", "refused", "late"]
FAULTS: Mapping[Fault, str] = {
    "busy": "503 instead of an answer",
    "reset": "connection reset in the middle of a body",
    "short": "body ends before its length",
    "stall": "no answer, then a reset",
    "lost": "a write done, its answer lost",
    "lost new": "a put-if-absent done, its answer lost",
    "expired": "403 ExpiredToken",
    "renewal": "a sign of life refused or late",
}
STALL_SECONDS = 3.0
LARGEST_HEAD = 1 << 16
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, no time to linger: closing resets


@dataclass(frozen=True)
class Weather:
    """How often what goes wrong, for requests that it can happen to."""

    rates: Mapping[Fault, float] = field(default_factory=dict)
    expired: range = range(0)  # the requests that meet an expired token
    ends_at: int | None = None  # the how manieth request, of those whose path matches, at which the client's process is
    signal: int = signal.SIGKILL  # sent the signal
    ends_on: str = ""
    ends_after: bool = False  # the server has done it, or has not seen it
    delay_seconds: float = 0.0  # before each request
    renewals: Renewals = "pass"  # signs of life
    late_seconds: float = 0.0


@dataclass(frozen=True)
class Request:
    """A request's head, as it came."""

    head: bytes
    method: str
    path: str
    headers: Mapping[str, str]

    @classmethod
    def parse(cls, head: bytes) -> Request:
        line, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = line.split(" ", 2)
        pairs = (each.split(":", 1) for each in lines if each)
        return cls(head, method, path, {name.strip().lower(): value.strip() for name, value in pairs})

    @property
    def is_new(self) -> bool:
        """Whether it is a put-if-absent."""
        return self.method == "PUT" and "if-none-match" in self.headers

    @property
    def is_sign_of_life(self) -> bool:
        return self.method == "PUT" and "/running/" in self.path


@dataclass(frozen=True)
class Answer:
    """A response as it came, its body with whatever framing it has."""

    head: bytes
    body: bytes
    closes: bool  # no other request may follow


@dataclass(frozen=True)
class Logged:
    """One line of the log."""

    at: float
    night: str
    number: int
    method: str
    path: str
    fault: Fault | None
    signalled: bool = False


class Lost(Exception):
    """The connection is reset instead of an answer."""


class Proxy:
    """Passages to one server, in a thread of their own, and the log of them all."""

    def __init__(self, server: tuple[str, int], log: Path) -> None:
        self.server = server
        self.loop = asyncio.new_event_loop()
        self._log = log.open("a")
        self._thread = threading.Thread(target=self.loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        self._log.close()

    def call(self, work: Coroutine[Any, Any, None]) -> None:
        """Have it done in the proxy's thread."""
        asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def log(self, line: Logged) -> None:
        """Write a line that stays when this process is killed."""
        self._log.write(json.dumps(asdict(line)) + "\n")
        self._log.flush()


class Passage:
    """One night's way to the server: a port, its weather, and the process that a kill is meant for."""

    def __init__(self, proxy: Proxy, night: str, weather: Weather, *, seed: str) -> None:
        self.night = night
        self.victim: Callable[[], int | None] = lambda: None
        self.requests = 0
        self._matching = 0
        self._signs_of_life = 0
        self._proxy = proxy
        self._weather = weather
        self._draw = random.Random(seed)  # noqa: S311 (a test's seed)
        self._listener: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._proxy.call(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.call(self._close())

    @property
    def endpoint(self) -> str:
        """The URL that the night is given for the server's."""
        assert self._listener is not None
        return f"http://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    async def _open(self) -> None:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=LARGEST_HEAD)

    async def _close(self) -> None:
        assert self._listener is not None
        self._listener.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        server: asyncio.StreamWriter | None = None
        try:
            answers, server = await asyncio.open_connection(*self._proxy.server, limit=LARGEST_HEAD)
            while await self._pass_on(reader, writer, answers, server):
                pass
        except Lost:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        except (OSError, EOFError, asyncio.CancelledError):  # either side has gone
            pass
        finally:
            self._clients.discard(task)
            for each in (writer, server):
                if each is not None:
                    each.close()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        server: asyncio.StreamWriter,
    ) -> bool:
        """One request and its answer; False where the connection ends with it. Raises Lost."""
        request = Request.parse(await reader.readuntil(b"\r\n\r\n"))
        body = await reader.readexactly(int(request.headers.get("content-length", "0")))
        self.requests += 1
        matches = re.search(self._weather.ends_on, request.path) is not None
        self._matching += matches
        self._signs_of_life += request.is_sign_of_life
        number, fault = self.requests, self._fault(request)
        ends = matches and self._matching == self._weather.ends_at
        if ends and not self._weather.ends_after:
            self._end(request, number)
        await asyncio.sleep(self._weather.delay_seconds)
        if fault is not None:
            self._log(request, number, fault)
        if fault in ("busy", "expired") or (fault == "renewal" and self._weather.renewals == "refused"):
            writer.write(_refusal("ExpiredToken" if fault == "expired" else "SlowDown"))
            await writer.drain()
            return True
        if fault == "stall":
            await asyncio.sleep(STALL_SECONDS)
            raise Lost
        if fault == "renewal":
            await asyncio.sleep(self._weather.late_seconds)
        server.write(request.head + body)
        answer = await _read_answer(answers, request.method)
        if ends and self._weather.ends_after:
            self._end(request, number)
        if fault is None:
            self._log(request, number, None)
        if fault in ("lost", "lost new"):
            raise Lost
        if fault in ("reset", "short") and len(answer.body) > 1:
            writer.write(answer.head + answer.body[: len(answer.body) // 2])
            await writer.drain()
            if fault == "reset":
                raise Lost
            return False
        writer.write(answer.head + answer.body)
        await writer.drain()
        return not answer.closes

    def _fault(self, request: Request) -> Fault | None:
        """What goes wrong with this request."""
        if self.requests in self._weather.expired:
            return "expired"
        if request.is_sign_of_life and self._weather.renewals != "pass" and self._signs_of_life > 1:
            return "renewal"
        possible: dict[str, bool] = {
            "busy": True,
            "stall": True,
            "reset": request.method == "GET",
            "short": request.method == "GET",
            "lost new": request.is_new,
            "lost": request.method in ("PUT", "POST", "DELETE") and not request.is_new,
        }
        for fault, rate in self._weather.rates.items():
            if possible[fault] and self._draw.random() < rate:
                return fault
        return None

    def _log(self, request: Request, number: int, fault: Fault | None, *, signalled: bool = False) -> None:
        path = request.path.partition("?")[0]
        self._proxy.log(Logged(time.time(), self.night, number, request.method, path, fault, signalled))

    def _end(self, request: Request, number: int) -> None:
        process = self.victim()
        if process is not None:
            with suppress(ProcessLookupError):
                os.kill(process, self._weather.signal)
        self._log(request, number, None, signalled=True)
        raise Lost


async def _read_answer(answers: asyncio.StreamReader, method: str) -> Answer:
    head = await answers.readuntil(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").lower().split("\r\n")
    headers = dict(each.split(": ", 1) for each in lines if ": " in each)
    closes, status = headers.get("connection") == "close", int(status_line.split(" ")[1])
    if method == "HEAD" or status in (204, 304):
        return Answer(head, b"", closes)
    if "chunked" in headers.get("transfer-encoding", ""):
        return Answer(head, await _read_chunks(answers), closes)
    if "content-length" not in headers:
        return Answer(head, await answers.read(), closes=True)
    return Answer(head, await answers.readexactly(int(headers["content-length"])), closes)


async def _read_chunks(answers: asyncio.StreamReader) -> bytes:
    """A chunked body with its framing."""
    body = b""
    while True:
        line = await answers.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        body += line + await answers.readexactly(size + 2)
        if size == 0:
            return body


def _refusal(code: str) -> bytes:
    status = "403 Forbidden" if code == "ExpiredToken" else "503 Slow Down"
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>the harness says so</Message></Error>"
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()
