"""What one decoder does in its process: a picture at a time, within its memory, its chatter caught.

Codecs write to stderr as they like. Here that is a file, which is read after each picture.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from model.errors import Undecodable
from tasks.decoders import messages
from tasks.decoders.messages import Channel
from tasks.pictures import StoredPicture

FREE_BYTES = 32 * 2**20  # that every decoder may take without asking
IDLE_SECONDS = 60.0
_SPARE_BYTES = 512 * 2**20  # beyond twice what the header says, before a picture is a memory hog
_SAID_CHARACTERS = 160

Read = Callable[..., StoredPicture]  # of (bytes, max_pixels=, reserve=)


class _Unprepared(BaseException):
    """PyTorch is needed and not loaded. No Exception: nothing on the way may take it for a picture's fault."""


def work(channel: Channel, read: Read) -> None:
    """Answer until the other side is gone, or asks for nothing for a while."""
    said = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process is there)
    for standard in (1, 2):
        os.dup2(said.fileno(), standard)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _rather_than_others()
    memory = _Memory()
    channel.wait_at_most(IDLE_SECONDS)
    try:
        while True:
            kind, body = channel.receive()
            if kind == messages.PICTURES:
                channel.send(*_answer(channel, body, read, memory))
    except (OSError, EOFError):
        return


def _answer(channel: Channel, body: bytes, read: Read, memory: _Memory) -> tuple[bytes, ...]:
    max_pixels, files = messages.unpacked(body)

    def reserve(needed: int, resizes: bool) -> None:
        if resizes and "torch" not in sys.modules:
            raise _Unprepared
        if needed > FREE_BYTES:
            channel.send(messages.NEED, struct.pack("<Q", needed))
            channel.wait_at_most(0)  # others may need it for long
            channel.receive()
            channel.wait_at_most(IDLE_SECONDS)
        memory.allow(needed)

    heads, pixels = [], []
    try:
        for file in files:
            head, jpeg = _outcome(partial(read, file, max_pixels=max_pixels, reserve=reserve))
            heads.append({**head, "said": _said(), "bytes": len(jpeg)})
            pixels.append(jpeg)
    except _Unprepared:
        return (messages.UNPREPARED,)
    return messages.DONE, json.dumps(heads).encode() + b"\0", *pixels


def _outcome(read: Callable[[], StoredPicture]) -> tuple[dict[str, Any], bytes]:
    """What became of one picture: its fields and its pixels, or the reason why it has none."""
    try:
        picture = read()
    except Undecodable as error:
        return {"reason": error.reason}, b""
    except MemoryError:
        return {"reason": "too large: decoding it needs more memory than it may have"}, b""
    fields = ("width", "height", "format", "remark")
    return {name: getattr(picture, name) for name in fields}, picture.pixels


def _said() -> str | None:
    """The first line that codecs wrote of this picture, and how many there were."""
    size = os.fstat(2).st_size
    if not size:
        return None
    text = os.pread(2, min(size, 2**16), 0).decode("utf-8", "replace")
    os.ftruncate(2, 0)
    os.lseek(2, 0, os.SEEK_SET)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    first = "".join(character for character in lines[0] if character.isprintable())[:_SAID_CHARACTERS]
    return first if len(lines) == 1 else f"{first} (and {len(lines) - 1} lines more)"


class _Memory:
    """The limit on this process's memory, where the system has one that counts what is allocated (Linux)."""

    def __init__(self) -> None:
        self._own = _allocated_bytes()
        self._limit = 0
        self.allow(FREE_BYTES)

    def allow(self, needed: int) -> None:
        limit = self._own + 2 * max(needed, FREE_BYTES) + _SPARE_BYTES
        if self._own and limit != self._limit:
            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
            self._limit = limit


def _allocated_bytes() -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:")), 0)


def _rather_than_others() -> None:
    """Where memory runs out all the same, the kernel is to end a decoder and not the night."""
    try:
        Path("/proc/self/oom_score_adj").write_text("800", encoding="ascii")
    except OSError:
        return
