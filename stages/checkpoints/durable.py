"""Files that survive: whole or absent whatever happens to their writer, and proof of their bytes.

Stronger than ``stages.files.new_file``, which guards what a stage can make again: these files are
written beside a training that may be killed at any moment, by several runs at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

#: In a folder that trainings use: locked while one does, and as old as its last use.
IN_USE = ".in-use"

#: Bytes of the seal, which stands before the content.
SEAL_BYTES = hashlib.sha256().digest_size


class DamagedFileError(Exception):
    """The content is not what its seal was made for."""


@contextlib.contextmanager
def durable_file(path: Path) -> Iterator[BinaryIO]:
    """A new file to write to, which takes the place of ``path`` once it is on the disk.

    Raises:
        OSError: the disk is full, or the place cannot be written to; ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, handle = _open_partial(path)
    with handle:
        try:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
            # Before the handle is closed: its lock is what keeps others from removing the partial.
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    # A rename is on the disk when its folder is.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _open_partial(path: Path) -> tuple[Path, BinaryIO]:
    while True:
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        handle = partial.open("xb")
        # Some network file systems have no locks; then abandoned partials stay.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        # Somebody may have taken it for an abandoned one before it was locked.
        if partial.exists():
            return partial, handle
        handle.close()


def remove_abandoned(folder: Path) -> None:
    """Remove the partials of writers that were killed; those of living writers are locked."""
    for partial in folder.glob(".*.partial"):
        # Also raised where the lock is held.
        with contextlib.suppress(OSError), partial.open("r+b") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink()


class Hold:
    """A folder that others do not clear away until this is closed, or forgotten.

    It ends at the latest with the process, however that ends.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.close()


def hold(folder: Path) -> Hold | None:
    """Keep others from clearing a folder away, and mark it as used now.

    None where there is no such folder, or where its file system has no locks.
    """
    with contextlib.suppress(OSError):
        while True:
            descriptor = os.open(folder / IN_USE, os.O_RDWR | os.O_CREAT, 0o666)
            held = Hold(descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            # Somebody may have cleared it away before it was locked.
            if os.fstat(descriptor).st_nlink:
                os.utime(descriptor)
                return held
            held.close()
    return None


@contextlib.contextmanager
def unheld(folder: Path) -> Iterator[bool]:
    """Whether nobody holds a folder; nobody can begin to while the context lasts.

    Where there are no locks it cannot be told, and counts as held.
    """
    try:
        handle = (folder / IN_USE).open("r+b")
    except FileNotFoundError:
        yield True
        return
    except OSError:
        yield False
        return
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            free = False
        else:
            free = True
        yield free


def seal(identity: str, content: bytes | memoryview) -> bytes:
    """The sha256 of what a file is and what it holds."""
    digest = hashlib.sha256(identity.encode() + b"\0")
    digest.update(content)
    return digest.digest()


def open_sealed(path: Path, identity: str) -> memoryview:
    """The content of a file that begins with its :func:`seal`, memory-mapped.

    Writing to the memory does not change the file.

    Raises:
        DamagedFileError: a byte is another, some are missing, or it is some other file.
        OSError: there is no such file, or it cannot be read.
    """
    with path.open("rb") as handle:
        if os.fstat(handle.fileno()).st_size < SEAL_BYTES:
            raise DamagedFileError
        whole = memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY))
    content = whole[SEAL_BYTES:]
    if whole[:SEAL_BYTES] != seal(identity, content):
        raise DamagedFileError
    return content
