"""Find the cores and memory that are available; neither affects results."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(root: Path = Path("/")) -> int:
    """Return the bytes of RAM still available to this process, within its cgroups' limits."""
    in_system: int = psutil.virtual_memory().available
    return min([in_system, *_free_in_groups(root)])


def _free_in_groups(root: Path) -> Iterator[int]:
    """Yield the free memory of each cgroup with a limit, of version 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, limit, usage, cached = "sys/fs/cgroup", "max", "current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit, usage = "sys/fs/cgroup/memory", "limit_in_bytes", "usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        # In a container the path may be the host's, and only the base exists.
        inner = Path(path.lstrip("/"))
        for group in {root / base / part for part in (inner, *inner.parents)}:
            try:
                most = (group / f"memory.{limit}").read_text(encoding="utf-8").strip()
                used = int((group / f"memory.{usage}").read_text(encoding="utf-8"))
                # Cached files count as used, but can be evicted.
                used -= _fields(group / "memory.stat").get(cached, 0)
            except OSError:
                continue
            if most != "max":
                yield int(most) - used


def _fields(path: Path) -> dict[str, int]:
    """Parse lines of a name and a number."""
    words = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    return {word[0]: int(word[1]) for word in words if len(word) > 1}
