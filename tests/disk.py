"""Mounts a small disk that is soon full."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """Mount a tmpfs below ``folder`` with ``options``; skip the test if that is not allowed."""
    mount, disk = shutil.which("mount"), folder / "disk"
    disk.mkdir()
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    if subprocess.run([mount, "-t", "tmpfs", "-o", options, "tmpfs", disk]).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        yield disk
    finally:
        # Lazily, because memory mapped by a failed write keeps the disk busy until it is collected.
        subprocess.run(["umount", "--lazy", disk], check=True)
