"""What decoders of tests call instead of `read_picture`: the bytes after a picture's end say what happens to it."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from model.errors import Undecodable
from tasks.pictures import StoredPicture, read_picture

Reserve = Callable[[int, bool], object]


def read(data: bytes, *, max_pixels: int, reserve: Reserve) -> StoredPicture:
    """As `read_picture`, after the harm that the last bytes name."""
    for harm, act in HARMS.items():
        if data.endswith(harm):
            act(data, reserve)
    return read_picture(data, max_pixels=max_pixels, reserve=reserve)


def _kill(number: int) -> Callable[[bytes, Reserve], None]:
    return lambda _data, _reserve: os.kill(os.getpid(), number)


def _hang(_data: bytes, _reserve: Reserve) -> None:
    while True:
        time.sleep(60)


def _hog(_data: bytes, reserve: Reserve) -> None:
    reserve(1, False)
    hoard = []
    while True:
        hoard.append(bytearray(2**26))


def _once(data: bytes, _reserve: Reserve) -> None:
    """Dies of it the first time only."""
    mark = Path(os.environ["HOSTILE_FOLDER"], hashlib.sha256(data).hexdigest())
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def _chatter(_data: bytes, _reserve: Reserve) -> None:
    os.write(2, b"TIFFReadDirectory: something odd\x1b[31m\n" + b"and again\n" * 1023)


def _alone(_data: bytes, reserve: Reserve) -> None:
    """Takes 100 MB, and refuses where another has taken them, too."""
    reserve(100 * 2**20, False)
    mark = Path(os.environ["HOSTILE_FOLDER"], "taken")
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        raise Undecodable("two at once") from None
    time.sleep(0.03)
    mark.unlink()


HARMS: dict[bytes, Callable[[bytes, Reserve], None]] = {
    b"SEGV": _kill(signal.SIGSEGV),
    b"ABRT": _kill(signal.SIGABRT),
    b"EXIT": lambda _data, _reserve: os._exit(3),
    b"HANG": _hang,
    b"HOG": _hog,
    b"ONCE": _once,
    b"CHATTER": _chatter,
    b"ALONE": _alone,
}
