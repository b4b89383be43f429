"""Files that are either complete or absent, whatever happens to their writer, and sealed.

Safer than ``stages.files.new_file``, whose files a stage can make again: several runs may write
these at once, and each may be killed at any moment.
"""

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

#: Lock file of a folder, locked while a training uses it; its mtime is the last use.
IN_USE = ".in-use"

#: Bytes of the seal, which precedes the content.
SEAL_BYTES = hashlib.sha256().digest_size

_ABANDONED_SECONDS = 3600.0  # no writer takes this long
_held: dict[Path, int] = {}  # descriptors of locked files


class DamagedFileError(Exception):
    """The content does not match its seal."""


@contextlib.contextmanager
def durable_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces ``path`` once it is on disk.

    Removes leftovers of killed writers beside it.

    Raises:
        OSError: the disk is full or the folder not writable; ``path`` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for partial in path.parent.glob(".*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > _ABANDONED_SECONDS:
                partial.unlink()
    # Not named by process id, as in new_file, because containers may share a folder and the id.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    # A rename is durable once its folder is synced.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def hold(folder: Path) -> None:
    """Keep others from removing a folder until :func:`release`, and mark it as used now.

    The lock ends at the latest with the process, however that ends. Does nothing if the folder is
    held already or does not exist, or its file system has no locks.
    """
    path = (folder / IN_USE).absolute()
    with contextlib.suppress(OSError):
        while path not in _held:
            _held[path] = descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            # Another process may have removed it before it was locked.
            if os.fstat(descriptor).st_nlink:
                os.utime(descriptor)
            else:
                release(folder)


def release(folder: Path) -> None:
    """Let others remove a folder again."""
    if (descriptor := _held.pop((folder / IN_USE).absolute(), None)) is not None:
        os.close(descriptor)


def seal(identity: str, content: bytes | memoryview) -> bytes:
    """Return the sha256 of a file's identity and content."""
    digest = hashlib.sha256(identity.encode() + b"\0")
    digest.update(content)
    return digest.digest()


def open_sealed(path: Path, identity: str) -> memoryview:
    """Return the content of a file that begins with its :func:`seal`, memory-mapped.

    Writing to the memory does not change the file.

    Raises:
        DamagedFileError: bytes differ or are missing, or the file has another identity.
        OSError: there is no such file, or it is not readable.
    """
    with path.open("rb") as handle:
        if os.fstat(handle.fileno()).st_size < SEAL_BYTES:
            raise DamagedFileError
        whole = memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY))
    content = whole[SEAL_BYTES:]
    if whole[:SEAL_BYTES] != seal(identity, content):
        raise DamagedFileError
    return content
