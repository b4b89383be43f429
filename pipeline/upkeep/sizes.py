"""What folders take on the disk."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from stat import S_ISREG

from rich.filesize import decimal


def show_bytes(count: float) -> str:
    """As ``1.4 GB``, where GB are 10^9 bytes."""
    return decimal(round(count))


def bytes_and_time(folder: Path) -> tuple[int, float]:
    """What the files of a folder take, and when the last of them was written (0 without one)."""
    size, written = 0, 0.0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it may go away meanwhile
                status = Path(place, name).lstat()
                if S_ISREG(status.st_mode):
                    size, written = size + status.st_size, max(written, status.st_mtime)
    return size, written
