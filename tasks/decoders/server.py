"""The process that forks decoders. It decodes nothing, so it lives; it has one thread, so it may fork.

Forking from a process that has loaded the codecs costs milliseconds where starting an interpreter costs seconds, and
forking from the night's own process, which has threads and locks, would hang some night.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import struct
from importlib import import_module

from tasks.decoders import messages
from tasks.decoders.messages import Channel
from tasks.decoders.worker import IDLE_SECONDS, Read, work


def main(descriptor: int, reader: str) -> None:
    """Serve the pool at the other end of this socket until it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all of a terminal's processes; the pool decides
    module, name = reader.split(":")
    read: Read = getattr(import_module(module), name)
    gc.freeze()
    children = _Children()
    with socket.socket(fileno=descriptor) as pool:
        pool.settimeout(IDLE_SECONDS)
        while True:
            try:
                _serve(pool, children, read)
            except TimeoutError:
                if not children.left():
                    break
            except (OSError, EOFError):
                break
    children.kill()


class _Children:
    """The decoders that were forked and not yet asked after."""

    def __init__(self) -> None:
        self._exit_codes: dict[int, int | None] = {}

    def add(self, process: int) -> None:
        self._exit_codes[process] = None

    def left(self) -> bool:
        """Whether one is still there."""
        for process, exit_code in self._exit_codes.items():
            if exit_code is None and (ended := os.waitpid(process, os.WNOHANG))[0]:
                self._exit_codes[process] = os.waitstatus_to_exitcode(ended[1])
        return None in self._exit_codes.values()

    def ended(self, process: int) -> int:
        """Its exit code; it is killed if it has none yet."""
        exit_code = self._exit_codes.pop(process)
        if exit_code is None:
            os.kill(process, signal.SIGKILL)  # of no consequence to one that is ending
            exit_code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        return exit_code

    def kill(self) -> None:
        for process in list(self._exit_codes):
            self.ended(process)


def _serve(pool: socket.socket, children: _Children, read: Read) -> None:
    data, descriptors, _, _ = socket.recv_fds(pool, 9, 1)
    if not data:
        raise EOFError
    kind, (number,) = data[:1], struct.unpack("<q", data[1:])
    if kind == messages.FORK:
        answer = _fork(pool, descriptors[0], read)
        children.add(answer)
    elif kind == messages.ENDED:
        answer = children.ended(number)
    else:
        answer = _load()
    pool.sendall(struct.pack("<q", answer))


def _load() -> int:
    from model.pictures.decode import get_ready

    get_ready()
    import torch

    torch.set_num_threads(1)  # a decoder is one of many
    gc.freeze()
    return 0


def _fork(pool: socket.socket, descriptor: int, read: Read) -> int:
    process = os.fork()
    if process:
        os.close(descriptor)
        return process
    status = 1
    try:
        pool.close()
        work(Channel(socket.socket(fileno=descriptor)), read)
        status = 0
    finally:
        os._exit(status)  # which closes the socket: not before the exit code is settled
