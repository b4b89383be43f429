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
