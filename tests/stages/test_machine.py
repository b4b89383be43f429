import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from stages.machine import cores, free_memory

GB = 10**9


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def group(prefix: str, limit: int | str, used: int, cached: int) -> dict[str, str]:
    return {
        f"{prefix}/memory.max": f"{limit}\n",
        f"{prefix}/memory.current": f"{used}\n",
        f"{prefix}/memory.stat": f"anon 5\ninactive_file {cached}\n",
    }


AVAILABLE = 16 * GB
INNER = {"proc/self/cgroup": "0::/service/inner\n"}
BASE, OUTER = "sys/fs/cgroup", "sys/fs/cgroup/service"


@pytest.mark.parametrize(
    ("groups", "wanted"),
    [
        ({}, AVAILABLE),
        (INNER | group(f"{OUTER}/inner", 4 * GB, 3 * GB, GB), 2 * GB),
        # Limits of parent groups count, and the one that a container sees at the root.
        (INNER | group(OUTER, 3 * GB, 2 * GB, 0) | group(f"{OUTER}/inner", "max", GB, 0), GB),
        (INNER | group(BASE, 5 * GB, 2 * GB, 0), 3 * GB),
        (
            {
                "proc/self/cgroup": "5:cpu:/\n4:memory:/docker/1\n",
                f"{BASE}/memory/memory.limit_in_bytes": f"{3 * GB}\n",
                f"{BASE}/memory/memory.usage_in_bytes": f"{2 * GB}\n",
                f"{BASE}/memory/memory.stat": f"total_inactive_file {GB}\n",
            },
            2 * GB,
        ),
    ],
    ids=["no groups", "limit", "limit above", "container", "version 1"],
)
def test_free_memory(tmp_path, monkeypatch, groups, wanted):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=AVAILABLE))
    assert free_memory(write(tmp_path, groups)) == wanted


def test_this_machine():
    assert 0 < free_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 1 <= cores() <= (os.cpu_count() or 1)
