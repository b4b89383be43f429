"""Bytes and ages for people, and what a folder takes."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from rich.filesize import decimal

from models.errors import InputError

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0}


def show_bytes(count: float) -> str:
    """As ``1.4 GB``, where GB are 10^9 bytes."""
    return decimal(round(count))


def show_age(seconds: float) -> str:
    """In whole days, hours or minutes, of which the largest that is not 0."""
    for unit, size in _UNITS.items():
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return "less than a minute"


def parse_age(text: str) -> float:
    """Seconds of ``7d``, ``12h`` or ``30m``.

    Raises:
        InputError: it is something else.
    """
    match = re.fullmatch(r"(\d{1,6})([dhm])", text)
    if match is None:
        raise InputError(
            f"--older-than is {text!r}, expected a number of days, hours or minutes, such as 7d,"
            " 12h or 30m"
        )
    return int(match[1]) * _UNITS[match[2]]


def files_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Every file of a folder, at any depth; symbolic links are not followed, and are none."""
    folders = [str(folder)]
    while folders:
        # It may go away meanwhile: the machine is in use.
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield entry


def bytes_and_time(folder: Path) -> tuple[int, float]:
    """What the files of a folder take, and when the last of them was written (0 without one)."""
    size, written = 0, 0.0
    for entry in files_below(folder):
        with contextlib.suppress(OSError):
            status = entry.stat(follow_symlinks=False)
            size, written = size + status.st_size, max(written, status.st_mtime)
    return size, written
