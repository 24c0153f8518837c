"""What a pool and its decoders say to each other over a socket: a kind, a length, and so many bytes.

A decoder has read hostile bytes, so nothing that comes from one is unpickled or evaluated.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Sequence

_HEADER = struct.Struct("<cQ")
MOST_BYTES = 2**40
_FIRST_BYTES = 2**15

# to a decoder
PICTURES = b"P"  # see `packed`
GO = b"G"  # the memory that was asked for is there
# from a decoder
NEED = b"N"  # <Q: so many bytes of memory, before a pixel is decoded
UNPREPARED = b"U"  # it takes PyTorch to resize, which this decoder has not got
DONE = b"D"  # JSON of what became of each picture, a zero byte, their JPEGs one after the other
# to the server, each with an answer of the same kind
FORK = b"F"  # with a socket: the new decoder's end of it; <q: its process
LOAD = b"L"  # load PyTorch, for decoders forked from now on
ENDED = b"W"  # <q: a process; <q: its exit code, negative for a signal


def packed(max_pixels: int, files: Sequence[bytes]) -> list[bytes]:
    """The body of PICTURES in parts: most pixels, how many files, their lengths, the files."""
    return [struct.pack(f"<QI{len(files)}Q", max_pixels, len(files), *map(len, files)), *files]


def unpacked(body: bytes) -> tuple[int, list[bytes]]:
    """What `packed` took."""
    max_pixels, count = struct.unpack_from("<QI", body)
    lengths, at, files = struct.unpack_from(f"<{count}Q", body, 12), 12 + 8 * count, []
    for length in lengths:
        files.append(body[at : at + length])
        at += length
    return max_pixels, files


class Channel:
    """One end of a socket over which each side speaks in turn.

    A call to the system for each message: there and back for every picture, they would cost a tenth of decoding it. The
    kernel watches the time, because Python would ask it before each call.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        self._connection = connection

    def wait_at_most(self, seconds: float) -> None:
        """Raise TimeoutError where the other side needs longer; 0 waits for ever."""
        limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._connection.setsockopt(socket.SOL_SOCKET, option, limit)

    def send(self, kind: bytes, *parts: bytes) -> None:
        """Send one message, its body in parts. Raises OSError where the other side is gone, TimeoutError."""
        message = [_HEADER.pack(kind, sum(map(len, parts))), *parts]
        try:
            sent = self._connection.sendmsg(message)
            if sent < sum(map(len, message)):
                self._connection.sendall(memoryview(b"".join(message))[sent:])
        except BlockingIOError:
            raise TimeoutError from None

    def receive(self) -> tuple[bytes, bytes]:
        """Wait for one message. Raises EOFError where the other side is gone, OSError, TimeoutError."""
        data = self._some(_FIRST_BYTES)
        while len(data) < _HEADER.size:
            data += self._some(_FIRST_BYTES)
        kind, length = _HEADER.unpack_from(data)
        missing = _HEADER.size + length - len(data)
        if missing < 0 or length > MOST_BYTES:
            raise EOFError("not a message")
        if not missing:
            return kind, data[_HEADER.size :]
        return kind, data[_HEADER.size :] + self._exactly(missing)

    def waits(self) -> bool:
        """Whether the other side has nothing to say; one that is gone can be read from: its end."""
        poll = select.poll()  # not select, which knows no descriptor beyond 1024
        poll.register(self._connection, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Let the other side see that this one is gone."""
        self._connection.close()

    def _exactly(self, count: int) -> bytearray:
        data = bytearray(count)
        view, at = memoryview(data), 0
        while at < count:
            try:
                received = self._connection.recv_into(view[at:])
            except BlockingIOError:
                raise TimeoutError from None
            if not received:
                raise EOFError("the other side is gone")
            at += received
        return data

    def _some(self, most: int) -> bytes:
        try:
            data = self._connection.recv(most)
        except BlockingIOError:
            raise TimeoutError from None
        if not data:
            raise EOFError("the other side is gone")
        return data
