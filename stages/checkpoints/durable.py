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
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

#: In a folder that trainings use: locked while one does, and as old as its last use.
IN_USE = ".in-use"

#: Bytes of the seal, which stands before the content.
SEAL_BYTES = hashlib.sha256().digest_size

_ABANDONED_SECONDS = 3600.0  # no writer takes as long


class DamagedFileError(Exception):
    """The content is not what its seal was made for."""


@contextlib.contextmanager
def durable_file(path: Path) -> Iterator[BinaryIO]:
    """A new file to write to, which takes the place of ``path`` once it is on the disk.

    What writers that were killed left beside it goes.

    Raises:
        OSError: the disk is full, or the place cannot be written to; ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for partial in path.parent.glob(".*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > _ABANDONED_SECONDS:
                partial.unlink()
    # Not by the process's number, as in new_file: containers that share a folder have the same.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    # A rename is on the disk when its folder is.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
