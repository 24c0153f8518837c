"""Objects as files below a local directory: written whole, on the disk before they are visible.

obstore's own local store syncs nothing: after a power failure a name could be there without its bytes.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from lake.errors import LakeError

_PARTIAL = re.compile(r"#[0-9a-f]+$")  # delta-rs counts the names of its own: `00000000000000000007.json#1`
_ATTEMPTS = 8  # to write into a folder that others remove as soon as it is empty


def is_below(path: str) -> bool:
    """Whether a path, which may come from stored data, stays below the root that it starts from."""
    return "\0" not in path and not any(part in ("", ".", "..") for part in path.split("/"))


def inside(root: Path, path: str) -> Path:
    """The file of an object. Raises LakeError where the path, which may come from stored data, leads elsewhere."""
    if not is_below(path):
        raise LakeError(f"{path!r} is no path below {root}: whoever names it is damaged, or means harm")
    return root / path


def is_partial(path: str) -> bool:
    """Whether a name is one that bytes have until they are whole; a killed writer leaves it behind."""
    return _PARTIAL.search(path) is not None


def write(target: Path, data: bytes | Path, *, new: bool = False, durable: bool = True) -> None:
    """Write a file whole; readers see the old bytes or the new. Raises FileExistsError where it is to be `new`.

    `durable`: bytes, name and folder are on the disk when this returns, the bytes before the name.
    """
    partial = target.with_name(f"{target.name}#{uuid.uuid4().hex}")
    try:
        _fill(partial, data, durable=durable)
        if new:
            os.link(partial, target)  # a rename would replace what is there
        else:
            partial.replace(target)
    except IsADirectoryError as error:
        raise LakeError(f"{target} can't be written: a folder has this name") from error
    finally:
        with suppress(OSError):  # renamed, or never made
            partial.unlink()
    if durable:
        sync_folder(target.parent)


def _fill(partial: Path, data: bytes | Path, *, durable: bool) -> None:
    for attempt in range(_ATTEMPTS):
        _make_folder(partial.parent, durable=durable)
        try:
            file = partial.open("xb")
        except FileNotFoundError:
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            break
    with file:
        if isinstance(data, bytes):
            file.write(data)
        else:
            with data.open("rb") as source:
                shutil.copyfileobj(source, file, 1 << 20)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def _make_folder(folder: Path, *, durable: bool) -> None:
    """The folder and those above it, each on the disk too."""
    if folder.is_dir():
        return
    _make_folder(folder.parent, durable=durable)
    try:
        folder.mkdir(exist_ok=True)
    except FileNotFoundError:  # the one above was empty, and others have just removed it: the caller tries again
        return
    except (FileExistsError, NotADirectoryError) as error:
        raise LakeError(f"{folder} can't be written: a part of its path is a file") from error
    if durable:
        sync_folder(folder.parent)


def sync(path: Path) -> None:
    """Have a file that others wrote, and its name, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where its file system can; one that is gone needs nothing."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def remove(root: Path, target: Path) -> None:
    """Remove a file, and the folders below `root` that are empty without it. One that is gone is no error."""
    target.unlink(missing_ok=True)
    for folder in target.parents:
        if folder == root:
            return
        try:
            folder.rmdir()
        except OSError:  # it holds something else, or is gone
            return


def remove_empty_folders(folder: Path, before: float) -> None:
    """Remove the empty folders below one that have not changed since a time (seconds since 1970)."""
    for name, _, _ in os.walk(folder, topdown=False):
        path = Path(name)
        with suppress(OSError):  # not empty, or gone
            if path != folder and path.stat().st_mtime <= before:
                path.rmdir()
