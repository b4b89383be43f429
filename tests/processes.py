"""Finds the children of a process, and waits for their end."""

from pathlib import Path

import pytest

from tests.waiting import wait_until

linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")


def children(pid: int | str = "self") -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def assert_gone(*pids: int, seconds: float = 20) -> None:
    """Check that these processes end within the given time."""
    folders = [Path(f"/proc/{pid}") for pid in pids]
    wait_until(lambda: not any(folder.exists() for folder in folders), "their end", seconds)
