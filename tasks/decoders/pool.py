"""Pictures in, stored pictures out, decoded in other processes: a crash, a hang or too much memory costs one picture.

A thread that has some pictures borrows a decoder, hands them over and waits. Where the decoder dies or takes too long,
each goes alone to another one, twice at most: the one that ends that one, too, is refused. All decoders of a process
share one budget of memory.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from model.errors import Undecodable
from tasks.budget import Budget
from tasks.decoders import messages
from tasks.decoders.messages import Channel
from tasks.pictures import StoredPicture

logger = logging.getLogger(__name__)

READER = "tasks.pictures:read_picture"
ATTEMPTS = 2  # of a picture whose decoder died: the kernel may have ended it for another's memory
_LARGE_BYTES = 256 * 2**20  # of a picture after which a decoder is replaced rather than kept
_START = "import sys; sys.path[:] = sys.argv[3:]; from tasks.decoders.server import main; main(int(sys.argv[1]), sys.argv[2])"  # fmt: skip  # noqa: E501


@dataclass(frozen=True)
class DecodingLimits:
    """What one picture, and all that are decoded at once, may take."""

    max_pixels: int
    decode_bytes: int
    decode_seconds: float


class Decoders:
    """Decoders of one process under the same limits. Safe from any thread."""

    def __init__(self, limits: DecodingLimits) -> None:
        self._limits = limits
        self._budget = Budget(limits.decode_bytes)
        self._idle: list[_Decoder] = []

    def read_all(self, pictures: Sequence[tuple[str, bytes]]) -> list[StoredPicture | str]:
        """Of each picture, its name for the log beside it, what `read_picture` gives, or the reason why it has none.

        One decoder takes them together, which spares waiting for each; where that does not end well, each goes alone.
        """
        if len(pictures) > 1:
            with self._borrowed(fresh=False) as decoder:
                try:
                    return decoder.read(pictures, self._budget)
                except _Unprepared:
                    _here.server().load()
                except (OSError, EOFError):
                    decoder.end()
        return [self._alone(name, data) for name, data in pictures]

    def read(self, data: bytes, name: str) -> StoredPicture:
        """One picture. Raises Undecodable where it is none, or where decoding it ended or held up its decoder."""
        (outcome,) = self.read_all([(name, data)])
        if isinstance(outcome, str):
            raise Undecodable(outcome)
        return outcome

    def _alone(self, name: str, data: bytes) -> StoredPicture | str:
        deaths = 0
        while True:
            with self._borrowed(fresh=deaths > 0) as decoder:
                try:
                    return decoder.read([(name, data)], self._budget)[0]
                except _Unprepared:
                    _here.server().load()
                    continue
                except TimeoutError:
                    reason = f"decoding it took longer than {self._limits.decode_seconds:g} s"
                    logger.warning("%s is rejected: %s", name, reason)
                    return reason
                except (OSError, EOFError):
                    exit_code = decoder.end()
            if exit_code == 0:
                continue  # it had nothing to do for so long that it left
            deaths += 1
            logger.warning("decoding %s ended its process: %s", name, _name(exit_code))
            if deaths == ATTEMPTS:
                return f"decoding it ends its process: {_name(exit_code)}"

    @contextmanager
    def _borrowed(self, *, fresh: bool) -> Iterator[_Decoder]:
        """A decoder for one picture; it is kept only where it answered."""
        decoder = (None if fresh else self._waiting()) or _Decoder(self._limits, *_here.fork())
        try:
            yield decoder
        finally:
            if decoder.may_go_on:
                self._idle.append(decoder)
            else:
                decoder.end()

    def _waiting(self) -> _Decoder | None:
        """An idle decoder that is still there: no picture is to answer for one that ended meanwhile."""
        while True:
            try:
                decoder = self._idle.pop()
            except IndexError:  # another thread may have taken the last
                return None
            if decoder.channel.waits():
                return decoder
            decoder.end()

    def close(self) -> None:
        """End the decoders that have nothing to do."""
        while self._idle:
            self._idle.pop().end()


def decoders(limits: DecodingLimits) -> Decoders:
    """The decoders of this process under these limits."""
    return _here.decoders(limits)


class _Unprepared(Exception):
    """The decoder was forked before PyTorch was loaded."""


class _Decoder:
    """The near end of one decoder."""

    def __init__(self, limits: DecodingLimits, server: _Server, process: int, connection: socket.socket) -> None:
        self._server = server
        self._process = process
        self.channel = Channel(connection)
        self.channel.wait_at_most(limits.decode_seconds)
        self._limits = limits
        self._exit_code: int | None = None
        self.may_go_on = False

    def read(self, pictures: Sequence[tuple[str, bytes]], budget: Budget) -> list[StoredPicture | str]:
        """What became of each. Raises as the channel does, and _Unprepared."""
        self.may_go_on = False
        needed = most = 0
        try:
            files = [data for _, data in pictures]
            self.channel.send(messages.PICTURES, *messages.packed(self._limits.max_pixels, files))
            kind, body = self.channel.receive()
            while kind == messages.NEED:
                budget.give_back(needed)
                (needed,) = struct.unpack("<Q", body)
                most = max(most, needed)
                budget.take(needed)
                self.channel.send(messages.GO)
                kind, body = self.channel.receive()
        finally:
            budget.give_back(needed)
        if kind == messages.UNPREPARED:
            raise _Unprepared
        self.may_go_on = most < _LARGE_BYTES
        return list(_outcomes(body, [name for name, _ in pictures]))

    def end(self) -> int:
        """Its exit code, negative for a signal; it is killed where it does not end by itself."""
        if self._exit_code is None:
            self.channel.close()
            self._exit_code = self._server.ended(self._process)
        return self._exit_code


def _outcomes(body: bytes, names: Sequence[str]) -> Iterator[StoredPicture | str]:
    text, _, pixels = body.partition(b"\0")
    at = 0
    for name, head in zip(names, json.loads(text), strict=True):
        said, length = head.pop("said"), head.pop("bytes")
        if said:
            logger.info("of %s a codec says: %s", name, said)
        if "reason" in head:
            yield str(head["reason"])
            continue
        remark = head.pop("remark") or (f"a codec says: {said}" if said else None)
        yield StoredPicture(**head, pixels=pixels[at : at + length], remark=remark)
        at += length


class _Server:
    """The near end of the process that forks decoders."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection, theirs = socket.socketpair()
        self.loaded = False
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-c", _START, str(theirs.fileno()), READER, *sys.path]
        with theirs:
            self._popen = subprocess.Popen(  # noqa: S603 (this interpreter, our own module)
                command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL
            )

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def fork(self) -> tuple[int, socket.socket]:
        """A new decoder: its process, and the near end of its socket."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                return self._ask(messages.FORK, 0, theirs), ours
            except BaseException:
                ours.close()
                raise

    def load(self) -> None:
        """Have PyTorch in the decoders forked from now on; takes seconds the first time."""
        if not self.loaded:
            self._ask(messages.LOAD)
            self.loaded = True

    def ended(self, process: int) -> int:
        """The exit code of a decoder, which is killed if it has not ended."""
        try:
            return self._ask(messages.ENDED, process)
        except (OSError, EOFError):
            return -signal.SIGKILL  # the server kills its decoders when it ends

    def close(self) -> None:
        """End it, and with it its decoders."""
        self._connection.close()
        self._popen.wait()

    def _ask(self, kind: bytes, number: int = 0, descriptor: socket.socket | None = None) -> int:
        with self._lock:
            descriptors = [] if descriptor is None else [descriptor.fileno()]
            socket.send_fds(self._connection, [kind + struct.pack("<q", number)], descriptors)
            answer = self._connection.recv(8)
        if len(answer) < 8:
            raise EOFError("the server of the decoders is gone")
        return int(struct.unpack("<q", answer)[0])


class _Here:
    """What this process has: one server, started when it is first needed and again where it is gone, and its pools."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew, as a forked child must: the sockets are its parent's."""
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._pools: dict[DecodingLimits, Decoders] = {}

    def server(self) -> _Server:
        with self._lock:
            if self._server is not None and not self._server.alive:
                self._server.close()
                self._server = None
            self._server = self._server or _Server()
            return self._server

    def fork(self) -> tuple[_Server, int, socket.socket]:
        """A new decoder of the server, and of a new one where it has just gone."""
        server = self.server()
        try:
            return server, *server.fork()
        except (OSError, EOFError):
            server.close()
        server = self.server()
        return server, *server.fork()

    def decoders(self, limits: DecodingLimits) -> Decoders:
        with self._lock:
            return self._pools.setdefault(limits, Decoders(limits))

    def close(self) -> None:
        """End all processes."""
        for pool in self._pools.values():
            pool.close()
        if self._server is not None:
            self._server.close()


_here = _Here()


os.register_at_fork(after_in_child=_here.forget)
atexit.register(_here.close)


def _name(exit_code: int) -> str:
    try:
        return signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
    except ValueError:
        return f"signal {-exit_code}"
