"""A disk that is soon full, and processes that can be killed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

#: They start at once, because torch is imported in their common parent.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch"])


@contextlib.contextmanager
def small_disk(tmp_path: Path, options: str) -> Iterator[Path]:
    """A tmpfs mounted with ``options``; the test is skipped where that is not allowed."""
    mount, disk = shutil.which("mount"), tmp_path / "disk"
    disk.mkdir()
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    if subprocess.run([mount, "-t", "tmpfs", "-o", options, "tmpfs", disk]).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)
